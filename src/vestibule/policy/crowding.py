"""Rules that would have to be asked one after the other about one call, since no index can tell them apart.

Such are rules with conditions, tokens, ends, and paths with ``{segment}``, where they speak of the same caller in the
same place.  A proxy that asked a thousand of them would be slow for everybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from vestibule.policy.paths import PathPattern
from vestibule.policy.rules import Effect, Rule

MOST_IN_A_ROW: Final = 100
"""So much, and no more, may a call cost."""

_ANYONE: Final = ""
_SCHEME: Final = len("spiffe://")


def crowded(rules: Iterable[Rule]) -> Rule | None:
    """A rule of a port with more than ``MOST_IN_A_ROW`` others beside it, if there is one."""
    rules = tuple(rules)
    for effect in Effect:
        seen: defaultdict[tuple[str, str], list[Rule]] = defaultdict(list)
        for rule in rules:
            if rule.effect is effect:
                for place, certain in _places(rule):
                    if not certain or _is_uncertain(rule):
                        for key in _keys(rule):
                            seen[place, key].append(rule)
        for place, key in seen:
            if sum(len(seen.get(each, ())) for each in _wider(place, key)) > MOST_IN_A_ROW:
                return seen[place, key][-1]
    return None


def _is_uncertain(rule: Rule) -> bool:
    asked = (rule.when, rule.token, rule.mcp, rule.expires)
    return any(each is not None for each in asked) or any(match.until is not None for match in rule.callers)


def _places(rule: Rule) -> Iterator[tuple[str, bool]]:
    """Where a rule speaks of calls, and whether of all calls there."""
    if not rule.paths:
        yield "/", True
    found: dict[str, bool] = {}
    for pattern in rule.paths:
        place = _place(pattern)
        found[place] = found.get(place, False) or pattern.is_literal
    yield from found.items()


def _place(pattern: PathPattern) -> str:
    """A beginning, with a slash; or a whole path, without."""
    whole = pattern.is_literal and not pattern.below
    return pattern.literal if whole else f"{pattern.literal}/"


def _keys(rule: Rule) -> Iterator[str]:
    if rule.anyone:
        yield _ANYONE
    for match in rule.callers:
        yield f"{match.id}/" if match.below else str(match.id)


def _wider(place: str, key: str) -> Iterator[tuple[str, str]]:
    for where in _beginnings(place, 0):
        for who in (*_beginnings(key, _SCHEME), *((_ANYONE,) if key else ())):
            yield where, who


def _beginnings(text: str, start: int) -> Iterator[str]:
    yield text
    end = len(text) - 1 if text.endswith("/") else len(text)
    while (end := text.rfind("/", start, end)) >= 0:
        yield text[: end + 1]
