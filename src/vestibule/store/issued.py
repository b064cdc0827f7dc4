"""Which certificates were issued: 44 bytes for each, in files that are removed when nothing in them is valid any more.

The audit log says the same, at length and for ever; this is the part of it that revocation lists for other people's
clients and the drill need within a second, for millions of certificates.  A record:

======  =====  ==================================================================
offset  bytes  meaning
======  =====  ==================================================================
0       20     the serial number; bytes 4 to 11 are the mark of the agent
20      8      of the SHA-256 of the SPIFFE ID, the first ones
28      8      of the authority's key identifier, the first ones
36      4      the last second of the certificate's life, since 1970
40      4      the second in which it was issued, since 1970
======  =====  ==================================================================

Not flushed to the disk: after a crash of the machine the last seconds may be missing here, never in the audit log.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from vestibule.records import identity_digest
from vestibule.spiffe import SpiffeId
from vestibule.store.codes import STORE_UNUSABLE

RECORD: Final = struct.Struct(">20s8s8sII")
SPAN: Final = timedelta(hours=1)
"""How long one file is written to."""

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_SERIAL_BYTES: Final = 20
_MARK: Final = slice(4, 12)
_IDENTITY: Final = slice(20, 28)
_SUFFIX: Final = ".issued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate that was issued.  ``identity`` and ``authority`` are the first 8 bytes, as above."""

    serial: int
    identity: bytes
    authority: bytes
    not_after: datetime
    issued_at: datetime = _EPOCH

    @classmethod
    def of(cls, serial: int, spiffe_id: SpiffeId, authority_id: str, not_after: datetime) -> Issued:
        """The record of a certificate; ``authority_id`` is lower-case hex.  ``append`` says when it was issued."""
        return cls(
            serial=serial,
            identity=identity_digest(spiffe_id),
            authority=bytes.fromhex(authority_id)[:8].ljust(8, b"\0"),
            not_after=not_after,
        )


class IssuedFiles:
    """Appends records and finds them again; one directory for one server."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1
        self._name = ""
        self._ends: dict[str, int] = {}

    def open(self) -> None:
        """Make the directory (0700).  Raises: VST8000."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise STORE_UNUSABLE.error(f"cannot use {self._directory}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file, self._name = -1, ""

    def append(self, records: Sequence[Issued], now: datetime) -> None:
        """Keep records.  Raises: VST8000 when they cannot be kept: then what they are of is not handed out."""
        data = b"".join(_packed(each, now) for each in records)
        try:
            file = self._current(now)
            size = os.fstat(file).st_size
            if os.write(file, data) != len(data):
                os.ftruncate(file, size)
                raise STORE_UNUSABLE.error(f"{self._directory / self._name} cannot be written: no space")
        except OSError as error:
            raise STORE_UNUSABLE.error(f"{self._directory} cannot be written: {error.strerror}") from error

    async def by_mark(self, mark: int, now: datetime) -> list[Issued]:
        """What was issued through the agent with this mark and is still valid."""
        return await asyncio.to_thread(self._find, mark.to_bytes(8), _MARK, now)

    async def by_identity(self, spiffe_id: SpiffeId, now: datetime) -> list[Issued]:
        """What was issued to an identity and is still valid."""
        return await asyncio.to_thread(self._find, identity_digest(spiffe_id), _IDENTITY, now)

    async def by_serial(self, serial: int, now: datetime) -> list[Issued]:
        """The certificates with this serial number that are still valid: one, usually."""
        return await asyncio.to_thread(self._find, serial.to_bytes(_SERIAL_BYTES), slice(0, 20), now)

    async def by_authority(self, authority_id: str, now: datetime) -> list[Issued]:
        """What an authority signed and is still valid."""
        prefix = bytes.fromhex(authority_id)[:8].ljust(8, b"\0")
        return await asyncio.to_thread(self._find, prefix, slice(28, 36), now)

    async def prune(self, now: datetime) -> int:
        """Remove the files in which nothing is valid any more; how many.  Raises: VST8000."""
        return await asyncio.to_thread(self._prune, now)

    def _current(self, now: datetime) -> int:
        name = f"{int(now.timestamp() // SPAN.total_seconds()):010d}{_SUFFIX}"
        if name != self._name:
            self.close()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self._directory / name, flags, 0o600)
            self._name = name
            size = os.fstat(self._file).st_size
            if size % RECORD.size:  # a crash in the middle of a record, which nobody was told of
                os.ftruncate(self._file, size - size % RECORD.size)
        return self._file

    def _find(self, wanted: bytes, place: slice, now: datetime) -> list[Issued]:
        after = int(now.timestamp())
        found: list[Issued] = []
        for path in self._paths():
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < RECORD.size:
                    continue
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    found += (each for each in _matches(data, wanted, place.start) if _ends(each) > after)
        return found

    def _prune(self, now: datetime) -> int:
        removed = 0
        try:
            for path in self._paths():
                if path.name != self._name and self._end_of(path) < int(now.timestamp()):
                    path.unlink(missing_ok=True)
                    self._ends.pop(path.name, None)
                    removed += 1
        except OSError as error:
            raise STORE_UNUSABLE.error(f"{self._directory} cannot be tidied: {error.strerror}") from error
        return removed

    def _end_of(self, path: Path) -> int:
        if path.name not in self._ends:
            data = path.read_bytes()
            whole = memoryview(data)[: len(data) - len(data) % RECORD.size]
            self._ends[path.name] = max((each[3] for each in RECORD.iter_unpack(whole)), default=0)
        return self._ends[path.name]

    def _paths(self) -> list[Path]:
        return sorted(self._directory.glob(f"*{_SUFFIX}"))


def _packed(each: Issued, now: datetime) -> bytes:
    end, issued_at = (min(max(int(at.timestamp()), 0), 2**32 - 1) for at in (each.not_after, now))
    return RECORD.pack(each.serial.to_bytes(_SERIAL_BYTES), each.identity, each.authority, end, issued_at)


def _matches(data: mmap.mmap, wanted: bytes, offset: int) -> Iterator[Issued]:
    at = data.find(wanted)
    while at >= 0:
        start, inside = divmod(at, RECORD.size)
        start *= RECORD.size
        if inside == offset and start + RECORD.size <= len(data):
            serial, identity, authority, end, issued_at = RECORD.unpack_from(data, start)
            yield Issued(
                serial=int.from_bytes(serial),
                identity=identity,
                authority=authority,
                not_after=datetime.fromtimestamp(end, UTC),
                issued_at=datetime.fromtimestamp(issued_at, UTC),
            )
        at = data.find(wanted, at + 1)


def _ends(each: Issued) -> int:
    return int(each.not_after.timestamp())
