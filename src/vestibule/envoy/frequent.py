"""Callers of whom very many places speak: for them, the caller is looked at first, then the method, and the path last.

Elsewhere the path comes first, since most callers are named in few places.  But then every place has matchers of its
own for caller and method, which a proxy keeps, kilobytes a rule, and which no processor's cache holds where they are
many.  Where the path comes last, what is looked at before it is the same for all requests of a caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from vestibule.envoy.candidates import Asking, Choice, Key, Place, Places, is_wide, wider_keys

MANY_PLACES: Final = 64
"""So many places that name a caller are worth a tree of its own."""

MOST_COPIED: Final = 0.5
"""How much more there may be in such trees, for one part that was there before."""

_FEW_CALLERS: Final = 4


@dataclass(frozen=True, slots=True)
class Spot:
    """Where in a tree something stands: at a whole path, below a beginning, or everywhere, where there is no path."""

    path: str | None = None
    whole: bool = False


Entries = dict[Key, tuple[Choice, ...]]


def spots(places: Places, ask: Asking) -> Iterator[tuple[Spot, Entries]]:
    """Whom each place speaks of, and how; the widest place first.  Raises: VST4050."""
    yield Spot(), Place((places.anywhere,)).entries(ask)
    for start, place in places.beginnings():
        yield Spot(start), place.entries(ask)
    for path, place in places.paths():
        yield Spot(path, whole=True), place.entries(ask)


def frequent(found: Sequence[tuple[Spot, Entries]]) -> list[Key]:
    """The callers who get trees of their own: not where these would hold very much that others share now."""
    named: Counter[Key] = Counter()
    shared: Counter[Key] = Counter()
    for _, entries in found:
        alike = Counter(entries.values())
        for key, choices in entries.items():
            (shared if is_wide(key) or _is_much(choices, alike[choices]) else named)[key] += 1
    return sorted(
        key
        for key, count in named.items()
        if count >= MANY_PLACES
        and sum(shared[each] for each in (key, *wider_keys(key))) <= count * MOST_COPIED
    )


def _is_much(choices: Sequence[Choice], callers: int) -> bool:
    """Whether to say it to each of so many callers takes much more room than to say it once."""
    return callers > _FEW_CALLERS or (
        callers > 1 and any(each.asked or each.said is not None for each in choices)
    )


def about(caller: Key, entries: Entries) -> tuple[Choice, ...]:
    """What a place says of a caller."""
    return next((entries[key] for key in (caller, *wider_keys(caller)) if key in entries), ())


def methods_first(told: Iterable[Sequence[Choice]]) -> list[str] | None:
    """The methods, if it is worth it to look at them before the paths; else None.

    What is allowed by any method then stands in the tree of each.
    """
    before = after = 0
    everywhere: set[str] = set()
    plain = 0
    for choices in told:
        methods = {method for each in choices for method in each.rule.methods}
        any_method = any(not each.rule.methods for each in choices)
        before += max(1, len(methods))
        everywhere |= methods
        if any_method:
            plain += 1
        else:
            after += len(methods)
    after += plain * (len(everywhere) + 1)
    return sorted(everywhere) if everywhere and after <= before * (1 + MOST_COPIED) else None
