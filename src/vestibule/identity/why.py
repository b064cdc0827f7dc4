"""Why a SPIFFE ID, or a workload with certain selectors, is given or not: all that this server knows about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.codes import MISSING_PARAMETER
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.entry_rules import variables_of_entry
from vestibule.identity.issuance import Issuance
from vestibule.identity.parent_chains import Node, ParentChains, Step
from vestibule.records import AgentRecord, Entry
from vestibule.spiffe import Selector, SpiffeId, covers
from vestibule.spiffe.nearness import Missing, missing
from vestibule.spiffe.templates import PathTemplate
from vestibule.store import AgentFilter, Store

MOST: Final = 20
_TURN: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An entry in question: what of its selectors is missing, and how it gets to agents, or does not."""

    entry: Entry
    missing: tuple[Missing, ...]
    matches: bool
    chain: tuple[Step, ...]
    reaches: bool
    reasons: tuple[str, ...]
    agents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entitled:
    """An agent in question: to which of the entries it is entitled, and what was issued to it."""

    agent: AgentRecord
    connected: bool
    entry_ids: tuple[str, ...]
    issued_until: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All of it."""

    entries: tuple[Given, ...]
    left_out: int
    agents: tuple[Entitled, ...]
    agents_left_out: int
    authority_id: str
    authority_not_after: datetime | None
    notes: tuple[str, ...]
    nearest: SpiffeId | None


class Why:
    """Compares what is asked for with all entries and agents.  For operators only."""

    def __init__(
        self,
        store: Store,
        entitlements: Entitlements,
        issuance: Issuance,
        authorities: Authorities,
        clock: Clock,
        *,
        connected: Callable[[SpiffeId], bool],
        revoked: Callable[[SpiffeId], str] = lambda _: "",
    ) -> None:
        """``revoked`` says why nothing is issued for an identity any more; empty if that is not so."""
        self._store = store
        self._entitlements = entitlements
        self._issuance = issuance
        self._authorities = authorities
        self._clock = clock
        self._connected = connected
        self._revoked = revoked

    async def explain(
        self,
        spiffe_id: SpiffeId | None,
        agent_id: SpiffeId | None,
        selectors: frozenset[Selector],
        visible: Callable[[Entry], bool] = lambda _: True,
        sees_agent: Callable[[SpiffeId], bool] = lambda _: True,
    ) -> Explanation:
        """Which entries are in question, how they reach agents, and which agents hold what.

        ``visible`` leaves out entries that whoever asks may not see, ``sees_agent`` agents, but for those that get an
        entry that is seen.  Raises: VST1202 without ID and selectors.
        """
        if spiffe_id is None and not selectors:
            raise MISSING_PARAMETER.error("a SPIFFE ID or selectors are needed")
        agents = (await self._store.agents.page(AgentFilter(), 0)).items
        everything = [each for each in self._entitlements.all if visible(each)]
        chosen, left_out = _chosen(everything, spiffe_id, selectors)
        may_ask = agent_id is None or sees_agent(agent_id)
        entitled = await self._entitled(chosen, agents, agent_id)
        if not may_ask:
            entitled = [each for each in entitled if each.entry_ids]
        nodes = [
            Node(spiffe_id=each.spiffe_id, selectors=each.selectors, banned=each.banned) for each in agents
        ]
        chains = ParentChains(everything, nodes, self._clock.now())
        active = self._authorities.active
        return Explanation(
            entries=tuple(
                self._given(each, chains, agent_id, selectors, entitled, visible) for each in chosen
            ),
            left_out=left_out,
            agents=tuple(entitled[:MOST]),
            agents_left_out=max(0, len(entitled) - MOST),
            authority_id=active.id,
            authority_not_after=active.not_after,
            notes=tuple(self._notes(spiffe_id, agent_id if may_ask else None, agents)),
            nearest=None if chosen or spiffe_id is None else _nearest(spiffe_id, everything),
        )

    def _given(
        self,
        entry: Entry,
        chains: ParentChains,
        agent_id: SpiffeId | None,
        selectors: frozenset[Selector],
        entitled: Sequence[Entitled],
        visible: Callable[[Entry], bool],
    ) -> Given:
        steps, reaches = chains.climb(entry.parent_id, agent_id)
        return Given(
            entry=entry,
            missing=missing(entry.selectors, selectors) if selectors else (),
            matches=covers(selectors, entry.selectors),
            chain=steps,
            reaches=reaches,
            reasons=tuple(self._reasons(entry, selectors, visible)),
            agents=sum(entry.id in each.entry_ids for each in entitled),
        )

    def _reasons(
        self, entry: Entry, selectors: frozenset[Selector], visible: Callable[[Entry], bool]
    ) -> list[str]:
        reasons, now = [], self._clock.now()
        if entry.expires_at is not None and entry.expires_at <= now:
            reasons.append(f"the entry expired at {entry.expires_at:%Y-%m-%d %H:%M:%S} UTC")
        if entry.store_svid:
            reasons.append("the entry is for SVID stores (store_svid), not for the Workload API")
        if revoked := self._revoked(entry.spiffe_id):
            reasons.append(revoked)
        if entry.template_id and (others := self._named(entry.spiffe_id)):
            name = next((f"entry {each.id}" for each in others if visible(each)), "an entry")
            reasons.append(f"derived from a template, but {name} gives this ID to others by name")
        if entry.is_template and covers(selectors, entry.selectors):
            for variable in sorted(variables_of_entry(entry)):
                try:
                    variable.value(selectors)
                except VestibuleError as error:
                    reasons.append(error.message)
        return reasons

    def _named(self, spiffe_id: SpiffeId) -> list[Entry]:
        return [
            each
            for each in self._entitlements.all
            if each.spiffe_id == spiffe_id and not each.template_id and not each.is_template
        ]

    async def _entitled(
        self, chosen: Sequence[Entry], agents: Sequence[AgentRecord], wanted: SpiffeId | None
    ) -> list[Entitled]:
        found = []
        for number, agent in enumerate(agents):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            own = () if agent.banned else self._own(agent.spiffe_id, chosen)
            if (own and wanted is None) or agent.spiffe_id == wanted:
                found.append(self._seen(agent, own))
        # Who holds something comes first.
        return sorted(found, key=lambda each: (each.issued_until is None, str(each.agent.spiffe_id)))

    def _own(self, agent_id: SpiffeId, chosen: Sequence[Entry]) -> tuple[Entry, ...]:
        templates = {each.id for each in self._entitlements.templates_for(agent_id)}
        return tuple(
            each
            for each in chosen
            if each.id in templates or self._entitlements.entry_for(agent_id, each.id) is not None
        )

    def _seen(self, agent: AgentRecord, own: Sequence[Entry]) -> Entitled:
        ends = [self._issuance.newest_expiry(agent.spiffe_id, each.spiffe_id) for each in own]
        now = self._clock.now()
        return Entitled(
            agent=agent,
            connected=self._connected(agent.spiffe_id),
            entry_ids=tuple(each.id for each in own),
            issued_until=max((each for each in ends if each is not None and each > now), default=None),
        )

    def _notes(
        self, spiffe_id: SpiffeId | None, agent_id: SpiffeId | None, agents: Sequence[AgentRecord]
    ) -> list[str]:
        notes = []
        if spiffe_id is not None and (revoked := self._revoked(spiffe_id)):
            notes.append(revoked)
        if agent_id is not None and all(each.spiffe_id != agent_id for each in agents):
            notes.append(f"{agent_id} is not an attested agent of this server")
        if not agents:
            notes.append("no agent is attested by this server")
        return notes


def _chosen(
    entries: Sequence[Entry], spiffe_id: SpiffeId | None, selectors: frozenset[Selector]
) -> tuple[list[Entry], int]:
    """The entries in question, the likest first, and how many more there are."""
    if spiffe_id is not None:
        entries = [each for each in entries if _gives(each, spiffe_id)]
    else:
        # Who shares nothing with the workload has nothing to do with it.
        entries = [each for each in entries if each.selectors & selectors]
    ranked = sorted(
        entries, key=lambda each: (len(each.selectors - selectors), -len(each.selectors), each.id)
    )
    return ranked[:MOST], max(0, len(ranked) - MOST)


def _gives(entry: Entry, spiffe_id: SpiffeId) -> bool:
    if entry.is_template:
        return PathTemplate.parse(entry.path_template).could_give(spiffe_id.path)
    return entry.spiffe_id == spiffe_id


def _nearest(spiffe_id: SpiffeId, entries: Sequence[Entry]) -> SpiffeId | None:
    known = {str(each.spiffe_id): each.spiffe_id for each in entries}
    near = get_close_matches(str(spiffe_id), known, 1, 0.8)
    return known[near[0]] if near else None
