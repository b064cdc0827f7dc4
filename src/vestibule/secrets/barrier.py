"""Encrypted storage on the rows of a store; ``keyring`` says how a row is sealed, ``head`` what guards all of them.

Three rows are the barrier's own: the *seal* (in clear: how to get the root key, ``secrets.sealing``), the *keyring*,
sealed by the root key, and the *head*, sealed as every other row by the active data key.  Every change reads and
rewrites the head in its transaction.  So a server that does not know yet that another one rotated the data key learns
it there, before it writes anything under the old one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, TypeVar

from vestibule.audit import Audit, AuditEvent
from vestibule.errors import VestibuleError
from vestibule.records import Place, SealedRow
from vestibule.secrets.codes import (
    BACKUP_UNREADABLE,
    DATA_KEY_EXHAUSTED,
    ROLLED_BACK,
    ROOT_KEY_REFUSED,
    TAMPERED,
)
from vestibule.secrets.head import Head, Tallies, differing
from vestibule.secrets.keyring import MAX_SEALED, Keyring, RowCipher, is_numbered, new_keyring
from vestibule.store import Changes, SealedRows
from vestibule.store.barrier import Change, Item, Put
from vestibule.store.codes import CONFLICT, SEALED

SPACE: Final = "barrier"
"""The space of the barrier's own rows, which no engine may use."""
SEAL: Final[Place] = (SPACE, "seal")
KEYRING: Final[Place] = (SPACE, "keyring")
HEAD: Final[Place] = (SPACE, "head")
RESTORED: Final[Place] = (SPACE, "restored")
"""There after a restore: revisions may have been used already in a time that is now undone, so a new data key is due.
Whoever puts it there from outside makes us rotate a key, and nothing else."""

_REENCRYPTED_AT_ONCE: Final = 32
_MAX_PURPOSES: Final = 256

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _OutdatedError(Exception):
    """Another server changed the keyring."""


class SealedBarrier:
    """``store.barrier.Barrier``."""

    def __init__(
        self, rows: SealedRows, changes: Changes, audit: Audit, *, max_sealed: int = MAX_SEALED
    ) -> None:
        """``audit`` is told of rows that were tampered with; a data key seals at most ``max_sealed`` values."""
        self._rows = rows
        self._changes = changes
        self._audit = audit
        self._max_sealed = max_sealed
        self._changing = asyncio.Lock()
        self._reloading = asyncio.Lock()
        self._unlocked: _Unlocked | None = None
        self._generation = 0

    @property
    def is_sealed(self) -> bool:
        """Whether there are no keys in memory."""
        return self._unlocked is None

    @property
    def generation(self) -> int:
        """The number of the last change that this server has seen."""
        return self._generation

    # ------------------------------------------------------------------------------------- what engines use

    async def get(self, space: str, key: str) -> Item | None:
        """What is kept under ``key``.  Raises: VST5002."""
        unlocked = self._open_to(space)
        if (row := await self._rows.get(space, key)) is None:
            return None
        if not unlocked.cipher.knows(row.key_id):
            unlocked = await self._reloaded(unlocked)
        try:
            return Item(value=unlocked.cipher.open(row), revision=row.revision)
        except VestibuleError as error:
            await self._report(error, f"{space}/{key}")
            raise

    async def keys(self, space: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """Keys that begin with ``prefix``."""
        self._open_to(space)
        return await self._rows.keys(space, prefix, after=after, limit=limit)

    async def children(self, space: str, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Next segments below ``prefix``."""
        self._open_to(space)
        return await self._rows.children(space, prefix, after=after, limit=limit)

    async def apply(self, changes: Sequence[Change]) -> tuple[int, ...]:
        """Make all changes, or none.  Raises: VST5001, VST5002, VST5003 (and then it is sealed), VST5005."""
        places = [(each.space, each.key) for each in changes]
        for space in {space for space, _ in places}:
            self._open_to(space)
        if len(set(places)) < len(places):
            raise ValueError("several changes of one key at once")
        return await self._revise(places, lambda draft: draft.applied(changes)) if changes else ()

    def mac(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SHA256 under the key for ``purpose``."""
        return hmac.digest(self._open_to("").mac_key(purpose), data, "sha256")

    # ----------------------------------------------------------------------------------- sealing and unsealing

    async def seal_row(self) -> SealedRow | None:
        """The seal, as it is in the database: not to be trusted until what it gives has unlocked us.  None: new."""
        return await self._rows.get(*SEAL)

    async def create(self, root_key: bytes, seal: bytes) -> bool:
        """Begin, with nothing kept, and unlocked; whether nothing was there before, and else nothing is done."""
        ring = new_keyring(_digest(seal))
        unlocked = _Unlocked(root_key=root_key, ring=ring, revision=1)

        def change(there: Mapping[Place, SealedRow]) -> Sequence[SealedRow | Place]:
            if there:
                return ()
            draft = _Draft(unlocked, there, Head(generation=0, sealed=0))
            draft.keep(_seal_row(seal, draft.revision))
            draft.keep(unlocked.keyring_row(draft.revision))
            return draft.finished()

        await self._rows.revise([SEAL, KEYRING, HEAD], change)
        row = await self._rows.get(*KEYRING)
        if row is None or not unlocked.owns(row):
            return False
        self._generation, self._unlocked = 1, unlocked
        return True

    async def unlock(self, root_key: bytes, *, at_least: int = 0) -> None:
        """Begin to read and write.  ``at_least`` is the generation that the database must have reached.

        Raises: VST5002 (a row of the barrier's own), VST5003, VST5004.
        """
        try:
            unlocked = await self._unlocking(root_key)
            head = await self._head(unlocked)
            if head.generation < at_least:
                raise _rolled_back(head.generation, at_least)
        except VestibuleError as error:
            await self._report(error, SPACE)
            raise
        self._generation, self._unlocked = head.generation, unlocked

    def lock(self) -> None:
        """Forget all keys."""
        self._unlocked = None

    async def run(self) -> None:
        """Follow what other servers do with the keyring."""
        async for _ in self._changes.subscribe("secrets"):
            if (unlocked := self._unlocked) is None:
                continue
            try:
                async with self._changing:  # what we are changing ourselves we know
                    await self._reloaded(self._unlocked or unlocked)
            except VestibuleError as error:
                _log.warning("the keyring cannot be read: %s", error)

    # ---------------------------------------------------------------------------------------------- keys

    @property
    def root_key(self) -> bytes:
        """The root key: a secret, for seals and peers.  Raises: VST5000."""
        return self._open_to("").root_key

    @property
    def key_id(self) -> int:
        """The number of the active data key.  Raises: VST5000."""
        return self._open_to("").ring.active

    @property
    def key_ids(self) -> tuple[int, ...]:
        """The numbers of all data keys that are still needed.  Raises: VST5000."""
        return tuple(sorted(self._open_to("").ring.keys))

    def derived(self, purpose: str) -> bytes:
        """A key for one purpose, as lasting as what is kept.  A secret.  Raises: VST5000."""
        return self._open_to("").ring.derived(purpose)

    async def rotate(self) -> int:
        """Write under a new data key from now on; its number.  What there is stays readable."""
        return (await self._change_keyring(Keyring.rotated)).active

    async def was_restored(self) -> bool:
        """Whether a backup was put in place, and no new data key has been made since."""
        return await self._rows.get(*RESTORED) is not None

    async def snapshot(self, findings: list[str]) -> AsyncGenerator[SealedRow, None]:
        """All rows as they are, encrypted, at one instant.

        When it has ended, the spaces in which rows are missing or not the newest are among the ``findings``.
        """
        unlocked, head = self._open_to(""), None
        counted = Tallies(unlocked.tally_key)
        async with aclosing(self._rows.snapshot()) as rows:
            async for row in rows:
                if row.place == HEAD:
                    head = row
                elif _is_counted(row):
                    counted.add(row.space, row.key, row.revision)
                yield row
        if head is None or not unlocked.reads(head):
            findings.append(SPACE)
        else:
            findings += differing(Head.decode(unlocked.cipher.open(head)).spaces, counted.result())

    async def replace(self, rows: AsyncIterable[SealedRow], *, overwrite: bool) -> bool:
        """Put other rows in place of all, and lock; False where there are some, unless they may be overwritten.

        Raises: VST5006 when they are not those of a barrier; then nothing is changed.
        """
        if not await self._rows.replace_all(_restored(rows), overwrite=overwrite):
            return False
        self._generation = 0
        self.lock()
        return True

    async def reseal(self, seal: bytes, root_key: bytes | None = None) -> None:
        """Keep another seal, and with it, if given, another root key."""

        def change(ring: Keyring) -> Keyring:
            return ring.under(_digest(seal))

        await self._change_keyring(change, seal=seal, root_key=root_key)

    async def reencrypt(self, leave: frozenset[Place] = frozenset()) -> frozenset[Place] | None:
        """Encrypt some rows anew that older data keys sealed; None when there is nothing left to do.

        Otherwise, to be passed with the next call: rows that cannot be read, and are left as they are.  When all rows
        are under the active key, the older keys are forgotten.
        """
        active = self.key_id
        older = await self._rows.sealed_before(active, _REENCRYPTED_AT_ONCE + len(leave))
        places = [place for place in older if place not in leave][:_REENCRYPTED_AT_ONCE]
        if places:
            damaged = await self._revise(places, _Draft.reencrypted, quiet=True)
            for space, key in damaged:
                await self._report(
                    TAMPERED.error(f"the row {key!r} of {space!r} cannot be read"), f"{space}/{key}"
                )
            return leave | damaged
        if not leave and len(self.key_ids) > 1:
            # Whoever wrote after the rotation has seen the head, which is under the active key: no row can have
            # come meanwhile that is under an older one.
            await self._change_keyring(Keyring.retired)
        return None

    @property
    def wants_rotation(self) -> bool:
        """Whether the active data key has sealed half of what it may."""
        return self._unlocked is not None and self._unlocked.sealed > self._max_sealed // 2

    async def verify(self, *, values: bool = False) -> tuple[list[str], list[Place]]:
        """Look at all rows: the spaces in which rows are missing or not the newest, and the rows that cannot be read.

        The latter only with ``values``, since that takes longer.  What is found is on record.
        """
        unlocked = self._open_to("")
        head, counted, unreadable = None, Tallies(unlocked.tally_key), []
        async with aclosing(self._rows.snapshot(bodies_of=None if values else SPACE)) as rows:
            number = 0
            async for row in rows:
                number += 1
                if number % 1000 == 0:
                    await asyncio.sleep(0)
                if row.place == HEAD:
                    head = row
                    continue
                if _is_counted(row):
                    counted.add(row.space, row.key, row.revision)
                if values and row.space != SPACE and not unlocked.reads(row):
                    unreadable.append(row.place)
        if head is None or not unlocked.cipher.knows(head.key_id):
            return await self._verified_anew(unlocked, values)
        spaces = differing(Head.decode(unlocked.cipher.open(head)).spaces, counted.result())
        for place in unreadable:
            await self._report(TAMPERED.error("a row cannot be read"), "/".join(place))
        for space in spaces:
            await self._report(TAMPERED.error(f"rows of {space!r} are missing or not the newest"), space)
        return spaces, unreadable

    # ------------------------------------------------------------------------------------------- inside

    async def _verified_anew(self, unlocked: _Unlocked, values: bool) -> tuple[list[str], list[Place]]:
        if await self._reloaded(unlocked) is unlocked:
            raise TAMPERED.error("the head of what is kept is gone, or under an unknown key")
        return await self.verify(values=values)

    def _open_to(self, space: str) -> _Unlocked:
        if space == SPACE:
            raise ValueError(f"the space {SPACE!r} is the barrier's own")
        if self._unlocked is None:
            raise SEALED.error("the secret manager is sealed")
        return self._unlocked

    async def _revise(
        self, places: Sequence[Place], edit: Callable[[_Draft], T], *, quiet: bool = False
    ) -> T:
        while True:
            unlocked, outcome = self._open_to(""), list[tuple[T, int]]()
            try:
                await self._rows.revise([HEAD, *places], self._rewrite(unlocked, edit, outcome), quiet=quiet)
            except _OutdatedError:
                if await self._reloaded(unlocked) is unlocked:
                    raise TAMPERED.error("the head of what is kept is under an unknown key") from None
                continue
            except VestibuleError as error:
                if error.code is ROLLED_BACK:
                    self.lock()
                await self._report(error, SPACE)
                raise
            result, revision = outcome[0]
            self._generation = max(self._generation, revision)
            return result

    def _rewrite(
        self, unlocked: _Unlocked, edit: Callable[[_Draft], T], outcome: list[tuple[T, int]]
    ) -> Callable[[Mapping[Place, SealedRow]], Sequence[SealedRow | Place]]:
        def change(there: Mapping[Place, SealedRow]) -> Sequence[SealedRow | Place]:
            head = unlocked.head(there.get(HEAD))
            if head.generation < self._generation:
                raise _rolled_back(head.generation, self._generation)
            draft = _Draft(unlocked, there, head)
            outcome.append((edit(draft), draft.revision))
            rows = draft.finished()
            if draft.sealed > self._max_sealed:
                raise DATA_KEY_EXHAUSTED.error(
                    f"the data key {draft.cipher.active} has sealed {draft.sealed} values"
                )
            unlocked.sealed = draft.sealed
            return rows

        return change

    async def _change_keyring(
        self,
        change: Callable[[Keyring], Keyring],
        *,
        seal: bytes | None = None,
        root_key: bytes | None = None,
    ) -> Keyring:
        def edit(draft: _Draft) -> _Unlocked:
            row = draft.there.get(KEYRING)
            if row is None or row.revision != draft.unlocked.revision:
                raise _OutdatedError
            ring = change(draft.unlocked.opened(row))
            after = _Unlocked(
                root_key=root_key or draft.unlocked.root_key, ring=ring, revision=draft.revision
            )
            if seal is not None:
                draft.keep(_seal_row(seal, draft.revision))
            draft.keep(after.keyring_row(draft.revision))
            draft.go_on_with(after)
            if after.ring.active != draft.unlocked.ring.active:
                draft.drop(RESTORED)
            return after

        async with self._changing:
            after = await self._revise([KEYRING, SEAL], edit)
            if self._unlocked is not None:  # nobody sealed us meanwhile
                self._unlocked = after
        return after.ring

    async def _reloaded(self, known: _Unlocked) -> _Unlocked:
        """What is unlocked now; ``known`` itself if the keyring is still the same.  Raises: VST5000."""
        async with self._reloading:
            current = self._open_to("")
            if current is not known:
                return current
            row = await self._rows.get(*KEYRING)
            if row is not None and row.revision == known.revision:
                return known
            try:
                self._unlocked = await self._unlocking(known.root_key)
            except VestibuleError as error:
                if error.code is ROOT_KEY_REFUSED:
                    self.lock()
                    raise SEALED.error(
                        "another server changed the root key: unseal this one again"
                    ) from error
                raise
            return self._unlocked

    async def _unlocking(self, root_key: bytes) -> _Unlocked:
        row, seal = await self._rows.get(*KEYRING), await self._rows.get(*SEAL)
        if row is None or seal is None:
            raise TAMPERED.error("the keyring is gone")
        try:
            ring = Keyring.decode(RowCipher({0: root_key}).open(row))
        except VestibuleError:
            raise ROOT_KEY_REFUSED.error("the root key does not open the keyring") from None
        if ring.seal_sha256 != _digest(seal.body):
            again = await self._rows.get(*KEYRING)
            if again is not None and again.revision != row.revision:
                return await self._unlocking(root_key)  # another server was faster between the two questions
            raise TAMPERED.error("the seal is not the one that belongs to the keyring")
        return _Unlocked(root_key=root_key, ring=ring, revision=row.revision)

    async def _head(self, unlocked: _Unlocked) -> Head:
        try:
            return unlocked.head(await self._rows.get(*HEAD))
        except _OutdatedError:
            raise TAMPERED.error("the keyring is not the newest one") from None

    async def _report(self, error: VestibuleError, subject: str) -> None:
        if error.code not in (TAMPERED, ROLLED_BACK):
            return
        _log.error("%s", error)
        details = {"code": error.code.code, "message": error.message}
        event = AuditEvent(
            actor="server", action="secrets.tampering", subject=subject, outcome="refused", details=details
        )
        try:
            await self._audit.record([event])
        except VestibuleError as failure:  # refused is refused, on record or not
            _log.error("what was found cannot be put on record: %s", failure)


@dataclass(slots=True, kw_only=True)
class _Unlocked:
    """The keys in memory.  ``revision`` is that of the keyring's row."""

    root_key: bytes = field(repr=False)
    ring: Keyring
    revision: int
    cipher: RowCipher = field(init=False)
    tally_key: bytes = field(init=False, repr=False)
    sealed: int = 0
    _macs: dict[str, bytes] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.cipher = RowCipher(self.ring.keys)
        self.tally_key = self.ring.derived("tally")

    def mac_key(self, purpose: str) -> bytes:
        key = self._macs.get(purpose)
        if key is None:
            if len(self._macs) == _MAX_PURPOSES:
                self._macs.clear()
            key = self._macs[purpose] = self.ring.derived(f"mac: {purpose}")
        return key

    def keyring_row(self, revision: int) -> SealedRow:
        return RowCipher({0: self.root_key}).seal(*KEYRING, revision, self.ring.encode())

    def opened(self, row: SealedRow) -> Keyring:
        return Keyring.decode(RowCipher({0: self.root_key}).open(row))

    def owns(self, row: SealedRow) -> bool:
        try:
            return self.opened(row) == self.ring
        except VestibuleError:
            return False

    def reads(self, row: SealedRow) -> bool:
        try:
            self.cipher.open(row)
        except VestibuleError:
            return False
        return True

    def head(self, row: SealedRow | None) -> Head:
        if row is None:
            raise TAMPERED.error("the head of what is kept is gone")
        # Under an older key it is an old one: the head goes over to a new key together with the keyring.
        if row.key_id != self.cipher.active:
            raise _OutdatedError
        head = Head.decode(self.cipher.open(row))
        if head.generation != row.revision or head.generation < self.revision:
            raise TAMPERED.error("the head of what is kept is not the newest one")
        return head


class _Draft:
    """One change while it is made."""

    def __init__(self, unlocked: _Unlocked, there: Mapping[Place, SealedRow], head: Head) -> None:
        self.unlocked = unlocked
        self.there = there
        self.revision = head.generation + 1
        self.cipher = unlocked.cipher
        self.sealed = head.sealed
        self._tallies = Tallies(unlocked.tally_key, head.spaces)
        self._changed: list[SealedRow | Place] = []

    def applied(self, changes: Sequence[Change]) -> tuple[int, ...]:
        """Raises: VST5001."""
        for each in changes:
            there = self.there.get((each.space, each.key))
            revision = there.revision if there else 0
            if each.expected is not None and each.expected != revision:
                raise CONFLICT.error(
                    f"{each.space}/{each.key} is at revision {revision}, not {each.expected}"
                )
        return tuple(map(self._applied, changes))

    def reencrypted(self) -> frozenset[Place]:
        """The places of those that cannot be read, and are left."""
        damaged = set()
        for place, row in self.there.items():
            if place == HEAD or row.key_id == self.cipher.active:
                continue
            try:
                value = self.cipher.open(row)
            except VestibuleError:
                damaged.add(place)
                continue
            self.sealed += 1
            self._changed.append(self.cipher.seal(*place, row.revision, value))
        return frozenset(damaged)

    def keep(self, row: SealedRow) -> None:
        """A row as it is."""
        self._forget(row.place)
        self._tallies.add(row.space, row.key, row.revision)
        self._changed.append(row)

    def drop(self, place: Place) -> None:
        """A row that is in no tally."""
        self._changed.append(place)

    def go_on_with(self, unlocked: _Unlocked) -> None:
        """Seal from here on, and the head, with another keyring."""
        if unlocked.cipher.active != self.cipher.active:
            self.sealed = 0
        self.cipher = unlocked.cipher

    def finished(self) -> list[SealedRow | Place]:
        """All changed rows, with the head."""
        self.sealed += 1
        head = Head(generation=self.revision, sealed=self.sealed, spaces=self._tallies.result())
        return [*self._changed, self.cipher.seal(*HEAD, self.revision, head.encode())]

    def _applied(self, change: Change) -> int:
        if isinstance(change, Put):
            self.sealed += 1
            self.keep(self.cipher.seal(change.space, change.key, self.revision, change.value))
            return self.revision
        self._forget((change.space, change.key))
        self._changed.append((change.space, change.key))
        return 0

    def _forget(self, place: Place) -> None:
        row = self.there.get(place)
        if row is not None and is_numbered(row):  # else it is not in the tally either
            self._tallies.remove(row.space, row.key, row.revision)


async def _restored(rows: AsyncIterable[SealedRow]) -> AsyncIterator[SealedRow]:
    found = set()
    async for row in rows:
        if row.space == SPACE:
            found.add(row.place)
        if row.place == HEAD or _is_counted(row):
            yield row
    if not found >= {SEAL, KEYRING, HEAD}:
        raise BACKUP_UNREADABLE.error("the backup is not one of a secret manager")
    yield SealedRow(space=SPACE, key=RESTORED[1], revision=1, key_id=0, body=b"")


def _is_counted(row: SealedRow) -> bool:
    """Whether it is in the tally of its space: of the barrier's own space only what matters beyond a restart."""
    return row.space != SPACE or row.place in (SEAL, KEYRING)


def _seal_row(seal: bytes, revision: int) -> SealedRow:
    return SealedRow(space=SPACE, key=SEAL[1], revision=revision, key_id=0, body=seal)


def _digest(seal: bytes) -> str:
    return hashlib.sha256(seal).hexdigest()


def _rolled_back(generation: int, at_least: int) -> VestibuleError:
    return ROLLED_BACK.error(f"the database is at change {generation}, but change {at_least} was made before")
