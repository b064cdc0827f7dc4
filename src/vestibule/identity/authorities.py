"""The trust domain's signing authorities: prepared → active → old, and the bundle that they make up.

==========  =======================  ==========================================================
state       from                     meaning
==========  =======================  ==========================================================
prepared    half of the active       its certificate is in the bundle, so that everybody has it
            one's life               before the first SVID that it signs
active      5/6 of the one before    signs
old         the next one's turn      its private key is gone; its certificate stays in the
                                     bundle until it expires, for the SVIDs that it signed
==========  =======================  ==========================================================
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.x509 import CertificateBuilder

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity import rotation
from vestibule.identity.beacon import Beacon
from vestibule.identity.codes import NO_ACTIVE_AUTHORITY
from vestibule.identity.jwt_authorities import JwtAuthorities
from vestibule.keys import KeyManager
from vestibule.pki.profiles import BACKDATE, Issuer, authority_id, lifetime, self_signed_ca
from vestibule.records import Authority, AuthorityState
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store import Store

DEFAULT_CA_TTL: Final = timedelta(hours=24)
KEY_PREFIX: Final = "x509-ca-"
ACTOR: Final = "server"
RETRY_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


def prepare_at(active: Authority) -> datetime:
    """When the successor of an authority is made."""
    return rotation.prepare_at(active.not_before + BACKDATE, active.not_after)


def activate_at(active: Authority) -> datetime:
    """When its successor takes over."""
    return rotation.activate_at(active.not_before + BACKDATE, active.not_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """What it takes to issue: the active authority, as certificates name it, and its key."""

    authority: Authority
    issuer: Issuer
    keys: KeyManager

    async def sign(self, builder: CertificateBuilder) -> bytes:
        """The signed certificate, DER."""
        return await self.keys.sign_certificate(self.authority.key_id, builder)

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """What follows the leaf in a chain: nothing below a self-signed authority."""
        return self.authority.chain[:-1]


class Authorities:
    """Holds the authorities, replaces them in time, and keeps the trust bundle."""

    def __init__(
        self,
        store: Store,
        keys: KeyManager,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        ca_ttl: timedelta = DEFAULT_CA_TTL,
        jwt: JwtAuthorities | None = None,
    ) -> None:
        """``jwt``, where there are JWT-SVIDs, is moved on and published together with the certificates."""
        self._store = store
        self._keys = keys
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self._ca_ttl = ca_ttl
        self._jwt = jwt
        self._known: dict[str, Authority] = {}
        self._signer: Signer | None = None
        self._bundle = TrustBundle(trust_domain=trust_domain, x509_authorities=())
        self._beacon = Beacon()
        self.problem: str | None = None

    async def start(self) -> None:
        """Read what is kept; afterwards there is an active authority.  Raises: errors of store, keys, audit."""
        self._known = {authority.id: authority for authority in await self._store.authorities.all()}
        self._bundle = await self._store.bundles.get(self._trust_domain) or self._bundle
        await self._retire_keyless()
        if self._jwt is not None:
            await self._jwt.start()
        await self.advance()
        await self._forget_spare_keys()

    async def run(self) -> None:
        """Advance whenever something is due; a failure is logged, shown by ``problem``, and tried again."""
        while True:
            try:
                await self.advance()
            except VestibuleError as error:
                self.problem = str(error)
                _log.error("the authorities cannot advance: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.problem = None
                await self._clock.sleep_until(self._next_step())

    @property
    def revision(self) -> int:
        """Counts changes of bundle and signer within this process."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    def bundle(self) -> TrustBundle:
        """The trust domain's current bundle."""
        return self._bundle

    def all(self) -> list[Authority]:
        """All authorities, oldest first."""
        return sorted(self._known.values(), key=lambda authority: (authority.not_before, authority.id))

    @property
    def active(self) -> Authority:
        """The authority that signs.  Raises: VST1300."""
        return self.signer.authority

    @property
    def signer(self) -> Signer:
        """The active authority, ready to sign.  Raises: VST1300."""
        if self._signer is None:
            raise NO_ACTIVE_AUTHORITY.error("there is no active signing authority yet")
        return self._signer

    async def advance(self) -> None:
        """Do everything that is due now."""
        if self._jwt is not None:
            await self._jwt.advance()  # first, so that what is due for both is one change of the bundle
        await self._forget_expired()
        active = self._in_state(AuthorityState.ACTIVE)
        now = self._clock.now()
        if active is None or (now >= prepare_at(active) and not self._in_state(AuthorityState.PREPARED)):
            await self._prepare()
        if active is None or now >= activate_at(active):
            await self._activate()
        await self._settle()

    def _next_step(self) -> datetime:
        active = self._in_state(AuthorityState.ACTIVE)
        if active is None:
            return self._clock.now()
        prepared = self._in_state(AuthorityState.PREPARED)
        own = activate_at(active) if prepared else prepare_at(active)
        jwt = [] if self._jwt is None else [self._jwt.next_step()]
        return min([own, *jwt, *(old.not_after for old in self._all_in(AuthorityState.OLD))])

    async def _prepare(self) -> None:
        if self._in_state(AuthorityState.PREPARED):
            return
        key_id = KEY_PREFIX + secrets.token_hex(8)
        public_key = await self._keys.generate(key_id)
        valid = lifetime(self._clock.now(), self._ca_ttl)
        builder = self_signed_ca(self._trust_domain, public_key, valid)
        certificate = await self._keys.sign_certificate(key_id, builder)
        authority = Authority(
            id=authority_id(public_key),
            key_id=key_id,
            chain=(certificate,),
            state=AuthorityState.PREPARED,
            not_before=valid.not_before,
            not_after=valid.not_after,
        )
        await self._record("authority.prepare", authority)
        await self._keep(authority)
        await self._publish_bundle()

    async def _activate(self) -> None:
        prepared = self._in_state(AuthorityState.PREPARED)
        if prepared is None:
            return
        retired = [replace(old, state=AuthorityState.OLD) for old in self._all_in(AuthorityState.ACTIVE)]
        active = replace(prepared, state=AuthorityState.ACTIVE)
        await self._record("authority.activate", active)
        await self._keep(active, *retired)
        for old in retired:
            await self._keys.delete(old.key_id)

    async def _forget_expired(self) -> None:
        now = self._clock.now()
        for authority in self.all():
            if authority.not_after <= now and authority.state is not AuthorityState.ACTIVE:
                await self._record("authority.expire", authority)
                await self._store.authorities.delete(authority.id)
                del self._known[authority.id]
                await self._keys.delete(authority.key_id)

    async def _retire_keyless(self) -> None:
        """An authority whose key is lost (kept in memory only, say) still vouches for what it signed."""
        usable = await self._keys.key_ids()
        signing = (AuthorityState.ACTIVE, AuthorityState.PREPARED)
        for authority in self.all():
            if authority.state in signing and authority.key_id not in usable:
                await self._record("authority.retire-keyless", authority)
                await self._keep(replace(authority, state=AuthorityState.OLD))

    async def _forget_spare_keys(self) -> None:
        """Remove keys that a crash left between two steps."""
        used = {
            authority.key_id
            for authority in self._known.values()
            if authority.state is not AuthorityState.OLD
        }
        for key_id in await self._keys.key_ids():
            if key_id.startswith(KEY_PREFIX) and key_id not in used:
                await self._keys.delete(key_id)

    async def _settle(self) -> None:
        """Make bundle and signer agree with the authorities."""
        await self._publish_bundle()
        active = self._in_state(AuthorityState.ACTIVE)
        if active is not None and (self._signer is None or self._signer.authority.id != active.id):
            issuer = Issuer.of(active.chain[0], self._trust_domain)
            self._signer = Signer(authority=active, issuer=issuer, keys=self._keys)
            self._beacon.advance()
        if self._jwt is not None:
            await self._jwt.settle()

    async def _publish_bundle(self) -> None:
        certificates = tuple(
            authority.chain[-1] for authority in self.all() if authority.state is not AuthorityState.REVOKED
        )
        jwt = () if self._jwt is None else self._jwt.published()
        if (certificates, jwt) == (self._bundle.x509_authorities, self._bundle.jwt_authorities):
            return
        bundle = TrustBundle(
            trust_domain=self._trust_domain,
            x509_authorities=certificates,
            jwt_authorities=jwt,
            sequence=self._bundle.sequence + 1,
            # Five looks between the preparation of an authority and its first signature (a third of its life).
            refresh_hint=max(1, int(self._ca_ttl.total_seconds() / 15)),
        )
        await self._store.bundles.put(bundle)
        self._bundle = bundle
        self._beacon.advance()

    async def _keep(self, *authorities: Authority) -> None:
        await self._store.authorities.put(*authorities)
        self._known.update({authority.id: authority for authority in authorities})

    async def _record(self, action: str, authority: Authority) -> None:
        details = {"not_after": authority.not_after.isoformat(), "key_id": authority.key_id}
        event = AuditEvent(actor=ACTOR, action=action, subject=authority.id, details=details)
        await self._audit.record([event])

    def _in_state(self, state: AuthorityState) -> Authority | None:
        return next(iter(self._all_in(state)), None)

    def _all_in(self, state: AuthorityState) -> Sequence[Authority]:
        return [authority for authority in self.all() if authority.state is state]
