"""The JWT keys of the whole trust domain: this server's, those of servers below it, and those of the one above.

Keys travel upwards: each server publishes its own, and what was published to it, to the server above.  The bundle
travels downwards: what the server above lists is what counts.  A key that it lists no more was revoked there.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.identity.codes import (
    JWT_KEY_REFUSED,
    JWT_KEY_REVOKED,
    MISSING_PARAMETER,
    TOO_MANY_JWT_KEYS,
    UNKNOWN_AUTHORITY,
)
from vestibule.identity.jwt_authorities import JwtAuthorities, as_authority
from vestibule.identity.lifecycle import Step, after
from vestibule.identity.token_kinds import JWT, TokenKind
from vestibule.identity.upstream import UpstreamServer
from vestibule.pki.jwk import load_jwt_key
from vestibule.records import AuthorityState, JwtKey, PublishedJwtKey
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle
from vestibule.store import Store

MAX_KEY_ID: Final = 256
MAX_PUBLISHED: Final = 100
"""Live keys per server below: a stolen one must not fill everybody's bundle."""

_log = logging.getLogger(__name__)


class JwtTrust:
    """Knows which JWT keys are in the bundle."""

    def __init__(
        self,
        store: Store,
        audit: Audit,
        clock: Clock,
        own: JwtAuthorities | None,
        upstream: UpstreamServer | None,
        kind: TokenKind = JWT,
    ) -> None:
        """``kind`` is the kind of tokens that the keys sign."""
        self._kind = kind
        self._kept = kind.published(store)
        self._audit = audit
        self._clock = clock
        self._own = own
        self._upstream = upstream
        self._published: dict[str, PublishedJwtKey] = {}
        self._listed: dict[str, JwtAuthority] | None = None
        self._confirmed: set[str] = set()
        self._refused: set[str] = set()
        self._withdrawn: set[str] = set()
        self._alone = False
        if own is not None and upstream is not None:
            own.publish, own.is_withdrawn = self._publish_above, self.is_withdrawn

    async def start(self) -> None:
        """Read what is kept."""
        self._published = {key.id: key for key in await self._kept.all()}

    def take(self, keys: tuple[JwtAuthority, ...]) -> None:
        """What the server above lists; of no interest to who publishes nothing there."""
        if self._upstream is None:
            return
        self._listed = {key.key_id: key for key in keys}
        self._confirmed |= self._listed.keys()

    def is_withdrawn(self, key_id: str) -> bool:
        """Whether the server above tainted or revoked a key that it knew."""
        if key_id in self._refused:
            return True
        if self._listed is None:
            return False
        listed = self._listed.get(key_id)
        return listed.tainted if listed else key_id in self._confirmed

    def published(self, before: TrustBundle) -> tuple[JwtAuthority, ...]:
        """The keys that belong in the bundle; ``before`` is the bundle until now."""
        own = {} if self._own is None else {key.id: as_authority(key) for key in self._own.all()}
        below = {key.id: _authority(key) for key in self._published.values()}
        ours = {**below, **own}
        found = {**self._above(before, ours), **ours}
        return tuple(
            replace(key, tainted=key.tainted or self._is_tainted_above(key_id))
            for key_id, key in found.items()
            if not self.is_revoked(key_id) and not self._is_gone_above(key_id)
        )

    def _above(self, before: TrustBundle, ours: dict[str, JwtAuthority]) -> dict[str, JwtAuthority]:
        """What the server above lists; until it has answered, what it listed before."""
        if self._upstream is None:
            return {}
        if self._listed is not None:
            return self._listed
        now = self._clock.now()
        return {
            key.key_id: key
            for key in self._kind.in_bundle(before)
            if key.key_id not in ours and (key.expires_at is None or key.expires_at > now)
        }

    def is_revoked(self, key_id: str) -> bool:
        """Whether a key of ours, or of a server below, was revoked here."""
        record: JwtKey | PublishedJwtKey | None = self._published.get(key_id)
        if self._own is not None and self._own.life.knows(key_id):
            record = self._own.life.get(key_id)
        return record is not None and record.state is AuthorityState.REVOKED

    def _is_gone_above(self, key_id: str) -> bool:
        return self.is_withdrawn(key_id) and not self._is_tainted_above(key_id)

    def _is_tainted_above(self, key_id: str) -> bool:
        listed = (self._listed or {}).get(key_id)
        return listed is not None and listed.tainted

    # ------------------------------------------------------------------------------------- upwards

    async def reconcile(self) -> None:
        """Tell the server above what it does not know: new keys, those tainted here, and those revoked here."""
        if self._upstream is None or self._listed is None:
            return
        own = [] if self._own is None else [as_authority(key) for key in self._own.all()]
        for key in (*own, *map(_authority, self._published.values())):
            if (news := self._news_above(key)) is None:
                continue
            try:
                await self._publish_above(news)
            except VestibuleError as error:
                if error.code.kind is Kind.UNAVAILABLE:
                    raise
                _log.error("the server above refuses %s key %s: %s", self._kind.shown, key.key_id, error)
                self._refused.add(key.key_id)

    def _news_above(self, key: JwtAuthority) -> JwtAuthority | None:
        """What to tell the server above about a key, if anything."""
        listed = (self._listed or {}).get(key.key_id)
        if self.is_revoked(key.key_id):
            # Once: a server that knows no withdrawal (SPIRE's) would be told for ever.
            if listed is None or key.key_id in self._withdrawn:
                return None
            self._withdrawn.add(key.key_id)
            return replace(key, tainted=True, expires_at=self._clock.now())
        if listed is None:
            return None if self.is_withdrawn(key.key_id) else key
        return key if key.tainted and not listed.tainted else None

    async def _publish_above(self, key: JwtAuthority) -> None:
        assert self._upstream is not None
        listed = await self._kind.publish(self._upstream, key)
        if listed is not None:
            self.take(listed)
        elif not self._alone:
            self._alone = True
            _log.warning(
                "the server above knows no %s-SVIDs: those of this server are not known there",
                self._kind.shown,
            )

    # ----------------------------------------------------------------------------------- from below

    async def publish(
        self, key: JwtAuthority, publisher: SpiffeId, others: tuple[JwtAuthority, ...] = ()
    ) -> None:
        """Take the key of a server below into the bundle, and pass it on upwards.

        1. It has an ID, and an end that is yet to come.
        2. It is a public key of a kind that JWT-SVIDs are verified with.
        3. Its ID is not another key's, nor one of ``others`` (the bundle's keys of the other kind), and it was not
           revoked here.
        4. Its publisher has not too many.
        5. What is kept of another publisher's key stays: a stolen server below must not end, or taint, the tokens of
           the one beside it.  Servers of one database, which all publish the same keys, have one identity.

        A key that its own publisher calls tainted and over, it has revoked: then it is withdrawn here, too.
        Raises: VST1313 (steps 1 to 3), VST1314 (3), VST1315 (4), errors of audit, store and upstream.
        """
        now = self._clock.now()
        if self._is_withdrawal(key, publisher):
            await self._withdraw(key, str(publisher))
            return
        if not 0 < len(key.key_id) <= MAX_KEY_ID:  # 1
            raise JWT_KEY_REFUSED.error("invalid JWT authority: missing or overlong key ID")
        if key.expires_at is None or key.expires_at <= now:
            raise JWT_KEY_REFUSED.error("invalid JWT authority: it has no end, or has expired")
        _check_key(key.public_key)  # 2
        kept = self._published.get(key.key_id)
        if self._own is not None and self._own.life.knows(key.key_id):  # 3
            raise JWT_KEY_REFUSED.error("invalid JWT authority: its ID is that of a key of this server")
        if any(key.key_id == other.key_id for other in others):
            raise JWT_KEY_REFUSED.error("invalid authority: its ID is that of a key of another kind")
        if kept is not None and kept.public_key != key.public_key:
            raise JWT_KEY_REFUSED.error("invalid JWT authority: its ID is that of another key")
        if kept is not None and kept.state is AuthorityState.REVOKED:
            raise JWT_KEY_REVOKED.error(f"JWT authority {key.key_id} was revoked")
        if kept is not None and kept.publisher != publisher:  # 5
            return
        live = [each for each in self._published.values() if each.publisher == publisher]
        if kept is None and len(live) >= MAX_PUBLISHED:  # 4
            raise TOO_MANY_JWT_KEYS.error(f"{publisher} has published {len(live)} JWT authorities")
        tainted = key.tainted or (kept is not None and kept.state is AuthorityState.TAINTED)
        record = PublishedJwtKey(
            id=key.key_id,
            public_key=key.public_key,
            publisher=publisher,
            # It signs somewhere else; here it can be tainted at once.
            state=AuthorityState.TAINTED if tainted else AuthorityState.OLD,
            not_before=kept.not_before if kept else now,
            not_after=key.expires_at,
        )
        if record == kept:
            return
        await self._record(f"{self._kind.name}.publish", record, str(publisher))
        if self._upstream is not None:
            await self._publish_above(_authority(record))
        await self._keep(record)

    def _is_withdrawal(self, key: JwtAuthority, publisher: SpiffeId) -> bool:
        kept = self._published.get(key.key_id)
        over = key.expires_at is not None and key.expires_at <= self._clock.now()
        same = kept is not None and (kept.publisher, kept.public_key) == (publisher, key.public_key)
        return same and key.tainted and over

    async def _withdraw(self, key: JwtAuthority, publisher: str) -> None:
        state = self._published[key.key_id].state
        if state is AuthorityState.OLD:
            await self.step(Step.TAINT, key.key_id, publisher)
        if state is not AuthorityState.REVOKED:
            await self.step(Step.REVOKE, key.key_id, publisher)
        if self._upstream is not None:
            await self._publish_above(key)

    def knows(self, key_id: str) -> bool:
        """Whether a server below published this key."""
        return key_id in self._published

    async def step(self, step: Step, key_id: str, actor: str) -> PublishedJwtKey:
        """Taint or revoke a key that a server below published.  Raises: VST1202, VST1304, VST1306, VST1308."""
        if not key_id:
            raise MISSING_PARAMETER.error("no authority ID provided")
        if (key := self._published.get(key_id)) is None:
            raise UNKNOWN_AUTHORITY.error(f"unexpected authority ID {key_id[:80]!r}")
        moved = replace(key, state=after(key_id, key.state, step))
        await self._record(f"{self._kind.name}.{step.value}", moved, actor)
        await self._keep(moved)
        return moved

    async def forget_expired(self) -> None:
        """Forget published keys that are over."""
        now = self._clock.now()
        for key in list(self._published.values()):
            if key.not_after <= now:
                await self._record(f"{self._kind.name}.expire", key, "server")
                await self._kept.delete(key.id)
                del self._published[key.id]

    async def _keep(self, key: PublishedJwtKey) -> None:
        await self._kept.put(key)
        self._published[key.id] = key

    async def _record(self, action: str, key: PublishedJwtKey, actor: str) -> None:
        details = {"not_after": key.not_after.isoformat(), "publisher": str(key.publisher)}
        await self._audit.record([AuditEvent(actor=actor, action=action, subject=key.id, details=details)])


def _check_key(der: bytes) -> None:
    try:
        load_jwt_key(der)
    except (ValueError, VestibuleError) as error:
        raise JWT_KEY_REFUSED.error("invalid JWT authority: not a public key of a known kind") from error


def _authority(key: PublishedJwtKey) -> JwtAuthority:
    return JwtAuthority(
        key_id=key.id,
        public_key=key.public_key,
        expires_at=key.not_after,
        tainted=key.state is AuthorityState.TAINTED,
    )
