"""The trust domain's signing authorities of tokens, JWT- or WIT-SVIDs (``identity.lifecycle`` has their states).

A key is in the bundle from its preparation, half a life before its first signature, until it expires; no token
that it signs outlives it.  Only the bundle's keeper (``identity.authorities``) moves this on, so that a key is
published before it is used.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from vestibule.audit import Audit
from vestibule.clock import Clock
from vestibule.identity import rotation
from vestibule.identity.codes import NO_ACTIVE_AUTHORITY
from vestibule.identity.lifecycle import ACTOR, ALONE, Lifecycle, Ownership
from vestibule.identity.token_kinds import JWT, TokenKind
from vestibule.keys import KeyManager
from vestibule.pki.keys import public_key_der
from vestibule.pki.profiles import authority_id
from vestibule.records import AuthorityState, JwtKey
from vestibule.spiffe import JwtAuthority
from vestibule.store import Store

Publish = Callable[[JwtAuthority], Awaitable[None]]
"""Makes a new key known above this server before it is kept.  Raises: VST1310, or an error of the upstream's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSigner:
    """The active key, ready to sign."""

    key: JwtKey
    keys: KeyManager

    async def sign(self, data: bytes) -> bytes:
        """The signature, DER."""
        return await self.keys.sign(self.key.key_id, data)


class JwtAuthorities:
    """Holds the keys and replaces them in time."""

    def __init__(
        self,
        store: Store,
        keys: KeyManager,
        audit: Audit,
        clock: Clock,
        ttl: timedelta,
        ownership: Ownership = ALONE,
        kind: TokenKind = JWT,
    ) -> None:
        """``ttl`` is the life of each key; ``kind`` is the kind of tokens that they sign."""
        self._kind = kind
        self._keys = keys
        self._clock = clock
        self._ttl = ttl
        self._signer: JwtSigner | None = None
        self.life: Lifecycle[JwtKey] = Lifecycle(
            kind.kept(store),
            keys,
            audit,
            clock,
            kind=kind.name,
            key_prefix=kind.key_prefix,
            ownership=ownership,
        )
        self.publish: Publish = _nowhere
        self.is_withdrawn: Callable[[str], bool] = lambda _: False
        """Whether a key was tainted or revoked above this server, and so has to be replaced at once."""

    async def start(self) -> None:
        """Read what is kept.  Raises: errors of store, keys, audit."""
        await self.life.start()

    def all(self) -> list[JwtKey]:
        """All keys, oldest first."""
        return self.life.all()

    @property
    def signer(self) -> JwtSigner:
        """The active key.  Raises: VST1300."""
        if self._signer is None:
            raise NO_ACTIVE_AUTHORITY.error(f"there is no active {self._kind.shown} signing authority yet")
        return self._signer

    async def advance(self) -> None:
        """Do everything that is due now; the new signer signs only after ``settle``."""
        await self.life.forget_expired()
        active, now = self.life.active, self._clock.now()
        urgent = active is None or self.is_withdrawn(active.id)
        if urgent or (active and now >= rotation.prepare_at(active.not_before, active.not_after)):
            prepared = self.life.prepared
            if prepared is None or self.is_withdrawn(prepared.id):
                await self.prepare()
        if urgent or (active and now >= rotation.activate_at(active.not_before, active.not_after)):
            prepared = self.life.prepared
            if prepared is not None:
                await self.life.activate(prepared.id)

    async def settle(self) -> None:
        """The bundle that holds ``published`` is out: sign with the active key, and forget keys that do not sign."""
        active = self.life.active
        if active is not None and (self._signer is None or self._signer.key.id != active.id):
            self._signer = JwtSigner(key=active, keys=self._keys)
        await self.life.forget_spare_keys()

    def next_step(self) -> datetime:
        """When ``advance`` has something to do."""
        active = self.life.active
        if active is None:
            return self._clock.now()
        due = rotation.activate_at if self.life.prepared else rotation.prepare_at
        return min([due(active.not_before, active.not_after), *self.life.ends()])

    async def prepare(self, actor: str = ACTOR) -> JwtKey:
        """Make the next key.  Raises: errors of keys, audit, store, and of the upstream."""
        key_id = self.life.new_key_id(secrets.token_hex(8))
        public_key = await self._keys.generate(key_id)
        now = self._clock.now()
        key = JwtKey(
            id=authority_id(public_key),
            key_id=key_id,
            public_key=public_key_der(public_key),
            state=AuthorityState.PREPARED,
            not_before=now,
            not_after=now + self._ttl,
        )
        await self.publish(as_authority(key))
        await self.life.prepare(key, actor)
        return key


def as_authority(key: JwtKey) -> JwtAuthority:
    """A key as bundles have it."""
    return JwtAuthority(
        key_id=key.id,
        public_key=key.public_key,
        expires_at=key.not_after,
        tainted=key.state is AuthorityState.TAINTED,
    )


async def _nowhere(_: JwtAuthority) -> None:
    """There is nobody above this server."""
