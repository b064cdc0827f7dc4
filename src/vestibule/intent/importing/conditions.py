"""Parts of Istio's rules that only a condition says: ``when``, ``not…``, and patterns that are no paths of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from vestibule.errors import VestibuleError, Where
from vestibule.intent.importing import patterns
from vestibule.intent.importing.documents import Part
from vestibule.intent.importing.result import Result
from vestibule.policy import Condition
from vestibule.policy.vocabulary import MCP, TOKEN

_HEADER = "request.headers["
_BELOW = "/**"


class Inexpressible(Exception):  # noqa: N818 - it reads as what it says
    """A part of a rule has no counterpart."""

    def __init__(self, what: str, where: Where) -> None:
        super().__init__(what)
        self.where = where


def whens(part: Part, result: Result) -> list[str]:
    """The items of ``when``, all of which must hold.  Raises: Inexpressible."""
    return [said for item in part.each("when") for said in _when(item, result)]


def joined(conditions: Sequence[str], where: Where) -> str:
    """All of them as one.  Raises: Inexpressible."""
    text = conditions[0] if len(conditions) == 1 else " && ".join(f"({each})" for each in conditions)
    try:
        Condition.parse(text, without=TOKEN | MCP)
    except VestibuleError as error:
        raise Inexpressible(f"{error.message}", where) from error
    return text


def path_is(said: Sequence[Part]) -> str:
    """Whether the path is one of these: exact, or with ``*`` at one of its ends.  Raises: Inexpressible."""
    for each in said:
        if "{" in each.said or not each.said.isascii():
            raise Inexpressible(f"the path {each.said[:80]!r} cannot be expressed", each.where)
    return _any(_fits("request.path", each.said, each.where) for each in said)


def method_is(said: Iterable[str]) -> str:
    """Whether the method is one of these."""
    return f"request.method in [{', '.join(map(json.dumps, said))}]"


def caller_is(source: Part, key: str, kind: str, result: Result) -> str:
    """Whether the caller is one of ``principals`` or ``namespaces``.  Raises: Inexpressible."""
    make = {"principals": patterns.caller, "namespaces": patterns.namespace}[kind]
    return _any(_caller(value, make, source.where, result) for value in source.texts(key))


def _when(item: Part, result: Result) -> Iterable[str]:
    key = item.text("key")
    if key.startswith(_HEADER) and key.endswith("]"):
        name = json.dumps(key[len(_HEADER) : -1].lower())
        held = f"{name} in {_HEADER[:-1]}"

        def one(value: str) -> str:
            return _fits(f"{_HEADER}{name}]", value, item.where)
    elif key in ("source.principal", "source.namespace"):
        make = patterns.caller if key == "source.principal" else patterns.namespace
        held = ""

        def one(value: str) -> str:
            return _caller(value, make, item.where, result)
    else:
        raise Inexpressible(f"a condition on {key[:80]!r} cannot be expressed", item.where)
    wanted, unwanted = item.texts("values"), item.texts("notValues")
    if not wanted and not unwanted:
        raise Inexpressible(f"a condition on {key[:80]!r} without values", item.where)
    if wanted:
        yield _guarded(held, _any(map(one, wanted)))
    if unwanted:
        yield f"!({_guarded(held, _any(map(one, unwanted)))})"


def _guarded(held: str, said: str) -> str:
    """Without what it asks for, Istio's pattern does not match; ours would be an error."""
    if not held or said == "true":
        return held or said
    return f"{held} && {said}"


def _fits(what: str, pattern: str, where: Where) -> str:
    if pattern == "*":
        return "true"
    if "*" in pattern.strip("*") or (pattern.startswith("*") and pattern.endswith("*")):
        raise Inexpressible(f"the pattern {pattern[:80]!r} cannot be expressed", where)
    if pattern.endswith("*"):
        return f"{what}.startsWith({json.dumps(pattern[:-1])})"
    if pattern.startswith("*"):
        return f"{what}.endsWith({json.dumps(pattern[1:])})"
    return f"{what} == {json.dumps(pattern)}"


def _caller(value: str, make: Callable[[str, Result], str | None], where: Where, result: Result) -> str:
    found = "" if value == "*" else make(value, result)
    if found is None:
        raise Inexpressible(f"the pattern {value[:80]!r} cannot be expressed", where)
    if not found:
        return "true"
    base = found.removesuffix(_BELOW)
    exact = f"caller.id == {json.dumps(base)}"
    return exact if base == found else f"({exact} || caller.id.startsWith({json.dumps(base + '/')}))"


def _any(said: Iterable[str]) -> str:
    found = list(dict.fromkeys(said))
    if "true" in found:
        return "true"
    return found[0] if len(found) == 1 else f"({' || '.join(found)})"
