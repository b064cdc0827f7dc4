"""Which entries belong to an agent: SPIRE's descendant crawl, on values in memory."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Final

from vestibule.clock import Clock
from vestibule.identity.beacon import Beacon
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId
from vestibule.store import AgentFilter, Store

SERVER_PATH: Final = "/spire/server"


class EntryIndex:
    """All entries by parent; and apart from them the node aliases, which are the entries below the server.

    A node alias says: every agent with these *node* selectors also is that SPIFFE ID.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        by_parent: dict[SpiffeId, list[Entry]] = defaultdict(list)
        powerful: dict[SpiffeId, list[Entry]] = defaultdict(list)
        aliases: list[Entry] = []
        fixed: dict[SpiffeId, tuple[str, ...]] = {}
        for entry in entries:
            if entry.admin or entry.downstream:
                powerful[entry.spiffe_id].append(entry)
            alias = entry.parent_id.path == SERVER_PATH
            (aliases if alias else by_parent[entry.parent_id]).append(entry)
            if not entry.is_template and not entry.template_id:
                fixed[entry.spiffe_id] = (*fixed.get(entry.spiffe_id, ()), entry.id)
        self._fixed = fixed
        self._by_parent = MappingProxyType({parent: tuple(below) for parent, below in by_parent.items()})
        self._aliases = tuple(aliases)
        self._powerful = MappingProxyType({each: tuple(found) for each, found in powerful.items()})
        self._mortal = tuple(sorted(_mortal(aliases) + _mortal(chain(*by_parent.values()))))

    def authorized(
        self, agent_id: SpiffeId, node_selectors: frozenset[Selector], now: datetime
    ) -> tuple[Entry, ...]:
        """The entries below the agent and below its aliases, however deep, ordered by ID.

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
            for alias in self._aliases
            if alias.selectors and alias.selectors <= node_selectors and not _expired(alias, now)
        ]
        seen: set[SpiffeId] = set()
        found: dict[str, Entry] = {}
        while roots:
            root = roots.pop()
            if root in seen:
                continue
            seen.add(root)
            for entry in self._by_parent.get(root, ()):
                if not _expired(entry, now):
                    found[entry.id] = entry
                    if not entry.is_template and not entry.template_id:
                        roots.append(entry.spiffe_id)
        return tuple(found[id_] for id_ in sorted(found) if self._holds(found[id_], found))

    def given_to_others(self, spiffe_id: SpiffeId, own: Container[str]) -> bool:
        """Whether an entry that is not one of an agent's ``own`` gives this SPIFFE ID by name."""
        return any(entry_id not in own for entry_id in self._fixed.get(spiffe_id, ()))

    def _holds(self, entry: Entry, found: Mapping[str, Entry]) -> bool:
        if not entry.template_id:
            return True
        template = found.get(entry.template_id)
        if template is None or not template.is_template:  # 5
            return False
        return entry.spiffe_id not in self._powerful and not self.given_to_others(entry.spiffe_id, found)  # 6

    def powers(self, spiffe_id: SpiffeId, now: datetime) -> tuple[Entry, ...]:
        """The live entries that let an identity do more than be one: ``admin`` and ``downstream`` ones."""
        return tuple(each for each in self._powerful.get(spiffe_id, ()) if not _expired(each, now))

    def expired(self, now: datetime) -> tuple[str, ...]:
        """The IDs of the entries whose time is over."""
        return tuple(id_ for ends, id_ in self._mortal if ends <= now)

    def next_expiry(self, now: datetime) -> datetime | None:
        """When the next entry ends; ``None`` if none will."""
        return next((ends for ends, _ in self._mortal if ends > now), None)


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


def _mortal(entries: Iterable[Entry]) -> list[tuple[datetime, str]]:
    return [(entry.expires_at, entry.id) for entry in entries if entry.expires_at is not None]


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


class Entitlements:
    """Every agent's entries, answered from memory and kept current by the store's change feed."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._entries: tuple[Entry, ...] = ()
        self._index = EntryIndex(())
        self._selectors: dict[SpiffeId, frozenset[Selector]] = {}
        self._views: dict[SpiffeId, _View] = {}
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
                await self.refresh()
            else:
                await self._refresh_agents()

    async def refresh(self) -> None:
        """Read the store again; whoever just changed it and needs the change to hold now awaits this."""
        async with self._reading:
            entries = tuple(await self._store.entries.all())
            selectors = await self._node_selectors()
            # Whoever changed the store has awaited this already when the change feed tells of it.
            if entries == self._entries and selectors == self._selectors and self._begun:
                return
            self._begun = True
            self._selectors = selectors
            self._entries = entries
            self._index = EntryIndex(entries)
            self._advance()

    async def _refresh_agents(self) -> None:
        # Agents change with every renewal; only their selectors matter here.
        async with self._reading:
            selectors = await self._node_selectors()
            if selectors != self._selectors:
                self._selectors = selectors
                self._advance()

    async def _node_selectors(self) -> dict[SpiffeId, frozenset[Selector]]:
        agents = await self._store.agents.page(AgentFilter(banned=False), 0)
        return {agent.spiffe_id: agent.selectors for agent in agents.items if agent.selectors}

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    def entries_for(self, agent_id: SpiffeId) -> tuple[Entry, ...]:
        """The entries that belong to an agent now, ordered by ID."""
        return self._view(agent_id).entries

    def templates_for(self, agent_id: SpiffeId) -> tuple[Entry, ...]:
        """The templates that belong to an agent now, ordered by ID."""
        return self._view(agent_id).templates

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
        view = self._view(agent_id)
        return digest((*view.entries, *view.templates))

    def _view(self, agent_id: SpiffeId) -> _View:
        now = self._clock.now()
        view = self._views.get(agent_id)
        if view is None or (view.good_until is not None and view.good_until <= now):
            selectors = self._selectors.get(agent_id, frozenset())
            found = self._index.authorized(agent_id, selectors, now)
            ends = [entry.expires_at for entry in found if entry.expires_at is not None]
            entries = tuple(entry for entry in found if not entry.is_template)
            templates = tuple(entry for entry in found if entry.is_template)
            ids = frozenset(entry.spiffe_id for entry in entries)
            by_id = {entry.id: entry for entry in entries}
            view = _View(entries, templates, by_id, ids, min(ends, default=None))
            self._views[agent_id] = view
        return view

    def _advance(self) -> None:
        self._views = {}
        self._beacon.advance()
