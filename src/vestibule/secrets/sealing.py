"""Sealing and unsealing: the ceremonies around the root key.

The root key is in memory while the secret manager is unsealed, and nowhere else.  What is done here is on record
before it counts; the records name the *generation* of the database, by which a copy of it that is put back is noticed.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.errors import VestibuleError
from vestibule.records import Place
from vestibule.secrets.anchor import Anchor
from vestibule.secrets.backups import BackupHeader, BackupReader, RootKey, Unwrapping, Wrapping, encrypted
from vestibule.secrets.barrier import SealedBarrier
from vestibule.secrets.codes import RESTORE_REFUSED, ROLLED_BACK
from vestibule.secrets.keyring import new_key
from vestibule.secrets.seals.codes import (
    CEREMONY,
    INITIALISED,
    NOT_INITIALISED,
    SEAL_REFUSED,
    SHARES_NEEDED,
)
from vestibule.secrets.seals.ports import Document, Plan, Seal, Wrapped
from vestibule.secrets.seals.wrapping import decode, encode
from vestibule.store.codes import SEALED

SINGLE: Final = Plan(shares=1, threshold=1)
RETRY_SECONDS: Final = (1.0, 30.0)
"""Between two attempts to unseal without anybody: at first, and at most."""
UPKEEP_SECONDS: Final = 1.0
RECORDED_EVERY: Final = 600
"""Rounds of upkeep after which the audit log is told of the generation, if it moved on."""

VERIFIED_EVERY: Final = 3600
"""Rounds of upkeep after which the server that leads looks at all rows; the first time, right after unsealing."""

_SERVER: Final = "server"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealStatus:
    """How things are.

    ``plan`` is None for a seal without shares (or none yet); ``progress`` counts the shares that were accepted since
    the last attempt, ``nonce`` names the attempt.  ``key_id`` and ``generation`` are 0 while sealed; ``problem`` says
    why it does not unseal by itself; ``damaged`` are the spaces in which the last look at all rows found that some are
    missing, too many or not the newest.
    """

    kind: str
    initialised: bool
    sealed: bool
    automatic: bool
    plan: Plan | None = None
    progress: int = 0
    nonce: str = ""
    key_id: int = 0
    reencrypting: bool = False
    generation: int = 0
    problem: str = ""
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RekeyStatus:
    """A rekey under way, or one that ended with the last call.

    First ``required`` shares of the present seal are collected; then there are new ``shares`` (secrets, shown once);
    with ``verification``, as many of those as are needed have to be given back before they count.
    """

    nonce: str
    plan: Plan
    required: int
    progress: int = 0
    verification: bool = False
    verifying: bool = False
    rotate_root: bool = False
    complete: bool = False
    shares: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(slots=True)
class _Rekey:
    status: RekeyStatus
    actor: str
    seal: bytes
    """The seal that it began with."""
    given: dict[int, bytes] = field(default_factory=dict, repr=False)
    wrapped: Wrapped | None = field(default=None, repr=False)
    root_key: bytes = field(default=b"", repr=False)


class Sealing:
    """Initialises, unseals, seals, and changes keys and seal of one barrier.

    Every method that takes ``actor`` puts on record what that one did.  Shares are secrets.
    """

    def __init__(
        self,
        barrier: SealedBarrier,
        seal: Seal,
        *,
        audit: Audit,
        anchor: Anchor,
        leads: Callable[[], bool],
        former: Sequence[Seal] = (),
    ) -> None:
        """``former`` are seals from which a database may be moved to ``seal`` by a rekey."""
        self._barrier = barrier
        self._seal = seal
        self._seals: Mapping[str, Seal] = {each.kind: each for each in (*former, seal)}
        self._audit = audit
        self._anchor = anchor
        self._leads = leads
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._held = False
        self._problem = ""
        self._nonce = ""
        self._given: dict[int, bytes] = {}
        self._rekey: _Rekey | None = None
        self._left: frozenset[Place] = frozenset()
        self._damaged: tuple[str, ...] = ()

    # ----------------------------------------------------------------------------------------- the seal

    @property
    def damaged(self) -> tuple[str, ...]:
        """The spaces in which the last look found rows that are missing, too many or not the newest."""
        return self._damaged

    async def status(self) -> SealStatus:
        """How things are now.  Raises: the store's errors, VST5015."""
        row = await self._barrier.seal_row()
        open_ = not self._barrier.is_sealed
        status = SealStatus(
            kind=self._seal.kind,
            initialised=row is not None,
            sealed=not open_,
            automatic=self._seal.automatic,
            progress=len(self._given),
            nonce=self._nonce,
            key_id=self._barrier.key_id if open_ else 0,
            reencrypting=open_ and len(self._barrier.key_ids) > 1,
            generation=self._barrier.generation if open_ else 0,
            problem="" if open_ else self._problem,
            damaged=self._damaged,
        )
        if row is None:
            return status
        document = decode(row.body)
        seal = self._of(document)
        return replace(status, kind=seal.kind, automatic=seal.automatic, plan=seal.plan(document))

    async def init(self, plan: Plan, *, actor: str) -> tuple[bytes, ...]:
        """Make a root key, and everything else, in a database that has none; the shares, shown once, if there are any.

        Raises: VST5011, VST5014.
        """
        async with self._lock:
            if await self._barrier.seal_row() is not None:
                raise INITIALISED.error("there is a root key already")
            root_key = new_key()
            wrapped = await self._seal.wrap(root_key, plan)
            await self._record(actor, "init", shares=len(wrapped.shares))
            if not await self._barrier.create(root_key, encode(wrapped.document)):
                raise INITIALISED.error("another server was faster")
            await self._anchor.keep(self._barrier.generation)
            self._opened()
            return wrapped.shares

    async def unseal(
        self, share: bytes | None = None, *, actor: str, accept_rollback: bool = False
    ) -> SealStatus:
        """Take one share, or, without one, let a seal that needs none open; unsealed as soon as there are enough.

        Raises: VST5010, VST5012, VST5013, VST5014, VST5015, VST5019, VST5003 unless ``accept_rollback``, VST5002,
        VST5004.
        """
        async with self._lock:
            document = await self._document()
            seal = self._of(document)
            if not self._barrier.is_sealed:
                return await self.status()
            async with self._refusals_on_record(actor, "unseal"):
                if share is not None and not await self._enough(seal, document, share, actor):
                    return await self.status()
                given, self._given, self._nonce = list(self._given.values()), {}, ""
                await self._unlock(await seal.unwrap(document, given), actor, accept_rollback)
            return await self.status()

    async def _enough(self, seal: Seal, document: Document, share: bytes, actor: str) -> bool:
        """Take a share; whether there are enough now."""
        number, plan = seal.number(document, share), seal.plan(document)
        given = {**self._given, number: share}
        if enough := plan is None or len(given) >= plan.threshold:
            self._given = given
        else:
            await self._record(actor, "unseal-share", number=number, progress=len(given))
            self._given, self._nonce = given, self._nonce or secrets.token_hex(16)
        return enough

    async def forget_shares(self, *, actor: str) -> None:
        """Forget the shares that were given to unseal.  Raises: VST8100."""
        async with self._lock:
            await self._record(actor, "unseal-reset")
            self.reset()

    def reset(self) -> None:
        """Forget the shares that were given to unseal."""
        self._given, self._nonce = {}, ""

    async def seal(self, *, actor: str) -> None:
        """Forget all keys; this server stays sealed until it is unsealed by somebody.  Raises: VST8100."""
        async with self._lock:
            await self._record(actor, "seal", generation=self._barrier.generation)
            self._held = True
            self._rekey = None
            self.reset()
            self._barrier.lock()

    # --------------------------------------------------------------------------------------------- keys

    async def rotate_data_key(self, *, actor: str) -> int:
        """Write under a new data key from now on, and encrypt what there is anew, meanwhile; the key's number."""
        async with self._lock:
            self._check_open()
            await self._record(actor, "rotate-data-key", generation=self._barrier.generation)
            self._left = frozenset()
            number = await self._barrier.rotate()
            self._wake.set()
            return number

    async def rotate_root_key(self, *, actor: str) -> None:
        """Another root key, and with it another data key, under the same seal.

        Other servers are sealed by that until their seal gives them the new one.  Raises: VST5018 for one with shares.
        """
        async with self._lock:
            self._check_open()
            document = await self._document()
            if self._of(document).plan(document) is not None or self._seal.kind != document["kind"]:
                raise SHARES_NEEDED.error("the seal needs its shares to take a new root key")
            root_key = new_key()
            wrapped = await self._seal.wrap(root_key, SINGLE)
            await self._record(actor, "rotate-root-key", generation=self._barrier.generation)
            await self._barrier.reseal(encode(wrapped.document), root_key)
            await self._barrier.rotate()
            self._wake.set()

    # -------------------------------------------------------------------------------------------- rekey

    @property
    def rekeying(self) -> RekeyStatus | None:
        """The rekey that is under way."""
        return None if self._rekey is None else replace(self._rekey.status, shares=())

    async def rekey(
        self, plan: Plan, *, actor: str, verification: bool = False, rotate_root: bool = False
    ) -> RekeyStatus:
        """Begin to replace the seal: by one of the configured kind, with other shares.

        Raises: VST5016 when one is under way, and as ``unseal``.
        """
        async with self._lock:
            self._check_open()
            if self._rekey is not None:
                raise CEREMONY.error("a rekey is under way already")
            document = await self._document()
            present = self._of(document).plan(document)
            status = RekeyStatus(
                nonce=secrets.token_hex(16),
                plan=plan,
                required=present.threshold if present else 0,
                verification=verification,
                rotate_root=rotate_root,
            )
            await self._record(actor, "rekey-begin", generation=self._barrier.generation)
            self._rekey = _Rekey(status, actor, encode(document))
            return await self._rewrapped(self._rekey) if present is None else status

    async def rekey_share(self, nonce: str, share: bytes, *, actor: str) -> RekeyStatus:
        """Take one share of the present seal; with the last, the new shares are in the answer.

        Raises: VST5016, and as ``unseal``.
        """
        async with self._lock, self._refusals_on_record(actor, "rekey-share"):
            rekey = self._ceremony(nonce, verifying=False)
            document = await self._document()
            seal = self._of(document)
            number = seal.number(document, share)
            await self._record(actor, "rekey-share", number=number)
            rekey.given[number] = share
            rekey.status = replace(rekey.status, progress=len(rekey.given))
            if rekey.status.progress < rekey.status.required:
                return rekey.status
            given, rekey.given = list(rekey.given.values()), {}
            if await seal.unwrap(document, given) != self._barrier.root_key:
                raise SEAL_REFUSED.error("the shares give another root key than the one in use")
            return await self._rewrapped(rekey)

    async def rekey_verify(self, nonce: str, share: bytes, *, actor: str) -> RekeyStatus:
        """Take back one of the new shares; with the last that is needed the new seal takes the old one's place."""
        async with self._lock, self._refusals_on_record(actor, "rekey-verify"):
            rekey = self._ceremony(nonce, verifying=True)
            assert rekey.wrapped is not None
            number = self._seal.number(rekey.wrapped.document, share)
            await self._record(actor, "rekey-verify", number=number)
            rekey.given[number] = share
            rekey.status = replace(rekey.status, progress=len(rekey.given))
            if rekey.status.progress < rekey.status.plan.threshold:
                return rekey.status
            given, rekey.given = list(rekey.given.values()), {}
            if await self._seal.unwrap(rekey.wrapped.document, given) != rekey.root_key:
                raise SEAL_REFUSED.error("the new shares do not give the root key")
            return await self._rekeyed(rekey)

    async def cancel_rekey(self, *, actor: str) -> None:
        """Leave everything as it is; new shares that were shown are worth nothing."""
        async with self._lock:
            if self._rekey is not None:
                await self._record(actor, "rekey-cancel")
                self._rekey = None

    async def _rewrapped(self, rekey: _Rekey) -> RekeyStatus:
        rekey.root_key = new_key() if rekey.status.rotate_root else self._barrier.root_key
        rekey.wrapped = await self._seal.wrap(rekey.root_key, rekey.status.plan)
        shares = rekey.wrapped.shares
        if rekey.status.verification and shares:
            rekey.status = replace(rekey.status, verifying=True, progress=0)
            return replace(rekey.status, shares=shares)
        return replace(await self._rekeyed(rekey), shares=shares)

    async def _rekeyed(self, rekey: _Rekey) -> RekeyStatus:
        assert rekey.wrapped is not None
        if encode(await self._document()) != rekey.seal:
            self._rekey = None
            raise CEREMONY.error("another server changed the seal meanwhile")
        await self._record(rekey.actor, "rekey", generation=self._barrier.generation)
        rotated = rekey.root_key if rekey.status.rotate_root else None
        await self._barrier.reseal(encode(rekey.wrapped.document), rotated)
        if rotated is not None:
            await self._barrier.rotate()
        self._rekey = None
        self._wake.set()
        return replace(rekey.status, complete=True, verifying=False)

    def _ceremony(self, nonce: str, *, verifying: bool) -> _Rekey:
        self._check_open()
        if self._rekey is None or not secrets.compare_digest(
            self._rekey.status.nonce.encode(), nonce.encode()
        ):
            raise CEREMONY.error("no rekey with this nonce is under way")
        if self._rekey.status.verifying is not verifying:
            raise CEREMONY.error("the rekey waits for " + ("old shares" if verifying else "the new shares"))
        return self._rekey

    # ------------------------------------------------------------------------------------------- backup

    async def backup(
        self, wrapping: Wrapping | None, *, actor: str, now: datetime, findings: list[str]
    ) -> AsyncGenerator[bytes, None]:
        """The file of a backup, piece by piece (``secrets.backups``); without ``wrapping`` it opens with our root key.

        ``findings`` then has the spaces in which rows were missing or not the newest.  Raises: VST5000, VST8100.
        """
        self._check_open()
        generation, row = self._barrier.generation, await self._barrier.seal_row()
        wrapping = wrapping or RootKey(self._barrier.root_key, row.body if row else b"")
        await self._record(actor, "backup", generation=generation)
        async with aclosing(self._barrier.snapshot(findings)) as rows:
            async for piece in encrypted(
                rows, wrapping, created_at=now.isoformat(timespec="seconds"), generation=generation
            ):
                yield piece

    async def restore(
        self,
        pieces: AsyncIterable[bytes],
        unwrapping: Unwrapping | None,
        *,
        actor: str,
        overwrite: bool = False,
        shares: Sequence[bytes] = (),
    ) -> BackupHeader:
        """Put a backup in place of what there is; sealed after that, and to be unsealed by the seal that it has.

        Without ``unwrapping``, the seal in the backup gives the key, from these ``shares`` if it needs any.
        Raises: VST5006, VST5007, as ``unseal``, and the store's errors; then nothing is changed.
        """
        async with self._lock:
            reader = BackupReader(pieces)
            header = await reader.header()
            if unwrapping is None:
                document = decode(header.seal)
                unwrapping = RootKey(await self._of(document).unwrap(document, shares))
            await self._record(actor, "restore-begin", made_at=header.created_at)
            rows = reader.rows(header, unwrapping)
            if not await self._barrier.replace(rows, overwrite=overwrite):
                raise RESTORE_REFUSED.error("there are secrets in the database")
            self._rekey = None
            self.reset()
            # From here on an older database than this one is a rollback again.
            await self._record(actor, "restore", made_at=header.created_at, generation=header.generation)
            await self._anchor.keep(header.generation)
            return header

    # ------------------------------------------------------------------------------------------- upkeep

    async def run(self) -> None:
        """Unseal where nobody is needed for it, follow other servers, encrypt anew what old keys sealed, anchor."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._barrier.run(), name="secrets: keyring")
            tasks.create_task(self._stay_open(), name="secrets: unsealing")
            tasks.create_task(self._keep_up(), name="secrets: upkeep")

    async def open_by_itself(self) -> bool:
        """Unseal, and initialise where nothing is there yet, if the seal needs nobody; whether it is unsealed now.

        Raises: as ``init`` and ``unseal``.
        """
        if self._held or not self._barrier.is_sealed:
            return not self._barrier.is_sealed
        row = await self._barrier.seal_row()
        if row is None:
            if self._seal.has_shares or not self._leads():
                return False
            await self.init(SINGLE, actor=_SERVER)
        elif self._of(decode(row.body)).automatic:
            await self.unseal(actor=_SERVER)
        return not self._barrier.is_sealed

    async def _stay_open(self) -> None:
        pause = RETRY_SECONDS[0]
        while True:
            try:
                if await self.open_by_itself():
                    pause = RETRY_SECONDS[0]
            except VestibuleError as error:
                pause = min(2 * pause, RETRY_SECONDS[1])
                if self._problem != str(error):
                    _log.warning("the secret manager stays sealed: %s", error)
                self._problem = str(error)
                self._held = self._held or error.code is ROLLED_BACK
            await asyncio.sleep(pause)

    async def _keep_up(self) -> None:
        anchored = recorded = rounds = 0
        while True:
            self._wake.clear()
            if not self._barrier.is_sealed:
                try:
                    generation = self._barrier.generation
                    if generation != anchored:
                        await self._anchor.keep(generation)
                        anchored = generation
                    if rounds % RECORDED_EVERY == 0 and generation != recorded:
                        await self._record(_SERVER, "generation", generation=generation)
                        recorded = generation
                    if self._leads():
                        if rounds % VERIFIED_EVERY == 0:
                            self._damaged = tuple((await self._barrier.verify())[0])
                        await self._care_for_keys()
                except (VestibuleError, OSError) as error:
                    _log.warning("upkeep of the secret manager: %s", error)
                rounds += 1
            try:
                async with asyncio.timeout(UPKEEP_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _care_for_keys(self) -> None:
        if self._barrier.wants_rotation:
            await self.rotate_data_key(actor=_SERVER)
        if len(self._barrier.key_ids) == 1:
            return
        left: frozenset[Place] | None = self._left
        while left is not None:
            left = await self._barrier.reencrypt(left)
            if left is not None:
                self._left = left
            await asyncio.sleep(0)

    # ------------------------------------------------------------------------------------------- inside

    async def _unlock(self, root_key: bytes, actor: str, accept_rollback: bool) -> None:
        known = await self._anchor.newest()
        await self._barrier.unlock(root_key, at_least=0 if accept_rollback else known)
        generation = self._barrier.generation
        try:
            if generation < known:
                await self._record(actor, "accept-rollback", generation=generation, before=known)
            if generation < known or await self._barrier.was_restored():
                # What was written in the time that is undone must not fit among what is written from now on.
                await self._barrier.rotate()
                generation = self._barrier.generation
            await self._record(actor, "unseal", generation=generation)
            await self._anchor.keep(generation)
        except BaseException:
            self._barrier.lock()  # no record, no action
            raise
        self._opened()

    def _opened(self) -> None:
        self._held, self._problem = False, ""
        self._wake.set()

    def _check_open(self) -> None:
        if self._barrier.is_sealed:
            raise SEALED.error("the secret manager is sealed")

    async def _document(self) -> Document:
        row = await self._barrier.seal_row()
        if row is None:
            raise NOT_INITIALISED.error("there is no root key yet")
        return decode(row.body)

    def _of(self, document: Document) -> Seal:
        seal = self._seals.get(document["kind"])
        if seal is None:
            raise SEAL_REFUSED.error(
                f"the database was sealed by {document['kind']!r}, and {self._seal.kind!r} is configured"
            )
        return seal

    @asynccontextmanager
    async def _refusals_on_record(self, actor: str, action: str) -> AsyncIterator[None]:
        """What somebody tries in vain is on record; what the server itself tries again and again is in its log."""
        try:
            yield
        except VestibuleError as error:
            if actor != _SERVER:
                await self._record(actor, action, error.code.code)
            raise

    async def _record(self, actor: str, action: str, outcome: str = "ok", **details: Detail) -> None:
        event = AuditEvent(
            actor=actor,
            action=f"secrets.{action}",
            subject=self._seal.kind,
            outcome=outcome,
            details=details,
        )
        await self._audit.record([event])
