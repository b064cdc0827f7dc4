"""The X.509 signing authorities (``identity.lifecycle`` has their states): self-signed, or signed by an upstream."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509 import CertificateBuilder

from vestibule.audit import Audit
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity import rotation
from vestibule.identity.codes import NO_ACTIVE_AUTHORITY, UPSTREAM_FAILED
from vestibule.identity.lifecycle import ACTOR, ALONE, Lifecycle, Ownership
from vestibule.identity.roots import Roots
from vestibule.identity.upstream import UpstreamAuthority, UpstreamChain
from vestibule.keys import KeyManager
from vestibule.pki.authority_chains import check_authority_chain
from vestibule.pki.csr import csr_builder
from vestibule.pki.leaves import UnsignedSvid
from vestibule.pki.profiles import BACKDATE, Issuer, authority_id, lifetime, self_signed_ca
from vestibule.records import Authority, AuthorityState
from vestibule.spiffe import TrustDomain
from vestibule.store import Store

KEY_PREFIX: Final = "x509-ca-"
MINT_SECONDS: Final = 30.0


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

    async def sign_svid(self, unsigned: UnsignedSvid) -> bytes:
        """The signed certificate, DER."""
        return unsigned.signed(await self.keys.sign(self.authority.key_id, unsigned.signing_input))

    @property
    def intermediates(self) -> tuple[bytes, ...]:
        """What follows the leaf in a chain: nothing below a self-signed authority."""
        return self.authority.intermediates


class X509Authorities:
    """Holds the authorities and replaces them in time."""

    def __init__(
        self,
        store: Store,
        keys: KeyManager,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        ca_ttl: timedelta,
        upstream: UpstreamAuthority | None,
        roots: Roots,
        ownership: Ownership = ALONE,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._trust_domain = trust_domain
        self._ca_ttl = ca_ttl
        self._upstream = upstream
        self._roots = roots
        self._signer: Signer | None = None
        self.life: Lifecycle[Authority] = Lifecycle(
            store.authorities,
            keys,
            audit,
            clock,
            kind="authority",
            key_prefix=KEY_PREFIX,
            ownership=ownership,
        )

    @property
    def signer(self) -> Signer:
        """The active authority, ready to sign.  Raises: VST1300."""
        if self._signer is None:
            raise NO_ACTIVE_AUTHORITY.error("there is no active signing authority yet")
        return self._signer

    async def advance(self) -> None:
        """Do everything that is due now; the new signer signs only after ``settle``."""
        await self.life.forget_expired()
        active, now = self.life.active, self._clock.now()
        urgent = active is None or self.is_unfit(active)
        if active is None or urgent or now >= prepare_at(active):
            prepared = self.life.prepared
            if prepared is None or self.is_unfit(prepared):
                await self.prepare()
        if active is None or urgent or now >= activate_at(active):
            prepared = self.life.prepared
            if prepared is not None:
                await self.life.activate(prepared.id)

    def is_unfit(self, authority: Authority) -> bool:
        """Whether an authority has to be replaced at once.

        1. It is self-signed below an upstream, or the other way round: the configuration has changed.
        2. The root at its end is tainted, or the upstream has none such any more.
        """
        if bool(authority.upstream_authority_id) is not (self._upstream is not None):  # 1
            return True
        return self._roots.is_distrusted(authority.upstream_authority_id)  # 2

    async def settle(self) -> bool:
        """The bundle is out: sign with the active authority.  Says whether that is another one than before."""
        active = self.life.active
        changed = active is not None and (self._signer is None or self._signer.authority.id != active.id)
        if active is not None and changed:
            issuer = Issuer.of(active.chain[0], self._trust_domain)
            # Nothing may outlive the certificates above it, either.
            issuer = replace(issuer, not_after=active.not_after)
            self._signer = Signer(authority=active, issuer=issuer, keys=self._keys)
        await self.life.forget_spare_keys()
        return changed

    def next_step(self) -> datetime:
        """When ``advance`` has something to do."""
        active = self.life.active
        if active is None:
            return self._clock.now()
        due = activate_at if self.life.prepared else prepare_at
        return min([due(active), *self.life.ends()])

    async def prepare(self, actor: str = ACTOR) -> Authority:
        """Make the next authority.  Raises: VST1310, errors of keys, audit, store, and of the upstream."""
        key_id = self.life.new_key_id(secrets.token_hex(8))
        public_key = await self._keys.generate(key_id)
        make = self._self_signed if self._upstream is None else self._minted
        authority = await make(key_id, public_key)
        await self.life.prepare(authority, actor)
        return authority

    async def _self_signed(self, key_id: str, public_key: EllipticCurvePublicKey) -> Authority:
        valid = lifetime(self._clock.now(), self._ca_ttl)
        builder = self_signed_ca(self._trust_domain, public_key, valid)
        return Authority(
            id=authority_id(public_key),
            key_id=key_id,
            chain=(await self._keys.sign_certificate(key_id, builder),),
            state=AuthorityState.PREPARED,
            not_before=self._clock.now() - BACKDATE,  # the certificate's, but finer: who came after whom
            not_after=valid.not_after,
        )

    async def _minted(self, key_id: str, public_key: EllipticCurvePublicKey) -> Authority:
        answer = await self._mint(await self._keys.sign_csr(key_id, csr_builder(self._trust_domain.id)))
        now = self._clock.now()
        try:
            facts = check_authority_chain(answer.chain, answer.roots, public_key, self._trust_domain, now)
        except VestibuleError as error:
            raise UPSTREAM_FAILED.error(f"what the upstream issued is refused: {error.message}") from error
        self._roots.take(answer.roots)
        return Authority(
            id=authority_id(public_key),
            key_id=key_id,
            chain=answer.chain,
            state=AuthorityState.PREPARED,
            # Its own lies further back or not so far, as the upstream likes it; rotation counts from here.
            not_before=now - BACKDATE,
            not_after=facts.not_after,
            upstream_authority_id=facts.root_id,
        )

    async def _mint(self, csr: bytes) -> UpstreamChain:
        assert self._upstream is not None
        try:
            async with asyncio.timeout(MINT_SECONDS):
                return await self._upstream.mint(csr, self._ca_ttl)
        except TimeoutError as error:
            raise UPSTREAM_FAILED.error(
                f"the upstream {self._upstream.name} did not answer within {MINT_SECONDS:g} s"
            ) from error
