"""How far a workload's selectors are from those that an entry wants, and what it has instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from vestibule.spiffe.selectors import Selector

NEAREST: Final = 3
"""So many of a workload's own values are named beside one that it lacks."""
_COMPARED: Final = 200


@dataclass(frozen=True, slots=True)
class Missing:
    """A selector that is wanted and not there; ``found`` is what is there of its kind, the likest first."""

    expected: Selector
    found: tuple[Selector, ...]


def missing(wanted: Iterable[Selector], attested: frozenset[Selector]) -> tuple[Missing, ...]:
    """What of ``wanted`` is not in ``attested``."""
    return tuple(
        Missing(each, nearest(each, attested)) for each in sorted(set(wanted)) if each not in attested
    )


def nearest(wanted: Selector, attested: Iterable[Selector]) -> tuple[Selector, ...]:
    """Selectors of the same kind: equal up to a colon (``unix:uid:``), as many parts of it as any has."""
    shared = {each: _shared(wanted, each) for each in attested if each.type == wanted.type}
    most = max(shared.values(), default=0)
    if not most:
        return ()
    alike = [each for each, number in shared.items() if number == most]
    return tuple(sorted(alike, key=lambda each: (-_likeness(wanted, each), each))[:NEAREST])


def _shared(one: Selector, other: Selector) -> int:
    """How many parts of the key they begin with in common; the last part is the value, and no key."""
    keys = zip(one.value.split(":")[:-1], other.value.split(":")[:-1], strict=False)
    number = 0
    for mine, theirs in keys:
        if mine != theirs:
            break
        number += 1
    return number


def _likeness(one: Selector, other: Selector) -> float:
    return SequenceMatcher(None, one.value[:_COMPARED], other.value[:_COMPARED], autojunk=False).ratio()
