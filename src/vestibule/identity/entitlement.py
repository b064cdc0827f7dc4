"""Which entries belong to an agent: SPIRE's descendant crawl, on values in memory."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from vestibule.clock import Clock
from vestibule.identity.beacon import Beacon
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId
from vestibule.store import Store

SERVER_PATH: Final = "/spire/server"
BELOW: Final = "below"
NAMED: Final = "named"
Dependence: TypeAlias = tuple[str, SpiffeId]
"""``BELOW``: on the entries whose parent this is.  ``NAMED``: on the entries that give this ID."""

MOST_VIEWS: Final = 50_000
"""Of so many agents it is remembered what they have; with more, all are looked at anew."""


@dataclass(frozen=True, slots=True)
class Reached:
    """An agent's entries, and what has to stay as it is for them to be these.

    Nothing changes for the agent unless a node alias does, or an entry that ``touches`` what it depends on.
    """

    entries: tuple[Entry, ...]
    depends_on: frozenset[Dependence]


def touches(entry: Entry) -> tuple[Dependence, Dependence]:
    """What depends on an entry that comes, goes or changes."""
    return (BELOW, entry.parent_id), (NAMED, entry.spiffe_id)


def is_alias(entry: Entry) -> bool:
    """Whether an entry says what nodes are, and not what a workload is."""
    return entry.parent_id.path == SERVER_PATH


class EntryIndex:
    """All entries by parent; and apart from them the node aliases, which are the entries below the server.

    A node alias says: every agent with these *node* selectors also is that SPIFFE ID.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._by_parent: dict[SpiffeId, dict[str, Entry]] = {}
        self._aliases: dict[str, Entry] = {}
        self._powerful: dict[SpiffeId, dict[str, Entry]] = {}
        self._fixed: dict[SpiffeId, dict[str, Entry]] = {}
        self._mortal: dict[str, datetime] = {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """From now on this entry is one of them; one that had its ID is to be removed before."""
        for index, key in self._places(entry):
            index.setdefault(key, {})[entry.id] = entry
        if is_alias(entry):
            self._aliases[entry.id] = entry
        if entry.expires_at is not None:
            self._mortal[entry.id] = entry.expires_at

    def remove(self, entry: Entry) -> None:
        """It is no longer one of them."""
        for index, key in self._places(entry):
            if (found := index.get(key)) is not None:
                found.pop(entry.id, None)
                if not found:
                    del index[key]
        self._aliases.pop(entry.id, None)
        self._mortal.pop(entry.id, None)

    def _places(self, entry: Entry) -> Iterator[tuple[dict[SpiffeId, dict[str, Entry]], SpiffeId]]:
        if not is_alias(entry):
            yield self._by_parent, entry.parent_id
        if entry.admin or entry.downstream:
            yield self._powerful, entry.spiffe_id
        if not entry.is_template and not entry.template_id:
            yield self._fixed, entry.spiffe_id

    def authorized(
        self, agent_id: SpiffeId, node_selectors: frozenset[Selector], now: datetime
    ) -> tuple[Entry, ...]:
        """The entries below the agent and below its aliases, however deep, ordered by ID; see ``reached``."""
        return self.reached(agent_id, node_selectors, now).entries

    def reached(self, agent_id: SpiffeId, node_selectors: frozenset[Selector], now: datetime) -> Reached:
        """What an agent's entries are, and which IDs they hang on.

        1. The agent's own ID is a root, and so is every alias whose selectors it all has.
        2. Children of a root belong to the agent, and are roots themselves; each ID is visited once, so
           that circles among entries end.
        3. Expired entries neither belong nor lead further.
        4. Templates belong, and lead nowhere: they give no identity themselves.
        5. What was derived from a template belongs as long as that template does, and leads nowhere either: what an
           agent says of a workload must not bring it other entries.
        6. Nor does it belong if its SPIFFE ID is one that an entry gives to others by name, or one that an ``admin`` or
           ``downstream`` entry gives to anybody.
        """
        roots = [agent_id]
        roots += [
            alias.spiffe_id
            for alias in self._aliases.values()
            if alias.selectors and alias.selectors <= node_selectors and not _expired(alias, now)
        ]
        seen: set[SpiffeId] = set()
        found: dict[str, Entry] = {}
        while roots:
            root = roots.pop()
            if root in seen:
                continue
            seen.add(root)
            for entry in self._by_parent.get(root, {}).values():
                if not _expired(entry, now):
                    found[entry.id] = entry
                    if not entry.is_template and not entry.template_id:
                        roots.append(entry.spiffe_id)
        entries = tuple(found[id_] for id_ in sorted(found) if self._holds(found[id_], found))
        below = {(BELOW, each) for each in seen}
        derived = {(NAMED, entry.spiffe_id) for entry in found.values() if entry.template_id}
        return Reached(entries, frozenset(below | derived))

    def given_to_others(self, spiffe_id: SpiffeId, own: Container[str]) -> bool:
        """Whether an entry that is not one of an agent's ``own`` gives this SPIFFE ID by name."""
        return any(entry_id not in own for entry_id in self._fixed.get(spiffe_id, {}))

    def _holds(self, entry: Entry, found: Mapping[str, Entry]) -> bool:
        if not entry.template_id:
            return True
        template = found.get(entry.template_id)
        if template is None or not template.is_template:  # 5
            return False
        return entry.spiffe_id not in self._powerful and not self.given_to_others(entry.spiffe_id, found)  # 6

    def powers(self, spiffe_id: SpiffeId, now: datetime) -> tuple[Entry, ...]:
        """The live entries that let an identity do more than be one: ``admin`` and ``downstream`` ones."""
        found = self._powerful.get(spiffe_id, {})
        return tuple(found[id_] for id_ in sorted(found) if not _expired(found[id_], now))

    def expired(self, now: datetime) -> tuple[str, ...]:
        """The IDs of the entries whose time is over."""
        return tuple(
            id_ for ends, id_ in sorted((ends, id_) for id_, ends in self._mortal.items()) if ends <= now
        )

    def next_expiry(self, now: datetime) -> datetime | None:
        """When the next entry ends; ``None`` if none will."""
        return min((ends for ends in self._mortal.values() if ends > now), default=None)


def authorized_entries(
    agent_id: SpiffeId,
    entries: Iterable[Entry],
    now: datetime,
    node_selectors: frozenset[Selector] = frozenset(),
) -> tuple[Entry, ...]:
    """The entries of ``entries`` that belong to an agent; see ``EntryIndex.authorized``."""
    return EntryIndex(entries).authorized(agent_id, node_selectors, now)


def digest(entries: Sequence[Entry]) -> int:
    """A 64-bit number that differs where two lists of entries differ; stable across restarts."""
    sha = hashlib.sha256()
    for entry in entries:
        created = int(entry.created_at.timestamp()) if entry.created_at else 0
        sha.update(f"{entry.id}\0{entry.revision}\0{created}\0".encode())
    return int(struct.unpack(">Q", sha.digest()[:8])[0])


def _expired(entry: Entry, now: datetime) -> bool:
    return entry.expires_at is not None and entry.expires_at <= now


@dataclass(frozen=True, slots=True)
class _View:
    """One agent's entries, good until the first of them expires."""

    entries: tuple[Entry, ...]
    templates: tuple[Entry, ...]
    by_id: Mapping[str, Entry]
    ids: frozenset[SpiffeId]
    good_until: datetime | None
    depends_on: frozenset[Dependence]
    revision: int


class Entitlements:
    """Every agent's entries, answered from memory and kept current by the store's change feed."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._entries: tuple[Entry, ...] = ()
        self._index = EntryIndex(())
        self._selectors: dict[SpiffeId, frozenset[Selector]] = {}
        self._by_id: dict[str, Entry] = {}
        self._views: dict[SpiffeId, _View] = {}
        self._dependents: dict[Dependence, set[SpiffeId]] = {}
        self._own: WeakValueDictionary[SpiffeId, Beacon] = WeakValueDictionary()
        self._begun = False
        self._beacon = Beacon()
        self._changes = store.changes.subscribe("entries", "agents")
        # Reads are one at a time, so that an older one never overwrites a newer one.
        self._reading = asyncio.Lock()

    @property
    def revision(self) -> int:
        """Counts the changes seen by this process; equal revisions mean equal answers."""
        return self._beacon.value

    async def start(self) -> None:
        """Read the store for the first time."""
        await self.refresh()

    async def run(self) -> None:
        """Follow the store until its change feed ends; may be begun anew after a failure of the store."""
        await self.refresh()
        async for change in self._changes:
            if change.kind == "entries":
                await self.refresh_entries()
            else:
                await self._refresh_agents()

    async def refresh(self) -> None:
        """Read the store again."""
        await self.refresh_entries()
        await self._refresh_agents()

    async def refresh_entries(self) -> None:
        """Read the entries again; whoever just changed them and needs the change to hold now awaits this."""
        async with self._reading:
            entries = tuple(await self._store.entries.all())
            # Whoever changed the store has awaited this already when the change feed tells of it.
            if entries == self._entries and self._begun:
                return
            self._begun = True
            self._take(entries)
            self._beacon.advance()

    def _take(self, entries: tuple[Entry, ...]) -> None:
        """Have these entries from now on.  Of ten thousand that are told of a change, one is concerned, mostly."""
        known, by_id = self._by_id, {entry.id: entry for entry in entries}
        # What did not change is the same object, mostly; only the others are compared.
        gone = [each for id_, each in known.items() if (now := by_id.get(id_)) is not each and now != each]
        new = [each for id_, each in by_id.items() if (was := known.get(id_)) is not each and was != each]
        for entry in gone:
            self._index.remove(entry)
        for entry in new:
            self._index.add(entry)
        self._entries, self._by_id = entries, by_id
        changed = [*gone, *new]
        if any(map(is_alias, changed)):
            self._forget(set(self._views), everybody=True)
            return
        concerned: set[SpiffeId] = set()
        for entry in changed:
            for each in touches(entry):
                concerned |= self._dependents.get(each, set())
        self._forget(concerned)

    async def _refresh_agents(self) -> None:
        # Agents change with every renewal; only their selectors matter here.
        async with self._reading:
            selectors, before = await self._node_selectors(), self._selectors
            if selectors != before:
                self._selectors = selectors
                ids = selectors.keys() | before.keys()
                self._forget({each for each in ids if selectors.get(each) != before.get(each)})
                self._beacon.advance()

    def _forget(self, agents: set[SpiffeId], *, everybody: bool = False) -> None:
        """Look anew at what these agents have, and tell them; and those of whom nothing is known."""
        for agent_id in agents:
            if (view := self._views.pop(agent_id, None)) is not None:
                self._depend(agent_id, view, on=False)
        for agent_id, beacon in tuple(self._own.items()):
            if everybody or agent_id in agents or agent_id not in self._views:
                beacon.advance()

    def _depend(self, agent_id: SpiffeId, view: _View, *, on: bool) -> None:
        for each in view.depends_on:
            if on:
                self._dependents.setdefault(each, set()).add(agent_id)
            elif (found := self._dependents.get(each)) is not None:
                found.discard(agent_id)
                if not found:
                    del self._dependents[each]

    async def _node_selectors(self) -> dict[SpiffeId, frozenset[Selector]]:
        return await self._store.agents.selectors()

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    def news_for(self, agent_id: SpiffeId) -> Beacon:
        """Advances when what an agent is entitled to may have changed; for as long as somebody holds it."""
        return self._own.setdefault(agent_id, Beacon())

    def entries_for(self, agent_id: SpiffeId) -> tuple[Entry, ...]:
        """The entries that belong to an agent now, ordered by ID."""
        return self._view(agent_id).entries

    def templates_for(self, agent_id: SpiffeId) -> tuple[Entry, ...]:
        """The templates that belong to an agent now, ordered by ID."""
        return self._view(agent_id).templates

    def is_given(self, spiffe_id: SpiffeId) -> bool:
        """Whether an entry gives this SPIFFE ID by name, to whomever."""
        return self._index.given_to_others(spiffe_id, ())

    def given_to_others(self, agent_id: SpiffeId, spiffe_id: SpiffeId) -> bool:
        """Whether an entry that is not the agent's gives this SPIFFE ID by name."""
        return self._index.given_to_others(spiffe_id, self._view(agent_id).by_id)

    @property
    def all(self) -> Sequence[Entry]:
        """Every entry, as of ``revision``."""
        return self._entries

    def node_selectors(self, agent_id: SpiffeId) -> frozenset[Selector]:
        """What was attested of an agent's node; empty for an agent that is banned or unknown."""
        return self._selectors.get(agent_id, frozenset())

    def entry_for(self, agent_id: SpiffeId, entry_id: str) -> Entry | None:
        """One of the agent's entries, by its ID."""
        return self._view(agent_id).by_id.get(entry_id)

    def is_entitled(self, agent_id: SpiffeId, spiffe_id: SpiffeId) -> bool:
        """Whether some entry makes ``spiffe_id`` an identity of workloads under the agent."""
        return spiffe_id in self._view(agent_id).ids

    def powers(self, spiffe_id: SpiffeId) -> tuple[Entry, ...]:
        """The live entries that let an identity do more than be one: ``admin`` and ``downstream`` ones."""
        return self._index.powers(spiffe_id, self._clock.now())

    def expired(self) -> tuple[str, ...]:
        """The IDs of the entries whose time is over."""
        return self._index.expired(self._clock.now())

    def next_expiry(self) -> datetime | None:
        """When the next entry ends; ``None`` if none will."""
        return self._index.next_expiry(self._clock.now())

    def revision_for(self, agent_id: SpiffeId) -> int:
        """Changes exactly when the agent's own entries change; the same after a restart."""
        return self._view(agent_id).revision

    def _view(self, agent_id: SpiffeId) -> _View:
        now = self._clock.now()
        view = self._views.get(agent_id)
        if view is None or (view.good_until is not None and view.good_until <= now):
            selectors = self._selectors.get(agent_id, frozenset())
            reached = self._index.reached(agent_id, selectors, now)
            found = reached.entries
            ends = [entry.expires_at for entry in found if entry.expires_at is not None]
            entries = tuple(entry for entry in found if not entry.is_template)
            templates = tuple(entry for entry in found if entry.is_template)
            ids = frozenset(entry.spiffe_id for entry in entries)
            by_id = {entry.id: entry for entry in entries}
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
                self._dependents.clear()
            elif (former := self._views.pop(agent_id, None)) is not None:
                self._depend(agent_id, former, on=False)
            view = _View(
                entries,
                templates,
                by_id,
                ids,
                min(ends, default=None),
                reached.depends_on,
                digest((*entries, *templates)),
            )
            self._views[agent_id] = view
            self._depend(agent_id, view, on=True)
        return view
