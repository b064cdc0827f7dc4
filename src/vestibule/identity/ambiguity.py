"""Entries that make a workload's default identity ambiguous: two identities for every process that fits one of them.

A process that fits several entries has all their identities; the default one is that of the smallest entry ID, as
SPIRE orders them.  Which one that is follows from nothing that people see, so it is told when an entry is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vestibule.attest.workload import shown
from vestibule.identity.entitlement import SERVER_PATH
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId

AMBIGUOUS: Final = "ambiguous-default"
MOST: Final = 100
_COMPARED: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryWarning:
    """Something to know about entries that may nevertheless be meant; the first entry's identity is the default."""

    kind: str
    message: str
    entry_ids: tuple[str, ...]


class Ambiguities:
    """Compares entries by what surely overlaps; what may overlap, but need not, is not warned of."""

    def __init__(
        self, entries: Iterable[Entry], now: datetime, nameless: frozenset[str] = frozenset()
    ) -> None:
        """``nameless`` are the IDs of entries that do not have them for good."""
        self._nameless = nameless
        self._entries = [each for each in entries if _counts(each, now)]
        self._by_selector: dict[Selector, list[Entry]] = defaultdict(list)
        self._parents: dict[SpiffeId, set[SpiffeId]] = defaultdict(set)
        for entry in self._entries:
            for selector in entry.selectors:
                self._by_selector[selector].append(entry)
            if not entry.is_template and not entry.template_id:
                self._parents[entry.spiffe_id].add(entry.parent_id)
        self._above: dict[SpiffeId, frozenset[SpiffeId]] = {}

    def of(self, entry: Entry) -> list[EntryWarning]:
        """What one entry makes ambiguous."""
        rivals = {each.id: each for each in self._candidates(entry) if self._rivals(entry, each)}
        return [_warning(entry, rival, self._nameless) for _, rival in sorted(rivals.items())][:MOST]

    def all(self) -> tuple[list[EntryWarning], int]:
        """What is ambiguous among all entries, each pair once, and how many pairs are left out."""
        pairs: dict[tuple[str, str], EntryWarning] = {}
        for entry in self._entries:
            for rival in self._candidates(entry):
                if entry.id < rival.id and self._rivals(entry, rival):
                    pairs[entry.id, rival.id] = _warning(entry, rival, self._nameless)
        found = [pairs[key] for key in sorted(pairs)]
        return found[:MOST], max(0, len(found) - MOST)

    def _candidates(self, entry: Entry) -> Iterable[Entry]:
        rarest = sorted((self._by_selector.get(each, []) for each in entry.selectors), key=len)
        # Whoever has all of ours has our rarest; whoever has only some of ours has at least one of them.
        seen: dict[str, Entry] = {}
        for group in rarest:
            for each in group[:_COMPARED]:
                seen[each.id] = each
        return seen.values()

    def _rivals(self, one: Entry, other: Entry) -> bool:
        """Whether every process that fits one of them under some agent also fits the other, as somebody else."""
        if one.id == other.id or (one.spiffe_id, one.path_template) == (other.spiffe_id, other.path_template):
            return False
        if one.id == other.template_id or other.id == one.template_id:
            return False
        if not (one.selectors <= other.selectors or other.selectors <= one.selectors):
            return False
        return not self._ancestors(one.parent_id).isdisjoint(self._ancestors(other.parent_id))

    def _ancestors(self, parent: SpiffeId) -> frozenset[SpiffeId]:
        """The parent and all IDs above it, without the server's."""
        if (found := self._above.get(parent)) is not None:
            return found
        seen: set[SpiffeId] = set()
        waiting = [parent]
        while waiting:
            each = waiting.pop()
            if each in seen or each.path == SERVER_PATH:
                continue
            seen.add(each)
            waiting += self._parents.get(each, ())
        self._above[parent] = frozenset(seen)
        return self._above[parent]


def _counts(entry: Entry, now: datetime) -> bool:
    """Whether an entry gives workloads an identity at all."""
    alias = entry.parent_id.path == SERVER_PATH
    return not (alias or entry.store_svid or (entry.expires_at is not None and entry.expires_at <= now))


def _warning(one: Entry, other: Entry, nameless: frozenset[str]) -> EntryWarning:
    first, second = sorted((one, other), key=lambda each: each.id)
    narrow = one if len(one.selectors) >= len(other.selectors) else other
    if nameless & {one.id, other.id}:
        message = (
            f"a process with {_listed(narrow)} would be both {_named(one)} and {_named(other)}; which it is by default "
            "follows from the IDs of their entries"
        )
        ids = tuple(each.id for each in (first, second) if each.id not in nameless)
        return EntryWarning(kind=AMBIGUOUS, message=message, entry_ids=ids)
    message = (
        f"a process with {_listed(narrow)} is both {_named(first)} and {_named(second)}; by default it is "
        f"{_named(first)}, because its entry has the smaller ID ({first.id}, before {second.id})"
    )
    return EntryWarning(kind=AMBIGUOUS, message=message, entry_ids=(first.id, second.id))


def _named(entry: Entry) -> str:
    return (
        f"{entry.spiffe_id.trust_domain.id}{entry.path_template}"
        if entry.is_template
        else str(entry.spiffe_id)
    )


def _listed(entry: Entry) -> str:
    texts: Sequence[str] = sorted(map(shown, entry.selectors))
    return ", ".join(texts[:6]) + (", …" if len(texts) > 6 else "")


def warnings_for(
    entries: Sequence[Entry],
    everything: Iterable[Entry],
    now: datetime,
    nameless: frozenset[str] = frozenset(),
) -> Mapping[str, list[EntryWarning]]:
    """The warnings of each of ``entries``, by entry ID."""
    known = Ambiguities(everything, now, nameless)
    return {each.id: known.of(each) if _counts(each, now) else [] for each in entries}
