"""The signing keys of all servers: kept in the barrier, changed by the one that leads, followed by the others."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from vestibule.audit import AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.pki.keys import key_from_pkcs8
from vestibule.store.barrier import Barrier, Change, Item, Put
from vestibule.store.codes import CONFLICT
from vestibule.tokens.codes import BUSY, NO_SIGNING_KEY, UNKNOWN_SIGNING_KEY
from vestibule.tokens.keyring import (
    KeyState,
    KeyTimes,
    Ring,
    SigningKey,
    decoded,
    encoded,
    found,
    hurried,
    key_set,
    planned,
    without,
)
from vestibule.tokens.news import News
from vestibule.tokens.signing import Signer

SPACE: Final = "tokens"
ROW: Final = "keys"
LONGEST_UNSEEN: Final = timedelta(hours=1)
"""How long a server goes on signing that cannot read the database: what became of the keys there it does not know."""

_ATTEMPTS: Final = 8
_log = logging.getLogger(__name__)

Record: TypeAlias = Callable[[Sequence[AuditEvent]], Awaitable[None]]
"""Puts on record what is about to be done with keys; what it raises keeps it from being done."""


class Beside(Protocol):
    """What is to be kept in the same moment as a change of keys, or nothing is."""

    async def look(self) -> None:
        """See how it is now."""
        ...

    def changes(self) -> Sequence[Change]:
        """What has to be kept."""
        ...

    def kept(self, revisions: Sequence[int]) -> None:
        """It is kept."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """What operators see of a key."""

    key_id: str
    state: KeyState
    published: datetime
    begins: datetime | None
    until: datetime | None
    ended: datetime | None


async def _unrecorded(events: Sequence[AuditEvent]) -> None:
    """For tests that look elsewhere."""


class SigningKeys:
    """``ports.TokenKeySource``, and what signs."""

    def __init__(
        self,
        barrier: Barrier,
        clock: Clock,
        *,
        times: KeyTimes | None = None,
        record: Record = _unrecorded,
    ) -> None:
        self._barrier = barrier
        self._clock = clock
        self._times = times or KeyTimes()
        self._record = record
        self._news = News()
        self._seen: tuple[int, Ring] = (0, ())
        self._looked: datetime | None = None
        self._signer: Signer | None = None
        self._listed: tuple[KeyInfo, ...] = ()
        self._publics: Mapping[str, EllipticCurvePublicKey] = {}
        self.now = ""
        """A JWK set in JSON.  What was public stays so while the secret manager is sealed."""

    @property
    def revision(self) -> int:
        """Grows with each change."""
        return self._news.revision

    async def changed(self, since: int) -> int:
        """Return once ``revision`` is another than ``since``."""
        return await self._news.changed(since)

    def signer(self, now: datetime) -> Signer:
        """What signs now.  Raises: VST6030."""
        if self._barrier.is_sealed:
            raise NO_SIGNING_KEY.error("the secret manager is sealed")
        if self._signer is None or self._looked is None:
            raise NO_SIGNING_KEY.error("the signing keys have not been read yet")
        if now > self._looked + LONGEST_UNSEEN:
            raise NO_SIGNING_KEY.error("the signing keys could not be read for an hour")
        return self._signer

    def public(self, key_id: str) -> EllipticCurvePublicKey | None:
        """The key of this ID, unless it is forgotten or revoked."""
        return self._publics.get(key_id)

    def listed(self) -> tuple[KeyInfo, ...]:
        """All keys, without what is secret; as they were last seen."""
        return self._listed

    # --------------------------------------------------------------------------------------------- following

    async def look(self) -> None:
        """See what there is now.  Raises: VST5000, VST5002, errors of the store."""
        before = self._seen[0]
        item = await self._barrier.get(SPACE, ROW)
        self._looked = self._clock.now()
        if item is not None and self._seen[0] != before and item.revision < self._seen[0]:
            return  # it was changed here meanwhile: a key that was revoked must not come back
        if item is not None and (item.revision != self._seen[0] or self._signer is None):
            self._see(item)

    async def plan(self) -> None:
        """See to it that the keys are as they should be now: for the server that leads.  Raises: as ``look``."""
        await self.look()
        await self._change(lambda ring, now: planned(ring, now, self._times), "token.key.plan")

    def forget(self) -> None:
        """Forget what is secret: for the moment of sealing."""
        self._seen, self._signer, self._looked = (0, ()), None, None

    # --------------------------------------------------------------------------------------------- operators

    async def rotate(self) -> None:
        """The next key signs as soon as it is known to verifiers: often at once."""

        def change(ring: Ring, now: datetime) -> Ring:
            return planned(hurried(ring, now, self._times), now, self._times)

        await self.look()
        await self._change(change, "token.key.rotate")

    async def revoke(self, key_id: str, beside: Beside) -> None:
        """A key counts no longer; if it signed, the next one does at once.  Raises: VST6031, VST6034."""

        def change(ring: Ring, now: datetime) -> Ring:
            if all(each.key_id != key_id for each in ring):
                raise UNKNOWN_SIGNING_KEY.error(f"no signing key is called {key_id[:80]!r}")
            return planned(without(ring, key_id), now, self._times)

        await self.look()
        await self._change(change, "token.key.revoke", beside)

    # ------------------------------------------------------------------------------------------------ inside

    async def _change(
        self, change: Callable[[Ring, datetime], Ring], action: str, beside: Beside | None = None
    ) -> None:
        """Change the ring; anew, if another server did so in the same moment.  Raises: VST6034."""
        for _ in range(_ATTEMPTS):
            revision, ring = self._seen
            if (changed := change(ring, self._clock.now())) == ring:
                return
            await self._record([_event(action, ring, changed)])
            put = Put(space=SPACE, key=ROW, value=encoded(changed), expected=revision)
            try:
                revisions = await self._barrier.apply([put, *(() if beside is None else beside.changes())])
            except VestibuleError as error:
                if error.code is not CONFLICT:
                    raise
                await self.look()
                if beside is not None:
                    await beside.look()
            else:
                self._see(Item(value=put.value, revision=revisions[0]))
                if beside is not None:
                    beside.kept(revisions[1:])
                return
        raise BUSY.error("the signing keys were changed by another server again and again")

    def _see(self, item: Item) -> None:
        ring = decoded(item.value)
        current = found(ring, KeyState.CURRENT)
        keys = {each.key_id: key_from_pkcs8(each.private) for each in ring}
        self._seen = item.revision, ring
        self._signer = None if current is None else Signer(keys[current.key_id], current.key_id)
        self._listed = tuple(_info(each) for each in ring)
        self._publics = {key_id: key.public_key() for key_id, key in keys.items()}
        if (now := key_set(ring)) != self.now:
            self.now = now
            self._news.tell()


def _info(key: SigningKey) -> KeyInfo:
    return KeyInfo(
        key_id=key.key_id,
        state=key.state,
        published=key.published,
        begins=key.begins,
        until=key.until,
        ended=key.ended,
    )


def _event(action: str, before: Ring, after: Ring) -> AuditEvent:
    was, will = ({each.key_id: each.state.value for each in ring} for ring in (before, after))
    changed = sorted(key_id for key_id in was.keys() | will.keys() if was.get(key_id) != will.get(key_id))
    current = found(after, KeyState.CURRENT)
    return AuditEvent(
        actor="server",
        action=action,
        subject="" if current is None else current.key_id,
        details={"changed": [f"{each}: {was.get(each, '-')} → {will.get(each, '-')}" for each in changed]},
    )
