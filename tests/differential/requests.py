"""Calls at random: most are a rule's own, or one edit away from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from tests.differential.bodies import BODIES
from tests.differential.callers import CALLERS
from tests.differential.conditions import HEADERS
from tests.differential.policies import METHODS, SEGMENTS, Sample
from tests.differential.tokens import Token, some, wants_tokens

from vestibule.policy import PathPattern, Rule
from vestibule.spiffe import SpiffeId

_ODD: Final = (
    "",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    "a;x",
    "a%2fb",
    "a\\b",
    "%",
    "%4",
    "ä",
    "%61",
    "%7E",
    "A",
    "a%20b",
    "a%00",
)
_QUERIES: Final = ("", "", "", "?", "?x=1", "?/v1/a", "?a=/../b;c", "?x=%2f")
_ODD_BYTES: Final = '\x01\x7f;#\\"<>|^`{}[]ä%/.*+~'


@dataclass(frozen=True, slots=True)
class Ask:
    """One request as it goes over the wire.  ``edits`` is how far it is from what some rule speaks of, if known."""

    caller: SpiffeId
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    edits: int | None = None
    token: Token | None = None
    body: bytes = b""


def asks(sample: Sample, count: int, random: Random) -> list[Ask]:
    found = [_ask(sample, random) for _ in range(count)]
    policy = sample.policy
    if any(rule.when and "request.body" in rule.when.uses for rule in (*policy.deny, *policy.allow)):
        found = [replace(ask, body=random.choice(list(BODIES))) for ask in found]
    if not wants_tokens(sample.policy):
        return found
    known = some(random.randint(0, 3))
    return [replace(ask, token=random.choice(known)) if random.random() < 0.8 else ask for ask in found]


def _ask(sample: Sample, random: Random) -> Ask:
    if random.random() < 0.15:
        return _anything(random)
    policy = sample.policy
    rule = random.choice((*policy.deny, *policy.allow, *policy.emergencies))
    ask = _of(rule, random)
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        ask = _edited(ask, random)
    return ask


def _anything(random: Random) -> Ask:
    parts = [random.choice(SEGMENTS) for _ in range(random.randint(0, 4))]
    parts += [random.choice((*_ODD, "a")) for _ in range(random.choice((0, 0, 1, 2)))]
    path = "/" + "/".join(parts) + random.choice(("", "", "/")) + random.choice(_QUERIES)
    return Ask(random.choice(CALLERS), random.choice(METHODS), path, _headers(random))


def _of(rule: Rule, random: Random) -> Ask:
    """A call that the rule speaks of, as far as caller, method and path go."""
    callers = [each for each in CALLERS if rule.calls_from(each)] or list(CALLERS)
    method = random.choice(sorted(rule.methods) or METHODS)
    path = _path_of(random.choice(rule.paths), random) if rule.paths else "/a"
    return Ask(random.choice(callers), method, path, _headers(random), edits=0)


def _path_of(pattern: PathPattern, random: Random) -> str:
    parts = [each if isinstance(each, str) else random.choice(SEGMENTS) for each in pattern.segments]
    if pattern.below:
        parts += [random.choice(SEGMENTS) for _ in range(random.randint(0, 2))]
    return "".join(f"/{each}" for each in parts) or "/"


def _headers(random: Random) -> dict[str, str]:
    return {name: random.choice(values) for name, values in HEADERS.items() if random.random() < 0.6}


def _edited(ask: Ask, random: Random) -> Ask:
    edit = random.choice(_EDITS)
    return replace(edit(ask, random), edits=None if ask.edits is None else ask.edits + 1)


def _other_caller(ask: Ask, random: Random) -> Ask:
    return replace(ask, caller=random.choice(CALLERS))


def _other_method(ask: Ask, random: Random) -> Ask:
    return replace(ask, method=random.choice(METHODS))


def _one_byte(ask: Ask, random: Random) -> Ask:
    place = random.randint(1, len(ask.path))
    byte = random.choice(_ODD_BYTES + "abv1")
    rest = random.choice((place, place + 1))
    return replace(ask, path=ask.path[:place] + byte + ask.path[rest:])


def _without_one(ask: Ask, random: Random) -> Ask:
    place = random.randint(1, len(ask.path))
    return replace(ask, path=ask.path[: place - 1] + ask.path[place:] if place > 1 else ask.path)


def _one_segment(ask: Ask, random: Random) -> Ask:
    path, mark, query = ask.path.partition("?")
    parts = path.split("/")
    parts.insert(random.randint(1, len(parts)), random.choice((*SEGMENTS, *_ODD)))
    return replace(ask, path="/".join(parts) + mark + query)


def _a_slash(ask: Ask, random: Random) -> Ask:
    del random
    return replace(ask, path=ask.path + "/")


def _a_query(ask: Ask, random: Random) -> Ask:
    return replace(ask, path=ask.path + random.choice(_QUERIES[3:]))


def _other_case(ask: Ask, random: Random) -> Ask:
    del random
    return replace(ask, path=ask.path.swapcase())


def _other_header(ask: Ask, random: Random) -> Ask:
    name = random.choice(list(HEADERS))
    return replace(ask, headers={**ask.headers, name: random.choice(HEADERS[name])})


_EDITS: Final[tuple[Callable[[Ask, Random], Ask], ...]] = (
    _other_caller,
    _other_method,
    _one_byte,
    _one_byte,
    _without_one,
    _one_segment,
    _a_slash,
    _a_query,
    _other_case,
    _other_header,
)
