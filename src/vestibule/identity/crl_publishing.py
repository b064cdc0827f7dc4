"""A certificate revocation list (RFC 5280) for every authority whose key this server holds, for other people's clients.

Ours need none: they have the list itself.  A list is made anew when something is revoked, and before half of its time
is over; its number only grows.  It is valid far longer than any SVID, because the private key of an authority is gone
as soon as another one signs: the last list has to do until the last certificate below it has expired.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.beacon import Beacon, first
from vestibule.identity.codes import NOTHING_TO_REVOKE
from vestibule.identity.revocation import IssuedCertificates
from vestibule.identity.revocation_list import RevocationList
from vestibule.keys import KeyManager
from vestibule.pki.certificates import load_certificate
from vestibule.pki.codes import CRL_REFUSED
from vestibule.pki.crls import RevokedSerial, crl_builder
from vestibule.records import Authority, AuthorityState, PublishedCrl, identity_digest
from vestibule.spiffe import Revocation, RevokedAgent, RevokedCertificate, RevokedIdentity
from vestibule.spiffe.revocations import MARK_BITS
from vestibule.store import Store
from vestibule.store.issued import Issued

LIFE: Final = timedelta(hours=24)
RETRY_SECONDS: Final = 5.0
FEW: Final = 16
"""Identities and agents that are looked for one by one; for more, everything is looked at once."""
_SIGNING: Final = (AuthorityState.ACTIVE, AuthorityState.PREPARED)
_log = logging.getLogger(__name__)


class CrlPublishing:
    """Makes the lists, keeps them and hands them out."""

    def __init__(
        self,
        store: Store,
        keys: KeyManager,
        authorities: Authorities,
        revocations: RevocationList,
        issued: IssuedCertificates,
        audit: Audit,
        clock: Clock,
    ) -> None:
        self._store = store
        self._keys = keys
        self._authorities = authorities
        self._revocations = revocations
        self._issued = issued
        self._audit = audit
        self._clock = clock
        self._crls: dict[str, PublishedCrl] = {}
        self._refreshing = asyncio.Lock()
        self._beacon = Beacon()
        self._without: set[str] = set()
        """Authorities whose certificate, made by an upstream, does not let them sign lists."""

    async def start(self) -> None:
        """Read what is kept, and make what is missing; what cannot be made is logged, and tried again by ``run``.

        Raises: errors of the store.
        """
        self._crls = {each.authority_id: each for each in await self._store.crls.all()}
        try:
            await self.refresh()
        except VestibuleError as error:
            # Lists are for others' clients: for want of one, ours are not to go without identities.
            _log.error("the revocation lists cannot be made: %s", error)

    async def run(self) -> None:
        """Make lists anew when they have to be; a failure is logged and tried again."""
        while True:
            seen = self._revocations.revision, self._authorities.revision
            try:
                await self.refresh()
            except VestibuleError as error:
                _log.error("the revocation lists cannot be made: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            await first(
                self._revocations.changed(seen[0]),
                self._authorities.changed(seen[1]),
                self._clock.sleep_until(self._due()),
            )

    @property
    def revision(self) -> int:
        """Counts the lists that were made."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    def current(self) -> list[PublishedCrl]:
        """The newest list of each authority that has one."""
        return list(self._crls.values())

    def get(self, authority_id: str = "") -> PublishedCrl:
        """The newest list of an authority; by default of the active one.  Raises: VST1251."""
        wanted = authority_id.lower() or self._authorities.active.id
        if (found := self._crls.get(wanted)) is None:
            raise NOTHING_TO_REVOKE.error(f"there is no revocation list of an authority {wanted[:80]!r}")
        return found

    async def refresh(self) -> None:
        """Make every list that is missing, out of date, or half through its life."""
        async with self._refreshing:
            now = self._clock.now()
            known = {each.id for each in self._authorities.all()}
            for authority in self._authorities.all():
                if authority.state in _SIGNING and self._is_due(authority.id, now):
                    await self._make(authority)
            for authority_id in [each for each, crl in self._crls.items() if crl.next_update <= now]:
                if authority_id not in known:
                    del self._crls[authority_id]
            await self._store.crls.prune(now)

    def _is_due(self, authority_id: str, now: datetime) -> bool:
        crl = self._crls.get(authority_id)
        if authority_id in self._without:
            return False
        if crl is None or crl.list_version != self._revocations.now.version:
            return True
        return now >= _half_life(crl)

    def _due(self) -> datetime:
        ids = {each.id for each in self._authorities.all() if each.state in _SIGNING}
        return min(
            (_half_life(crl) for each, crl in self._crls.items() if each in ids),
            default=self._clock.now() + LIFE,
        )

    async def _make(self, authority: Authority) -> None:
        now, revocations = self._clock.now(), self._revocations.now
        revoked = await self._revoked(authority, now)
        before = self._crls.get(authority.id)
        # From the time, so that numbers grow even past a restored backup.
        number = max(before.number + 1 if before else 1, int(now.timestamp() * 1000))
        next_update = now + LIFE
        issuer = load_certificate(authority.chain[0])
        try:
            builder = await asyncio.to_thread(_built, issuer, revoked, number, now, next_update)
        except VestibuleError as error:
            if error.code is not CRL_REFUSED:
                raise
            _log.warning("authority %s signs no revocation list: %s", authority.id, error)
            self._without.add(authority.id)
            return
        details: dict[str, Detail] = {
            "number": str(number),
            "revoked": len(revoked),
            "next_update": next_update.isoformat(),
        }
        event = AuditEvent(actor="server", action="crl.sign", subject=authority.id, details=details)
        await self._audit.record([event])
        crl = PublishedCrl(
            authority_id=authority.id,
            number=number,
            der=await self._keys.sign_crl(authority.key_id, builder),
            this_update=now,
            next_update=next_update,
            list_version=revocations.version,
        )
        await self._store.crls.put(crl)
        self._crls[authority.id] = crl
        self._beacon.advance()

    async def _revoked(self, authority: Authority, now: datetime) -> list[RevokedSerial]:
        """What of an authority's is revoked and still valid."""
        found, wider = list[RevokedSerial](), list[Revocation]()
        for entry in self._revocations.now.entries:
            target = entry.target
            if isinstance(target, RevokedIdentity | RevokedAgent):
                wider.append(entry)
            elif isinstance(target, RevokedCertificate) and target.authority_id == authority.id:
                found.append(_serial(target.serial, entry))
        if len(wider) > FEW:
            every = await self._issued.by_authority(authority.id, now)
            return found + await asyncio.to_thread(_among, every, wider)
        for entry in wider:
            issued = await self._issued_to(entry, now)
            found += [_serial(each.serial, entry) for each in issued if _signed(each, authority)]
        return found

    async def _issued_to(self, entry: Revocation, now: datetime) -> list[Issued]:
        match entry.target:
            case RevokedIdentity() as identity:
                found = await self._issued.by_identity(identity.spiffe_id, now)
                return [each for each in found if identity.means(each.issued_at)]
            case RevokedAgent() as agent:
                return await self._issued.by_mark(agent.mark, now)
        return []


def _among(every: list[Issued], wider: list[Revocation]) -> list[RevokedSerial]:
    """The same by one look at everything, where there is much to look for."""
    identities = {
        identity_digest(each.target.spiffe_id): each
        for each in wider
        if isinstance(each.target, RevokedIdentity)
    }
    marks = {each.target.mark: each for each in wider if isinstance(each.target, RevokedAgent)}
    found = list[RevokedSerial]()
    for issued in every:
        entry = identities.get(issued.identity)
        if entry is not None and isinstance(entry.target, RevokedIdentity):
            entry = entry if entry.target.means(issued.issued_at) else None
        entry = entry or marks.get(issued.serial >> MARK_BITS)
        if entry is not None:
            found.append(_serial(issued.serial, entry))
    return found


def _serial(serial: int, entry: Revocation) -> RevokedSerial:
    return RevokedSerial(serial=serial, at=entry.at, reason=entry.reason.value)


def _signed(issued: Issued, authority: Authority) -> bool:
    return authority.id.startswith(issued.authority.hex())


def _built(
    issuer: x509.Certificate,
    revoked: list[RevokedSerial],
    number: int,
    now: datetime,
    next_update: datetime,
) -> x509.CertificateRevocationListBuilder:
    return crl_builder(issuer, revoked, number=number, now=now, next_update=next_update)


def _half_life(crl: PublishedCrl) -> datetime:
    return crl.this_update + (crl.next_update - crl.this_update) / 2
