"""Conditions that nobody wrote: made at random, from what the vocabulary has, with a good part of errors in them."""

from __future__ import annotations

import random
from collections.abc import Iterator

from vestibule.errors import VestibuleError
from vestibule.policy import Condition

_TEXTS = (
    "request.method",
    "request.path",
    "request.host",
    "request.headers['x-tenant']",
    "request.headers.x_none",
    "request.headers['x-level']",
    "token.subject",
    "token.issuer",
    "token.client_id",
    "token.claims.dept",
    "token.claims.missing",
    "token.claims.level",
    "mcp.method",
    "mcp.target",
    "caller.labels.team",
    "caller.labels['zone']",
    "service.name",
    "service.labels.tier",
    "environment",
    "'GET'",
    "'t1'",
    "'fin'",
    "''",
    "'pay'",
)
_NUMBERS = (
    "1",
    "3",
    "size(request.path)",
    "int(request.headers['x-level'])",
    "size(caller.labels)",
    "(7 / size(request.headers['x-tenant']))",
    "request.time.getFullYear('UTC')",
    "size(service.name)",
)
_TRUTHS = (
    "true",
    "false",
    "token.claims.admin",
    "has(token.claims.dept)",
    "has(caller.labels.team)",
    "'x-tenant' in request.headers",
    "has(request.headers.x_none)",
    "'charge:write' in token.scopes",
    "'payments' in token.audiences",
    "'team' in caller.labels",
    "request.time > timestamp('2020-01-01T00:00:00Z')",
    "1 / 0 == 1",
    "token.claims.groups[2] == 7",
    "caller.trust_domain == 'example.org'",
)


def some_conditions(count: int, chance: random.Random) -> Iterator[Condition]:
    """As many conditions as are asked for, all of which the checker lets through."""
    while count:
        try:
            condition = Condition.parse(truth(chance, chance.randint(1, 4)))
        except VestibuleError:
            continue
        count -= 1
        yield condition


def truth(chance: random.Random, depth: int) -> str:
    """An expression that is true or false, or an error, or refused."""
    if depth == 0:
        return chance.choice(_TRUTHS)
    less = depth - 1
    match chance.randrange(9):
        case 0 | 1:
            return f"({truth(chance, less)} && {truth(chance, less)})"
        case 2 | 3:
            return f"({truth(chance, less)} || {truth(chance, less)})"
        case 4:
            return f"!{truth(chance, less)}"
        case 5:
            return f"({truth(chance, less)} ? {truth(chance, less)} : {truth(chance, less)})"
        case 6:
            return (
                f"({_number(chance)} {chance.choice(('<', '<=', '>', '>=', '==', '!='))} {_number(chance)})"
            )
        case 7:
            method = chance.choice(("startsWith", "endsWith", "contains"))
            return f"{_text(chance)}.{method}({_text(chance)})"
        case _:
            if chance.random() < 0.2:
                return f"{_text(chance)}.matches('{chance.choice(('^t', 'T$', '^/v1/.+$', ''))}')"
            if chance.random() < 0.3:
                return f"({_text(chance)} in [{_text(chance)}, {_text(chance)}])"
            return f"({_text(chance)} {chance.choice(('==', '!=', '<'))} {_text(chance)})"


def _text(chance: random.Random) -> str:
    return chance.choice(_TEXTS)


def _number(chance: random.Random) -> str:
    return chance.choice(_NUMBERS)
