"""The trust domain's JWT signing authorities: prepared → active → old, as those of certificates.

A key is in the bundle from its preparation, half a life before its first signature, until it expires; no token
that it signs outlives it.  Only the bundle's keeper (``identity.authorities``) moves this on, so that a key is
published before it is used.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.identity import rotation
from vestibule.identity.codes import NO_ACTIVE_AUTHORITY
from vestibule.keys import KeyManager
from vestibule.pki.keys import public_key_der
from vestibule.pki.profiles import authority_id
from vestibule.records import AuthorityState, JwtKey
from vestibule.spiffe import JwtAuthority
from vestibule.store import Store

KEY_PREFIX: Final = "jwt-key-"
ACTOR: Final = "server"


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

    def __init__(self, store: Store, keys: KeyManager, audit: Audit, clock: Clock, ttl: timedelta) -> None:
        """``ttl`` is the life of each key."""
        self._store = store
        self._keys = keys
        self._audit = audit
        self._clock = clock
        self._ttl = ttl
        self._known: dict[str, JwtKey] = {}
        self._signer: JwtSigner | None = None

    async def start(self) -> None:
        """Read what is kept.  Raises: errors of store, keys, audit."""
        self._known = {key.id: key for key in await self._store.jwt_keys.all()}
        await self._retire_keyless()

    def all(self) -> list[JwtKey]:
        """All keys, oldest first."""
        return sorted(self._known.values(), key=lambda key: (key.not_before, key.id))

    def published(self) -> tuple[JwtAuthority, ...]:
        """What belongs in the bundle."""
        return tuple(
            JwtAuthority(key_id=key.id, public_key=key.public_key, expires_at=key.not_after)
            for key in self.all()
            if key.state is not AuthorityState.REVOKED
        )

    @property
    def signer(self) -> JwtSigner:
        """The active key.  Raises: VST1300."""
        if self._signer is None:
            raise NO_ACTIVE_AUTHORITY.error("there is no active JWT signing authority yet")
        return self._signer

    async def advance(self) -> None:
        """Do everything that is due now; the new signer signs only after ``settle``."""
        await self._forget_expired()
        active = self._in_state(AuthorityState.ACTIVE)
        now = self._clock.now()
        if active is None or now >= rotation.prepare_at(active.not_before, active.not_after):
            await self._prepare()
        if active is None or now >= rotation.activate_at(active.not_before, active.not_after):
            await self._activate()

    async def settle(self) -> None:
        """The bundle that holds ``published`` is out: sign with the active key, and forget keys that do not sign."""
        active = self._in_state(AuthorityState.ACTIVE)
        if active is not None and (self._signer is None or self._signer.key.id != active.id):
            self._signer = JwtSigner(key=active, keys=self._keys)
        used = {key.key_id for key in self._known.values() if key.state is not AuthorityState.OLD}
        for key_id in await self._keys.key_ids():
            if key_id.startswith(KEY_PREFIX) and key_id not in used:
                await self._keys.delete(key_id)

    def next_step(self) -> datetime:
        """When ``advance`` has something to do."""
        active = self._in_state(AuthorityState.ACTIVE)
        if active is None:
            return self._clock.now()
        due = rotation.activate_at if self._in_state(AuthorityState.PREPARED) else rotation.prepare_at
        ends = [key.not_after for key in self._known.values() if key.state is AuthorityState.OLD]
        return min([due(active.not_before, active.not_after), *ends])

    async def _prepare(self) -> None:
        if self._in_state(AuthorityState.PREPARED):
            return
        key_id = KEY_PREFIX + secrets.token_hex(8)
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
        await self._record("jwt-authority.prepare", key)
        await self._keep(key)

    async def _activate(self) -> None:
        prepared = self._in_state(AuthorityState.PREPARED)
        if prepared is None:
            return
        retired = [replace(key, state=AuthorityState.OLD) for key in self._all_in(AuthorityState.ACTIVE)]
        active = replace(prepared, state=AuthorityState.ACTIVE)
        await self._record("jwt-authority.activate", active)
        await self._keep(active, *retired)

    async def _forget_expired(self) -> None:
        now = self._clock.now()
        for key in self.all():
            if key.not_after <= now and key.state is not AuthorityState.ACTIVE:
                await self._record("jwt-authority.expire", key)
                await self._store.jwt_keys.delete(key.id)
                del self._known[key.id]

    async def _retire_keyless(self) -> None:
        """A key whose private half is lost (kept in memory only, say) still vouches for what it signed."""
        usable = await self._keys.key_ids()
        for key in self.all():
            if key.state in (AuthorityState.ACTIVE, AuthorityState.PREPARED) and key.key_id not in usable:
                await self._record("jwt-authority.retire-keyless", key)
                await self._keep(replace(key, state=AuthorityState.OLD))

    async def _keep(self, *keys: JwtKey) -> None:
        await self._store.jwt_keys.put(*keys)
        self._known.update({key.id: key for key in keys})

    async def _record(self, action: str, key: JwtKey) -> None:
        details = {"not_after": key.not_after.isoformat(), "key_id": key.key_id}
        await self._audit.record([AuditEvent(actor=ACTOR, action=action, subject=key.id, details=details)])

    def _in_state(self, state: AuthorityState) -> JwtKey | None:
        return next(iter(self._all_in(state)), None)

    def _all_in(self, state: AuthorityState) -> list[JwtKey]:
        return [key for key in self.all() if key.state is state]
