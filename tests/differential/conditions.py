"""Conditions at random, each with a reading in Python that shares nothing with CEL."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from tests.differential.naive import Reading

from vestibule.policy import Call
from vestibule.spiffe import SpiffeId

HEADERS: Final = {
    "x-tenant": ("a", "b", "acme", "acme-2", ""),
    "x-level": ("1", "7", "12", "x"),
}
"""What calls may carry."""

Labels = Mapping[SpiffeId, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Written:
    """A condition, what it says of a call, and the operators in it."""

    text: str
    reading: Reading
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class About:
    """What is known besides the call."""

    service: str
    environment: str
    labels: Mapping[str, str]
    callers: Labels
    ids: tuple[SpiffeId, ...]
    central: bool = False
    """Whether a decision service is asked, who knows more than proxies."""


def written(random: Random, about: About) -> Written:
    """A condition that can be true and false of calls, more often than not."""
    return _Writer(random, about).condition(random.choice((0, 0, 1, 1, 2, 3)))


class _Writer:
    def __init__(self, random: Random, about: About) -> None:
        self._random = random
        self._about = about

    def condition(self, depth: int) -> Written:
        if depth == 0:
            atoms = (*_ATOMS, *_CENTRAL_ATOMS) if self._about.central else _ATOMS
            return self._random.choice(atoms)(self)
        return self._random.choice(_JOINED)(self, depth - 1)

    # What is compared

    def _text(self) -> Written:
        return self._random.choice(_TEXTS)(self)

    def tenant(self) -> Written:
        return _made("request.headers['x-tenant']", lambda call: call.headers["x-tenant"], "headers[]")

    def method(self) -> Written:
        return _made("request.method", lambda call: call.method, "request.method")

    def path(self) -> Written:
        return _made("request.path", lambda call: str(call.path).partition("?")[0], "request.path")

    def host(self) -> Written:
        return _made("request.host", lambda call: call.host, "request.host")

    def caller(self) -> Written:
        return _made("caller.id", lambda call: str(call.caller), "caller.id")

    def environment(self) -> Written:
        return _made("environment", lambda _: self._about.environment, "environment")

    def service(self) -> Written:
        return _made("service.name", lambda _: self._about.service, "service.name")

    def label(self) -> Written:
        name = self._random.choice(("env", "team", "tier"))
        callers = self._about.callers
        written = self._random.choice((f"caller.labels.{name}", f"caller.labels['{name}']"))
        return _made(written, lambda call: callers.get(call.caller, {})[name], "caller.labels")

    def own_label(self) -> Written:
        name = self._random.choice(("env", "tier", "missing"))
        return _made(f"service.labels['{name}']", lambda _: self._about.labels[name], "service.labels")

    # What is asked

    def _value(self) -> str:
        known = ("a", "acme", "ac", "prod", "test", "1", "GET", "PUT", "/v1", "/a", "app", "shop", "")
        return self._random.choice((*known, *map(str, self._about.ids)))

    def equal(self) -> Written:
        text, value = self._text(), self._value()
        operator = self._random.choice(("==", "!="))
        return _of(
            f"{text.text} {operator} {value!r}",
            text,
            lambda got: (got == value) is (operator == "=="),
            operator,
        )

    def member(self) -> Written:
        text, values = self._text(), [self._value() for _ in range(3)]
        return _of(f"{text.text} in {values!r}", text, lambda got: got in values, "in list")

    def affix(self) -> Written:
        text, value = self._text(), self._value()
        function, reading = self._random.choice(
            (
                ("startsWith", str.startswith),
                ("endsWith", str.endswith),
                ("contains", str.__contains__),
            )
        )
        return _of(f"{text.text}.{function}({value!r})", text, lambda got: reading(got, value), function)

    def matches(self) -> Written:
        text, pattern = self._text(), self._random.choice(("^a", "me$", "^[a-z]+$", "prod|PUT", "-[0-9]"))
        return _of(
            f"{text.text}.matches({pattern!r})",
            text,
            lambda got: re.search(pattern.replace("$", r"\Z"), got) is not None,
            "matches",
        )

    def size(self) -> Written:
        text, most = self._text(), self._random.randint(0, 6)
        written = self._random.choice((f"size({text.text})", f"{text.text}.size()"))
        return _of(f"{written} <= {most}", text, lambda got: len(got) <= most, "size", "<=")

    def number(self) -> Written:
        least = self._random.choice((1, 5, 7, 12))
        operator, low, same = self._random.choice(
            ((">", False, False), (">=", False, True), ("<", True, False), ("<=", True, True))
        )

        def reading(call: Call) -> bool:
            got = int(call.headers["x-level"])
            return same if got == least else (got < least) is low

        return _made(f"int(request.headers['x-level']) {operator} {least}", reading, "int()", operator)

    def present(self) -> Written:
        name = self._random.choice((*HEADERS, "x-none"))
        return _made(f"'{name}' in request.headers", lambda call: name in call.headers, "in map")

    def labelled(self) -> Written:
        name, callers = self._random.choice(("env", "team", "tier")), self._about.callers
        text = self._random.choice((f"'{name}' in caller.labels", f"has(caller.labels.{name})"))
        operator = "has()" if text.startswith("has") else "in map"
        return _made(text, lambda call: name in callers.get(call.caller, {}), operator, "caller.labels")

    def domain(self) -> Written:
        name = self._random.choice(("example.org", "other.example"))
        operator = self._random.choice(("==", "!="))
        return _made(
            f"caller.trust_domain {operator} '{name}'",
            lambda call: (str(call.caller).split("/")[2] == name) is (operator == "=="),
            "trust_domain",
        )

    def time(self) -> Written:
        end = self._random.choice((datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)))
        return _made(
            f"request.time < timestamp('{end:%Y-%m-%dT%H:%M:%SZ}')",
            lambda call: _some(call.time) < end,
            "request.time",
        )

    # What only a decision service knows

    def amount(self) -> Written:
        most = self._random.choice((5, 10, 50))
        operator = self._random.choice(("<", ">="))

        def reading(call: Call) -> bool:
            got = _member(call.body, "amount")
            if not isinstance(got, int):
                raise TypeError
            return (got < most) is (operator == "<")

        return _made(f"request.body.amount {operator} {most}", reading, "request.body", operator)

    def kind(self) -> Written:
        value = self._random.choice(("a", "refund", ""))
        return _made(
            f"request.body.kind == {value!r}",
            lambda call: _member(call.body, "kind") == value,
            "request.body",
            "==",
        )

    def has_kind(self) -> Written:
        def reading(call: Call) -> bool:
            if not isinstance(call.body, dict):
                raise TypeError
            return "kind" in call.body

        return _made("has(request.body.kind)", reading, "request.body", "has()")

    def among_items(self) -> Written:
        value = self._random.choice(("a", "acme", "b"))

        def reading(call: Call) -> bool:
            got = _member(call.body, "items")
            return value in got

        return _made(
            f"request.body.items.exists(each, each == {value!r})", reading, "request.body", "exists()"
        )

    def attribute(self) -> Written:
        name = self._random.choice(("plan", "region"))
        if self._random.random() < 0.5:
            return _made(
                f"{name!r} in attributes", lambda call: name in call.attributes, "attributes", "in map"
            )
        return _made(
            f"attributes.{name} == 'gold'", lambda call: call.attributes[name] == "gold", "attributes"
        )

    # How they are joined

    def both(self, depth: int) -> Written:
        return self._logical("&&", decided=False, depth=depth)

    def either(self, depth: int) -> Written:
        return self._logical("||", decided=True, depth=depth)

    def _logical(self, operator: str, *, decided: bool, depth: int) -> Written:
        """A side that decides outweighs an error of the other (CEL, section on logical operators)."""
        one, other = self.condition(depth), self.condition(depth)

        def reading(call: Call) -> bool:
            failed: Exception | None = None
            for side in (one.reading, other.reading):
                try:
                    if side(call) is decided:
                        return decided
                except (KeyError, ValueError, TypeError) as error:
                    failed = error
            if failed is not None:
                raise failed
            return not decided

        text = f"({one.text}) {operator} ({other.text})"
        return Written(text, reading, (*one.operators, *other.operators, operator))

    def negated(self, depth: int) -> Written:
        one = self.condition(depth)
        return Written(f"!({one.text})", lambda call: not one.reading(call), (*one.operators, "!"))

    def chosen(self, depth: int) -> Written:
        asked, one, other = (self.condition(depth) for _ in range(3))
        return Written(
            f"({asked.text}) ? ({one.text}) : ({other.text})",
            lambda call: one.reading(call) if asked.reading(call) else other.reading(call),
            (*asked.operators, *one.operators, *other.operators, "?:"),
        )


def _made(text: str, reading: Callable[[Call], Any], *operators: str) -> Written:
    return Written(text, reading, operators)


def _of(text: str, of: Written, reading: Callable[[Any], bool], *operators: str) -> Written:
    return Written(text, lambda call: reading(of.reading(call)), (*of.operators, *operators))


def _member(body: Any, name: str) -> Any:
    if not isinstance(body, dict):
        raise TypeError
    return body[name]


def _some(time: datetime | None) -> datetime:
    assert time is not None
    return time


_TEXTS: Final[tuple[Callable[[_Writer], Written], ...]] = (
    _Writer.tenant,
    _Writer.tenant,
    _Writer.method,
    _Writer.path,
    _Writer.host,
    _Writer.caller,
    _Writer.environment,
    _Writer.service,
    _Writer.label,
    _Writer.label,
    _Writer.own_label,
)
_ATOMS: Final[tuple[Callable[[_Writer], Written], ...]] = (
    _Writer.equal,
    _Writer.equal,
    _Writer.member,
    _Writer.affix,
    _Writer.affix,
    _Writer.matches,
    _Writer.size,
    _Writer.number,
    _Writer.present,
    _Writer.labelled,
    _Writer.domain,
    _Writer.time,
)
_CENTRAL_ATOMS: Final[tuple[Callable[[_Writer], Written], ...]] = (
    _Writer.amount,
    _Writer.amount,
    _Writer.amount,
    _Writer.kind,
    _Writer.kind,
    _Writer.has_kind,
    _Writer.among_items,
    _Writer.among_items,
    _Writer.attribute,
)
_JOINED: Final[tuple[Callable[[_Writer, int], Written], ...]] = (
    _Writer.both,
    _Writer.either,
    _Writer.negated,
    _Writer.chosen,
)
