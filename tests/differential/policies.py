"""Policies at random, over few callers, methods and segments, so that rules meet each other often."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from tests.differential import tokens
from tests.differential.callers import CALLERS, ELSEWHERE
from tests.differential.conditions import About, Written, written
from tests.differential.naive import Reading

from vestibule.policy import Condition, Effect, IdentityMatch, Mode, PathPattern, PortPolicy, Rule
from vestibule.spiffe import SpiffeId

_ROOT: Final = "spiffe://example.org"
LABELS: Final = {
    CALLERS[0]: {"env": "prod", "team": "shop"},
    CALLERS[3]: {"env": "test"},
    CALLERS[5]: {"env": "prod", "tier": "1"},
}
OWN_LABELS: Final = {"tier": "1", "env": "prod"}
_ABOVE: Final = (
    *(SpiffeId.parse(f"{_ROOT}{path}") for path in ("", "/ns", "/ns/prod", "/ns/prod/sa/web")),
    SpiffeId.parse(f"spiffe://{ELSEWHERE}"),
)
METHODS: Final = ("GET", "POST", "PUT", "DELETE")
SEGMENTS: Final = ("v1", "a", "b", "x.y", "a-b")
_PATTERN_SEGMENTS: Final = (*SEGMENTS, "{id}", "{other}")
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Sample:
    """A policy, what its conditions say, and what it was made of."""

    policy: PortPolicy
    readings: dict[str, Reading] = field(default_factory=dict)
    operators: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By rule."""


def samples(count: int, random: Random, now: datetime, *, central: bool = False) -> list[Sample]:
    """``central``: with conditions that only a decision service can judge."""
    return [_Maker(random, now, number, central=central).sample() for number in range(count)]


class _Maker:
    def __init__(self, random: Random, now: datetime, number: int, *, central: bool) -> None:
        self._random = random
        self._now = now.astimezone(UTC)
        self._service = f"app{number}"
        self._about = About(self._service, "prod", OWN_LABELS, LABELS, CALLERS, central)
        self._with_tokens = random.random() < 0.4
        self._readings: dict[str, Reading] = {}
        self._operators: dict[str, tuple[str, ...]] = {}

    def sample(self) -> Sample:
        few = self._random.randint
        deny = tuple(self._rule(f"deny{each}", Effect.DENY) for each in range(few(0, 4)))
        allow = tuple(self._rule(f"allow{each}", Effect.ALLOW) for each in range(few(1, 12)))
        emergencies = tuple(self._emergency(each) for each in range(few(0, 1) * few(0, 2)))
        policy = PortPolicy(
            service=self._service,
            port="http",
            deny=deny,
            allow=allow,
            emergencies=emergencies,
            environment="prod",
            labels=OWN_LABELS,
            callers=LABELS,
        )
        return Sample(policy, self._readings, self._operators)

    def _rule(self, name: str, effect: Effect) -> Rule:
        full = f"{self._service}/{name}"
        random = self._random
        anyone = random.random() < 0.12
        condition = written(random, self._about) if random.random() < 0.35 else None
        operators = self._shape(anyone, condition)
        if condition is not None:
            self._readings[condition.text] = condition.reading
        expires = self._end(0.1)
        token = tokens.demand(random) if self._with_tokens and random.random() < 0.4 else None
        operators += tokens.operators(token) if token is not None else ()
        rule = Rule(
            name=full,
            callers=() if anyone else tuple(self._match() for _ in range(random.randint(1, 3))),
            port="http",
            methods=frozenset(random.sample(METHODS, random.randint(1, 2)) if random.random() < 0.5 else ()),
            paths=tuple(self._pattern() for _ in range(random.choice((0, 1, 1, 2, 3)))),
            effect=effect,
            mode=Mode.SHADOW if random.random() < 0.2 else Mode.ENFORCE,
            anyone=anyone,
            when=None if condition is None else Condition.parse(condition.text),
            token=token,
            expires=expires,
        )
        self._operators[full] = (*operators, *_shape_of(rule, self._now))
        return rule

    def _shape(self, anyone: bool, condition: Written | None) -> tuple[str, ...]:
        return (*(("anyone",) if anyone else ()), *(condition.operators if condition else ()))

    def _emergency(self, number: int) -> Rule:
        name = f"break-glass/{self._service}-{number}"
        rule = Rule(
            name=name,
            callers=(replace(self._match(), until=None),),
            port=self._random.choice(("http", None)),
            methods=frozenset({self._random.choice(METHODS)} if self._random.random() < 0.3 else ()),
            paths=(self._pattern(),) if self._random.random() < 0.7 else (),
            expires=self._now + self._random.choice((_DAY, _DAY, _DAY, -_DAY)),
        )
        self._operators[name] = ("break-glass", *_shape_of(rule, self._now))
        return rule

    def _match(self) -> IdentityMatch:
        below = self._random.random() < 0.4
        whom = self._random.choice(_ABOVE if below else CALLERS)
        return IdentityMatch(id=whom, below=below, until=self._end(0.1))

    def _end(self, share: float) -> datetime | None:
        if self._random.random() >= share:
            return None
        return self._now + self._random.choice((-_DAY, _DAY))

    def _pattern(self) -> PathPattern:
        parts = [self._random.choice(_PATTERN_SEGMENTS) for _ in range(self._random.randint(0, 3))]
        end = self._random.choice(("", "", "", "/", "/**", "/**"))
        return PathPattern.parse("/" + "/".join(parts) + end if parts else (end or "/"))


def _shape_of(rule: Rule, now: datetime) -> tuple[str, ...]:
    found = [f"{rule.mode.value} {rule.effect.value}", "some methods" if rule.methods else "any method"]
    found += ["any path"] if not rule.paths else []
    for pattern in rule.paths:
        kind = "path" if pattern.is_literal else "template"
        found.append(f"{kind} and below" if pattern.below else kind)
    found += ["callers below" if match.below else "one caller" for match in rule.callers]
    for what, end in (("rule", rule.expires), *(("member", match.until) for match in rule.callers)):
        if end is not None:
            found.append(f"{what} that ended" if end <= now else f"{what} that will end")
    return tuple(dict.fromkeys(found))
