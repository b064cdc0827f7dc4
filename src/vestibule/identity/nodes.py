"""Node agents: how they join, stay, and are thrown out."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.attest.node import AttestedNode, Challenge, NodeAttestor
from vestibule.attest.node.codes import EVIDENCE_USED, FOREIGN_AGENT_ID, UNKNOWN_ATTESTATION_TYPE
from vestibule.attest.node.join_token import agent_id as join_token_agent_id
from vestibule.audit import Audit, AuditEvent, EmergencyAudit
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon
from vestibule.identity.codes import (
    AGENT_BANNED,
    AGENT_EXPIRED,
    AGENT_MUST_REATTEST,
    AGENT_NOT_ACTIVE,
    AGENT_NOT_ATTESTED,
    AGENT_NOT_FOUND,
    BAN_NOT_KEPT,
    INVALID_ENTRY,
    INVALID_TTL,
    MISSING_PARAMETER,
)
from vestibule.identity.issuance import Issuance, IssuedSvid
from vestibule.identity.names import agent_id, workload_id
from vestibule.identity.refusals import Refusals
from vestibule.identity.registration import Registration
from vestibule.identity.shared_reads import SharedReads
from vestibule.pki.possession import key_fingerprint
from vestibule.records import AgentRecord, Entry, JoinToken
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.store import AgentFilter, EntryFilter, Match, Page, Store

MAX_TOKEN_TTL: Final = timedelta(days=365)
MAX_VERSION_LENGTH: Final = 255
PRUNE_EVERY: Final = timedelta(hours=1)
STANDING_SECONDS: Final = 2.0
"""How old what other servers of the database did may be when a stream is looked at again."""
KEEP_SPENT_TOKENS: Final = timedelta(days=1)
"""Used and expired tokens are remembered this long, so that their reuse is told apart from a typing mistake."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """The outcome of an attestation."""

    svid: IssuedSvid
    can_reattest: bool


class Nodes:
    """Attests agents, knows which of their certificates count, and bans or evicts them."""

    def __init__(
        self,
        store: Store,
        issuance: Issuance,
        registration: Registration,
        attestors: Sequence[NodeAttestor],
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        emergency: EmergencyAudit | None = None,
    ) -> None:
        self._emergency = emergency
        # Banned, and not kept by the store yet.
        self._cut: set[SpiffeId] = set()
        self._store = store
        self._records = SharedReads(store.agents.get)
        self._issuance = issuance
        self._registration = registration
        self._attestors: Mapping[str, NodeAttestor] = {attestor.name: attestor for attestor in attestors}
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._changing = asyncio.Lock()
        self._refusals = Refusals()
        self._first_use = asyncio.Lock()
        self.prune_expired_for: timedelta | None = None
        """How long after their last SVID agents are forgotten; ``None``: never.  Banned ones stay."""
        self.prune_tofu = False
        """Whether that goes also for those that cannot attest again."""
        self.departures: Final = Beacon()
        self._banned: dict[SpiffeId, bool] = {}
        self._read_at = (-1, 0.0)
        self._reading = asyncio.Lock()
        """Changes whenever an agent is banned or evicted."""

    @property
    def attestation_types(self) -> frozenset[str]:
        """The names of the attestors that there are."""
        return frozenset(self._attestors)

    async def run(self) -> None:
        """Forget join tokens that have been over for a day, and agents that have been gone for too long."""
        while True:
            now = self._clock.now()
            try:
                await self._store.join_tokens.prune(now - KEEP_SPENT_TOKENS)
            except VestibuleError as error:
                _log.error("cannot forget old join tokens: %s", error)
            if self.prune_expired_for is not None:
                await self._prune(now - self.prune_expired_for)
            await self._clock.sleep_until(now + PRUNE_EVERY)

    async def _prune(self, before: datetime) -> None:
        wanted = AgentFilter(
            banned=False, can_reattest=None if self.prune_tofu else True, expires_before=before
        )
        try:
            for agent in (await self._store.agents.page(wanted, 0, "")).items:
                await self.evict("server", agent.spiffe_id)
                _log.info("forgot %s, whose last SVID is over since %s", agent.spiffe_id, agent.expires_at)
        except VestibuleError as error:
            _log.error("cannot forget agents that are gone: %s", error)

    # ---------------------------------------------------------------------------------- joining

    async def create_join_token(
        self, actor: str, ttl: timedelta, token: str = "", alias: SpiffeId | None = None
    ) -> JoinToken:
        """A token with which one agent may join until ``ttl`` from now; ``alias`` is a further ID for its node.

        Raises: VST1209, VST2000, VST1204, VST1205, VST8023 (token known already).
        """
        if not timedelta(seconds=1) <= ttl <= MAX_TOKEN_TTL:
            raise INVALID_TTL.error("ttl is required, you must provide one between 1 second and a year")
        token = token or secrets.token_urlsafe(24)
        join_token_agent_id(self._trust_domain, token)
        if alias is not None:
            workload_id(alias, self._trust_domain)
        record = JoinToken(token=token, expires_at=self._clock.now() + ttl, agent_id=alias)
        details = {"expires_at": record.expires_at.isoformat(), "alias": str(alias) if alias else None}
        event = AuditEvent(actor=actor, action="join-token.create", subject="join-token", details=details)
        await self._audit.record([event])
        await self._store.join_tokens.add(record)
        return record

    def agent_of_token(self, token: str) -> SpiffeId:
        """The agent that joins with a join token.  Raises: VST2000."""
        return join_token_agent_id(self._trust_domain, token)

    async def attest(
        self, kind: str, payload: bytes, csr: bytes, challenge: Challenge, address: str
    ) -> Attested:
        """Judge an agent's evidence and give it its SVID; refusals are recorded, too.

        Raises: VST2001, VST2005, VST2006 and the attestor's errors, VST1211 (banned), VST1200, errors of ``pki.csr``.
        """
        try:
            return await self._attest(kind, payload, csr, challenge, address)
        except VestibuleError as error:
            _log.warning("refused an agent from %s: %s", address, error)
            await self._record_refusal(kind, address, error)
            raise

    async def _attest(
        self, kind: str, payload: bytes, csr: bytes, challenge: Challenge, address: str
    ) -> Attested:
        # 1. The request is complete, and there is an attestor for it.
        if not kind or not payload or not csr:
            raise MISSING_PARAMETER.error("attestation needs a type, a payload and a CSR")
        attestor = self._attestors.get(kind)
        if attestor is None:
            raise UNKNOWN_ATTESTATION_TYPE.error(f"could not find node attestor type {kind!r}")
        # 2. The CSR is sound before evidence that can be used only once is used up.
        self._issuance.check_csr(csr)
        # 3. The evidence holds, and says which node this is: one of the attestor's own kind.
        node = await attestor.attest(payload, challenge, self._clock.now())
        _check_bounds(node, attestor.name, self._trust_domain)
        # Of any number at the same time, one is the first.
        async with self._first_use if node.first_use_only else nullcontext():
            return await self._admit(node, kind, csr, address)

    async def _admit(self, node: AttestedNode, kind: str, csr: bytes, address: str) -> Attested:
        # 4. That node is not banned, nor known already where only the first use counts.
        known = await self.known(node.agent_id)
        if known is not None and known.banned:
            raise AGENT_BANNED.error("failed to attest: agent is banned")
        if known is not None and node.first_use_only:
            raise EVIDENCE_USED.error(
                f"agent {node.agent_id} is attested already, by evidence that counts once"
            )
        # 5. Its SVID is issued and on record before the agent becomes known by it.
        svid, issued = await self._issuance.for_agent(node.agent_id, csr)
        await self._audit.record([_attested(node, kind, address), issued])
        record = await self._store.agents.put(self._agent_record(node, kind, svid, known))
        # 6. A ban that arrived in the meantime holds.
        if record.banned:
            raise AGENT_BANNED.error("failed to attest: agent is banned")
        if node.alias is not None:
            await self._create_alias(node.agent_id, node.alias)
        return Attested(svid=svid, can_reattest=node.can_reattest)

    def _agent_record(
        self, node: AttestedNode, kind: str, svid: IssuedSvid, known: AgentRecord | None
    ) -> AgentRecord:
        return AgentRecord(
            spiffe_id=node.agent_id,
            attestation_type=kind,
            serial=svid.serial,
            expires_at=svid.not_after,
            key_sha256=key_fingerprint(svid.chain[0]),
            selectors=node.selectors,
            can_reattest=node.can_reattest,
            version=known.version if known else "",
            attested_at=self._clock.now(),
        )

    async def _create_alias(self, node_id: SpiffeId, alias: SpiffeId) -> None:
        # Made when the agent joins, not with the token: its parent would give away an unused token.
        entry = Entry(spiffe_id=alias, parent_id=node_id, selectors=_alias_selectors(node_id))
        for outcome in await self._registration.create("server", [entry]):
            if isinstance(outcome, VestibuleError):
                raise outcome

    async def _record_refusal(self, kind: str, address: str, error: VestibuleError) -> None:
        left_out = self._refusals.next(self._clock.now())
        if left_out is None:
            return
        event = AuditEvent(
            actor=f"anonymous:{address}",
            action="agent.attest",
            subject=f"attestation:{kind[:64]}",
            outcome=error.code.code,
            details={"error": error.message[:300], **({"refusals_left_out": left_out} if left_out else {})},
        )
        try:
            await self._audit.record([event])
        except VestibuleError as failure:
            # The agent is refused in any case; an unwritable audit log is reported where it stops something.
            _log.error("a refused attestation is not on record: %s", failure)

    # ----------------------------------------------------------------------------------- staying

    async def check(self, spiffe_id: SpiffeId, serial: str, not_after: datetime) -> AgentRecord:
        """Whether a verified certificate counts as an agent's, for one RPC (SPIRE's rules).

        Raises: VST1210 (not attested), VST1211 (banned), VST1212 (replaced), VST1213 (expired).
        """
        # 1. The certificate is current.
        if self._clock.now() > not_after:
            raise AGENT_EXPIRED.error(f"the SVID of agent {spiffe_id} is expired")
        # 2. The agent is known and not banned.
        agent = await self.check_standing(spiffe_id)
        # 3. It shows its current certificate,
        if serial == agent.serial:
            return agent
        # 4. or the one it was just given, which by this becomes the current one,
        if agent.new_serial and serial == agent.new_serial:
            return await self._promote(agent)
        # 5. but never an older one: somebody else may hold that key.
        raise AGENT_NOT_ACTIVE.error(f"agent {spiffe_id} shows an SVID that is no longer its current one")

    async def check_standing(self, spiffe_id: SpiffeId) -> AgentRecord:
        """The agent, if it is known and not banned.  Raises: VST1210, VST1211."""
        agent = await self.known(spiffe_id)
        if agent is None:
            raise AGENT_NOT_ATTESTED.error(f"agent {spiffe_id} is not attested")
        if agent.banned:
            raise AGENT_BANNED.error(f"agent {spiffe_id} is banned")
        return agent

    async def check_still_standing(self, spiffe_id: SpiffeId) -> None:
        """``check_standing`` for the streams of all agents, from one reading of the store for all of them.

        The reading is at most ``STANDING_SECONDS`` old, and younger than any ban or eviction here: what other servers
        of the same database do is seen that much later.  Raises: VST1210, VST1211.
        """
        async with self._reading:
            departures, read_at, now = *self._read_at, time.monotonic()
            if departures != self.departures.value or now - read_at > STANDING_SECONDS:
                departures = self.departures.value
                self._banned = await self._store.agents.banned()
                self._read_at = departures, now
        # Whoever came since then, or may not stay, is asked about by name.
        if self._banned.get(spiffe_id, True) or spiffe_id in self._cut:
            await self.check_standing(spiffe_id)

    async def _promote(self, agent: AgentRecord) -> AgentRecord:
        def promoted(now: AgentRecord) -> AgentRecord:
            if now.new_serial != agent.new_serial:
                return now  # a concurrent call was first
            return replace(
                now,
                serial=now.new_serial,
                expires_at=now.new_expires_at or now.expires_at,
                key_sha256=now.new_key_sha256,
                new_serial="",
                new_expires_at=None,
                new_key_sha256="",
            )

        return await self._change(agent.spiffe_id, promoted)

    async def renew(self, spiffe_id: SpiffeId, csr: bytes) -> IssuedSvid:
        """A new SVID for an agent; the old one counts until the new one is first used.

        Raises: VST1210, VST1211, VST1214 (attests again instead), VST1200, VST1202, errors of ``pki.csr``.
        """
        agent = await self.check_standing(spiffe_id)
        if agent.can_reattest:
            raise AGENT_MUST_REATTEST.error("agent must reattest instead of renew")
        svid, issued = await self._issuance.for_agent(spiffe_id, csr)
        await self._audit.record([issued])
        await self.note_issued(spiffe_id, svid)
        return svid

    async def known(self, spiffe_id: SpiffeId) -> AgentRecord | None:
        """The agent's record, also of a banned one."""
        agent = await self._records.get(spiffe_id)
        return replace(agent, banned=True) if agent is not None and spiffe_id in self._cut else agent

    async def note_issued(self, spiffe_id: SpiffeId, svid: IssuedSvid) -> None:
        """An agent was given a further SVID, which becomes its current one by use.  Raises: VST1210, VST1211."""
        key = key_fingerprint(svid.chain[0])
        await self._change(
            spiffe_id,
            lambda now: replace(
                now, new_serial=svid.serial, new_expires_at=svid.not_after, new_key_sha256=key
            ),
        )

    async def post_status(self, spiffe_id: SpiffeId, version: str) -> None:
        """Note which version an agent runs.  Raises: VST1203 (too long), VST1210, VST1211."""
        if len(version) > MAX_VERSION_LENGTH:
            raise INVALID_ENTRY.error(f"agent version is too long (max {MAX_VERSION_LENGTH} characters)")
        agent = await self.check_standing(spiffe_id)
        if version and version != agent.version:
            await self._change(spiffe_id, lambda now: replace(now, version=version))

    async def _change(self, spiffe_id: SpiffeId, change: Callable[[AgentRecord], AgentRecord]) -> AgentRecord:
        # One change at a time, each on what the one before left: a promotion must not undo a renewal.
        async with self._changing:
            before = await self.check_standing(spiffe_id)
            after = change(before)
            kept = before if after == before else await self._store.agents.update(after)
            # Nothing kept: banned or evicted between our look and our write.
            return kept or await self.check_standing(spiffe_id)

    # ------------------------------------------------------------------------------- throwing out

    async def ban(self, actor: str, spiffe_id: SpiffeId) -> None:
        """Shut an agent out: its certificates no longer count and it may not attest.

        It holds even where there is no room for its record; without room in the store, until the next start.
        Raises: VST1208, VST1223 (in force, and not kept).
        """
        await self._require(spiffe_id)
        event = AuditEvent(actor=actor, action="agent.ban", subject=str(spiffe_id))
        # Whoever fills our disks must not become unbannable by that (``audit.deferred``).
        await (self._emergency.record_or_defer if self._emergency else self._audit.record)([event])
        self._cut.add(spiffe_id)
        self.departures.advance()
        try:
            known = await self._store.agents.set_banned(spiffe_id)
        except VestibuleError as error:
            raise BAN_NOT_KEPT.error(
                f"{spiffe_id} is banned until this server restarts: {error.message}"
            ) from error
        self._cut.discard(spiffe_id)
        if not known:
            raise AGENT_NOT_FOUND.error("agent not found")

    async def evict(self, actor: str, spiffe_id: SpiffeId) -> None:
        """Forget an agent; it may attest again if it has evidence.  Lifts a ban.  Raises: VST1208."""
        await self._require(spiffe_id)
        await self._audit.record([AuditEvent(actor=actor, action="agent.evict", subject=str(spiffe_id))])
        if not await self._store.agents.delete(spiffe_id):
            raise AGENT_NOT_FOUND.error("agent not found")
        self._cut.discard(spiffe_id)
        self.departures.advance()
        await self._delete_alias(actor, spiffe_id)

    async def _delete_alias(self, actor: str, spiffe_id: SpiffeId) -> None:
        wanted = EntryFilter(
            parent_id=spiffe_id, selectors=_alias_selectors(spiffe_id), selectors_match=Match.EXACT
        )
        aliases = await self._registration.page(wanted, 0, "")
        if aliases.items:
            await self._registration.delete(actor, [entry.id for entry in aliases.items])

    # -------------------------------------------------------------------------------------- asking

    async def get(self, spiffe_id: SpiffeId) -> AgentRecord:
        """The agent of this ID.  Raises: VST1204, VST1205, VST1208."""
        return await self._require(spiffe_id)

    async def page(self, wanted: AgentFilter, size: int, token: str) -> Page[AgentRecord]:
        """A part of the agents; a ``size`` of 0 asks for all."""
        return await self._store.agents.page(wanted, size, token)

    async def count(self, wanted: AgentFilter) -> int:
        """How many agents there are."""
        return await self._store.agents.count(wanted)

    async def _require(self, spiffe_id: SpiffeId) -> AgentRecord:
        agent = await self._store.agents.get(agent_id(spiffe_id, self._trust_domain))
        if agent is None:
            raise AGENT_NOT_FOUND.error("agent not found")
        return agent


def _alias_selectors(node_id: SpiffeId) -> frozenset[Selector]:
    return frozenset({Selector("spiffe_id", str(node_id))})


def _check_bounds(node: AttestedNode, kind: str, trust_domain: TrustDomain) -> None:
    """An attestor, also one that somebody else wrote, speaks for its own kind of agents only.  Raises: VST2006."""
    below = f"/spire/agent/{kind}/"
    if node.agent_id.trust_domain != trust_domain or not node.agent_id.path.startswith(below):
        raise FOREIGN_AGENT_ID.error(f"the attestor {kind} named an agent {node.agent_id}")
    if foreign := {selector.type for selector in node.selectors} - {kind}:
        raise FOREIGN_AGENT_ID.error(
            f"the attestor {kind} gave selectors of type {', '.join(sorted(foreign))}"
        )


def _attested(node: AttestedNode, kind: str, address: str) -> AuditEvent:
    return AuditEvent(
        actor=str(node.agent_id),
        action="agent.attest",
        subject=str(node.agent_id),
        details={
            "type": kind,
            "address": address,
            "selectors": sorted(str(selector) for selector in node.selectors),
        },
    )
