"""Revoking: an identity, a certificate, an agent with all it issued, an authority with all below it.

Every operation follows the same steps.

1. What is asked for is turned into revocations, and refused if it is nothing, or would cut off everything.
2. It goes on record.  Only a full disk under the audit log lets the record come after the effect.
3. The list takes effect: issuance, every check of ours, and the push to agents see it from that instant on.
4. What else there is to be done follows: an authority's way out of the bundle.  A ban goes before the list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.audit import Audit, AuditEvent, Detail, EmergencyAudit
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.authority_revocation import AuthorityRevocation, Signers
from vestibule.identity.codes import AGENT_NOT_FOUND, NOT_LIFTABLE, NOTHING_TO_REVOKE, WOULD_CUT_EVERYTHING
from vestibule.identity.marks import Marks
from vestibule.identity.names import agent_id as agents_id
from vestibule.identity.names import server_id
from vestibule.identity.revocation_list import RevocationList
from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import leaf_facts
from vestibule.pki.revocation import certificate_facts
from vestibule.records import LowerAuthority
from vestibule.spiffe import (
    Reason,
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    SpiffeId,
    TrustDomain,
)
from vestibule.spiffe.revocations import MAX_NOTE, Target
from vestibule.store.issued import Issued

SECOND: Final = timedelta(seconds=1)
PUBLICATION: Final = timedelta(seconds=3)
"""How long, at most, a new authority is in the bundle before it signs: bundles are pushed within milliseconds."""

GRACE: Final = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who wants it, and why.  ``note`` is for people: the ticket, the incident."""

    actor: str
    reason: Reason = Reason.UNSPECIFIED
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateName:
    """Which certificate is meant: the certificate itself (DER), or its serial number and, if known, its authority."""

    der: bytes = b""
    serial: int = 0
    authority_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an order comes to, before anything is done.  ``bans`` is an agent to be shut out."""

    what: str
    subject: str
    revocations: tuple[Revocation, ...]
    bans: SpiffeId | None = None
    authority: AuthorityRevocation | None = None


class IssuedCertificates(Protocol):
    """What is remembered of what was issued (``store.issued``); only what is still valid is answered."""

    async def by_mark(self, mark: int, now: datetime) -> list[Issued]: ...

    async def by_identity(self, spiffe_id: SpiffeId, now: datetime) -> list[Issued]: ...

    async def by_serial(self, serial: int, now: datetime) -> list[Issued]: ...

    async def by_authority(self, authority_id: str, now: datetime) -> list[Issued]: ...


class Lower(Protocol):
    """The signing certificates of servers below (``store.ports.LowerAuthorities``)."""

    async def all(self) -> list[LowerAuthority]: ...


class Bans(Protocol):
    """Shutting agents out (``identity.nodes``)."""

    async def ban(self, actor: str, spiffe_id: SpiffeId) -> None: ...


class Revoking:
    """Plans and carries out what the operator orders."""

    def __init__(
        self,
        revocations: RevocationList,
        marks: Marks,
        issued: IssuedCertificates,
        lower: Lower,
        signers: Signers,
        bans: Bans,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        *,
        renew_server: Callable[[], Awaitable[None]],
        emergency: EmergencyAudit | None = None,
        linger: timedelta = timedelta(),
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """``renew_server`` gives the server itself a new SVID; ``told`` hears of every change, at once.

        With ``emergency`` a full disk under the audit log does not keep from revoking (``audit.deferred``).
        ``linger`` is how long after its end an SVID is still good for something: for an agent's return.
        """
        self._emergency = emergency
        self._linger = linger
        self._list = revocations
        self._marks = marks
        self._issued = issued
        self._lower_authorities = lower
        self._signers = signers
        self._bans = bans
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._renew_server = renew_server
        self._told = told
        self._one_at_a_time = asyncio.Lock()

    @property
    def now(self) -> Revocations:
        """The list."""
        return self._list.now

    # ------------------------------------------------------------------------------------ planning

    async def plan_identity(self, order: Order, spiffe_id: SpiffeId, *, allow_new: bool) -> Plan:
        """All that proves an identity; with ``allow_new`` only what was issued until now.

        Raises: VST1251 (no path), VST1253 (the server itself, for ever), VST1403.
        """
        if not spiffe_id.path:
            raise NOTHING_TO_REVOKE.error(f"{spiffe_id} is a trust domain, not the identity of anybody")
        if spiffe_id == server_id(self._trust_domain) and not allow_new:
            raise WOULD_CUT_EVERYTHING.error(
                "the server would cut itself off", advice="Revoke what it was issued until now: --allow-new."
            )
        before = self._next_second(spiffe_id) if allow_new else None
        target = RevokedIdentity(spiffe_id=spiffe_id, issued_before=before)
        # What may be issued again is over once the last of the old ones has expired; what may not, never.
        ends = self._latest_end(spiffe_id.trust_domain) if allow_new else None
        # A server below goes with all that it issued.
        below = [each for each in await self._lower() if each.server == spiffe_id]
        made = (self._made(order, target, ends), *(self._authority(order, each) for each in below))
        return Plan(what="identity", subject=str(spiffe_id), revocations=made)

    async def plan_certificate(self, order: Order, name: CertificateName) -> Plan:
        """One certificate.  Raises: VST1005, VST1006 (not an SVID), VST1251 (unknown)."""
        target, ends = await (self._by_der(name.der) if name.der else self._by_serial(name))
        return Plan(what="certificate", subject=target.name, revocations=(self._made(order, target, ends),))

    async def plan_agent(self, order: Order, agent_id: SpiffeId) -> Plan:
        """An agent, its own SVIDs, and everything that was issued through it.  Raises: VST1204, VST1205, VST1208."""
        agents_id(agent_id, self._trust_domain)
        await self._marks.refresh()
        marks = self._marks.all_of(agent_id)
        ends = self._latest_end(self._trust_domain)
        targets: list[Target] = [RevokedAgent(agent_id=agent_id, mark=each.mark) for each in marks]
        # For SVIDs of its own that have no mark: those of servers before there were marks.
        targets.append(RevokedIdentity(spiffe_id=agent_id, issued_before=self._next_second(agent_id)))
        # Servers below that got their identity through it go with it.
        numbers = {each.mark for each in marks}
        below = [each for each in await self._lower() if each.mark in numbers]
        made = (
            *(self._made(order, each, ends) for each in targets),
            *(self._authority(order, each) for each in below),
        )
        return Plan(what="agent", subject=str(agent_id), revocations=made, bans=agent_id)

    async def plan_authority(self, order: Order, name: str, der: bytes = b"") -> Plan:
        """An authority by its ID, its fingerprint (SHA-256 in hex) or its certificate, and everything below it.

        Raises: VST1005, VST1251 (unknown), VST1253 (the path of what this server issues).
        """
        found = AuthorityRevocation.find(self._signers, self._trust_domain, name, der)
        made = [self._made(order, found.target, found.not_after)]
        if found.certificate is not None:
            # By its serial number proxies know it in whatever a thief put below it, however he rewrote it.
            compromised = replace(order, reason=Reason.CA_COMPROMISE)
            made.append(self._made(compromised, found.certificate, found.not_after))
        return Plan(what="authority", subject=found.subject, revocations=tuple(made), authority=found)

    def _made(self, order: Order, target: Target, expires_at: datetime | None) -> Revocation:
        if expires_at is not None and isinstance(target, RevokedCertificate | RevokedIdentity):
            expires_at += self._linger
        return Revocation(
            target=target,
            at=self._clock.now(),
            reason=order.reason,
            note=order.note[:MAX_NOTE],
            actor=order.actor,
            expires_at=expires_at,
        )

    async def _lower(self) -> list[LowerAuthority]:
        """The signing certificates of servers below that are valid."""
        now = self._clock.now()
        return [each for each in await self._lower_authorities.all() if each.not_after > now]

    def _authority(self, order: Order, lower: LowerAuthority) -> Revocation:
        target = RevokedAuthority(
            fingerprint=lower.fingerprint, key=lower.key, authority_id=lower.authority_id
        )
        return self._made(order, target, lower.not_after)

    def _next_second(self, spiffe_id: SpiffeId) -> datetime:
        """The first whole second that nothing was issued in: later than now, and than one that counted before."""
        second = self._clock.now().replace(microsecond=0) + SECOND
        before = self._list.now.earliest_start(spiffe_id)
        return second if before is None or before < second else before + SECOND

    def _latest_end(self, trust_domain: TrustDomain) -> datetime | None:
        """When nothing that was issued until now can be valid any more; not known for others' trust domains."""
        return self._signers.latest_end() if trust_domain == self._trust_domain else None

    def _after_all(self, spiffe_id: SpiffeId) -> datetime | None:
        ends = self._latest_end(spiffe_id.trust_domain)
        return None if ends is None else ends + self._linger

    async def _by_der(self, der: bytes) -> tuple[RevokedCertificate, datetime]:
        leaf_facts(der)  # a signing certificate is revoked as an authority
        facts, ends = certificate_facts(der), load_certificate(der).not_valid_after_utc
        if not facts.authority_id:
            raise NOTHING_TO_REVOKE.error("the certificate does not say which authority signed it")
        return RevokedCertificate(authority_id=facts.authority_id, serial=facts.serial), ends

    async def _by_serial(self, name: CertificateName) -> tuple[RevokedCertificate, datetime | None]:
        found = await self._issued.by_serial(name.serial, self._clock.now())
        for each in found:
            for authority_id in self._signers.ids():
                if authority_id.startswith(each.authority.hex()) and name.authority_id in ("", authority_id):
                    target = RevokedCertificate(authority_id=authority_id, serial=name.serial)
                    return target, each.not_after + SECOND
        if name.authority_id:
            target = RevokedCertificate(authority_id=name.authority_id, serial=name.serial)
            return target, self._signers.end_of(name.authority_id)
        raise NOTHING_TO_REVOKE.error(f"no valid certificate with the serial {name.serial} is on record here")

    # ---------------------------------------------------------------------------------- carrying out

    async def carry_out(self, plan: Plan, order: Order, *, grace: timedelta = GRACE) -> Revocations:
        """Do it.  ``grace`` is how long agents have to replace what a revoked authority of ours signed.

        Raises: errors of the audit log (then nothing has happened); VST1254 (in force, and not kept), and what the
        steps after the third raise.
        """
        async with self._one_at_a_time:
            event = [_event(plan, order)]
            await (self._emergency.record_or_defer if self._emergency else self._audit.record)(event)  # 2
            if plan.authority is not None:
                # Issuing moves first, so that nobody else's handshake fails.
                published = self._pause(min(grace, PUBLICATION))
                await plan.authority.move_away(self._signers, order.actor, published)
                await self._renew_server()
                await self._pause(grace)()
            # First of all: an agent that is cut off is to hear that it is banned, not that it may attest again.
            unbanned = await self._ban(order.actor, plan.bans) if plan.bans is not None else None
            if plan.bans is not None:
                # Another server of this database may have given it a mark, or its server a certificate, since then.
                plan = await self._completed(plan, order, plan.bans)
            unkept = await self._add(plan)  # 3
            try:  # 4
                if plan.bans is not None:
                    await self._marks.retire(plan.bans)
                if plan.authority is not None:
                    await plan.authority.finish(self._signers, order.actor)
            finally:
                self._told()
            if (failure := unbanned or unkept) is not None:
                raise failure
            return self._list.now

    async def _completed(self, plan: Plan, order: Order, agent_id: SpiffeId) -> Plan:
        """The plan with what has been added to the store meanwhile; as it was, if the store cannot be read."""
        try:
            newest = await self.plan_agent(order, agent_id)
        except VestibuleError:
            return plan
        known = {each.id for each in plan.revocations}
        more = (each for each in newest.revocations if each.id not in known)
        return replace(plan, revocations=(*plan.revocations, *more))

    async def lift(self, order: Order, spiffe_id: SpiffeId) -> Revocation:
        """From the next second on an identity gets SVIDs again; what it was issued before stays revoked.

        Raises: VST1251 (not revoked), VST1252 (not needed), errors of the audit log and of the store.
        """
        async with self._one_at_a_time:
            known = self._list.now.get(f"{RevokedIdentity.kind}:{spiffe_id}")
            if known is None:
                raise NOTHING_TO_REVOKE.error(f"the identity {spiffe_id} is not revoked")
            target = known.target
            if not isinstance(target, RevokedIdentity) or target.issued_before is not None:
                raise NOT_LIFTABLE.error(f"{spiffe_id} gets new SVIDs; older ones stay revoked")
            lifted = replace(
                known,
                target=replace(target, issued_before=self._next_second(spiffe_id)),
                expires_at=self._after_all(spiffe_id),
            )
            details: dict[str, Detail] = {"reason": order.reason.value, "note": order.note[:MAX_NOTE]}
            event = AuditEvent(
                actor=order.actor, action="revocation.lift", subject=str(spiffe_id), details=details
            )
            await self._audit.record([event])
            after = await self._list.add(lifted)
            self._told()
            return after.get(known.id) or lifted

    async def _add(self, plan: Plan) -> VestibuleError | None:
        """Put it on the list; returns why it could not be kept."""
        new = [each for each in plan.revocations if not self._is_known(each)]
        try:
            if new:
                await self._list.add(*new)
        except VestibuleError as error:
            return error
        return None

    def _is_known(self, revocation: Revocation) -> bool:
        """A revocation that is there already is not made weaker by a second one."""
        known, target = self._list.now.get(revocation.id), revocation.target
        if known is None:
            return False
        if isinstance(target, RevokedIdentity) and target.issued_before is not None:
            # All of an identity stays revoked until that is lifted in so many words.
            return isinstance(known.target, RevokedIdentity) and known.target.issued_before is None
        if known.target != target:
            return False
        return known.expires_at is None or revocation.expires_at == known.expires_at

    async def _ban(self, actor: str, agent_id: SpiffeId) -> VestibuleError | None:
        """Ban it; returns why that is not kept.  What it was issued is revoked all the same."""
        try:
            await self._bans.ban(actor, agent_id)
        except VestibuleError as error:
            return None if error.code is AGENT_NOT_FOUND else error  # evicted before
        return None

    def _pause(self, grace: timedelta) -> Callable[[], Awaitable[None]]:
        async def pause() -> None:
            if grace > timedelta():
                await self._clock.sleep_until(self._clock.now() + grace)

        return pause


def _event(plan: Plan, order: Order) -> AuditEvent:
    ids: Sequence[str] = [each.id for each in plan.revocations[:16]]
    details: dict[str, Detail] = {
        "reason": order.reason.value,
        "note": order.note[:MAX_NOTE],
        "revokes": ids,
    }
    before = next(
        (each.target for each in plan.revocations if isinstance(each.target, RevokedIdentity)), None
    )
    if before is not None and before.issued_before is not None:
        details["issued_before"] = before.issued_before.isoformat()
    return AuditEvent(
        actor=order.actor, action=f"revocation.{plan.what}", subject=plan.subject, details=details
    )
