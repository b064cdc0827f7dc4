"""The file of a backup: a header in clear, then rows, encrypted in chunks, so that both ways are streams.

    "VSTBACK1", length and JSON of the header, then for each chunk its length and AES-256-GCM's ciphertext

A chunk's nonce is its number and whether it is the last one (the STREAM construction: Hoang, Reyhanitabar, Rogaway,
Vizár, CRYPTO 2015), and the header is authenticated with each: nothing can be changed, left out, added or put into
another order, and an end that is missing is noticed.  The key is new for each file, and wrapped in the header for a
passphrase (scrypt), for the holder of an X25519 key, or under the root key of the keyring that is backed up.  The rows
inside are as they are in the database, so that what they hold needs the seal too, whoever can open the file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from vestibule.errors import VestibuleError
from vestibule.keys.sealing import Sealer
from vestibule.keys.secrets import Secret
from vestibule.records import SealedRow
from vestibule.secrets.codes import BACKUP_UNREADABLE
from vestibule.secrets.sealed_boxes import boxed, unboxed

MAGIC: Final = b"VSTBACK1"
CHUNK: Final = 256 * 1024
"""Bytes of rows after which a chunk ends; a row is never divided."""

_MAX_CHUNK: Final = 16 * 2**20
_MAX_HEADER: Final = 2**20
_LENGTH: Final = struct.Struct(">I")
_ROW: Final = struct.Struct(">IIQII")
_CONTEXT: Final = b"vestibule backup"
_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 3}
"""About 100 ms and 32 MiB (RFC 7914; the parameters are OWASP's for that memory)."""


class Wrapping(Protocol):
    """Wraps the key of a new backup."""

    def wrap(self, key: bytes) -> Mapping[str, Any]:
        """What goes into the header."""
        ...


class Unwrapping(Protocol):
    """Gets the key of a backup back."""

    def unwrap(self, header: Mapping[str, Any]) -> bytes:
        """The key.  Raises: VestibuleError, or what comes of values of other types."""
        ...


@dataclass(frozen=True, slots=True)
class Passphrase:
    """``Wrapping`` and ``Unwrapping`` for whoever knows a passphrase."""

    secret: Secret

    def wrap(self, key: bytes) -> Mapping[str, Any]:
        """Under a key that scrypt makes of it."""
        salt = secrets.token_bytes(16)
        sealed = self._sealer(salt, _SCRYPT).seal(key, context=_CONTEXT)
        return {"kind": "passphrase", "salt": _text(salt), "scrypt": _SCRYPT, "wrapped": _text(sealed)}

    def unwrap(self, header: Mapping[str, Any]) -> bytes:
        """The key."""
        costs = {name: int(header["scrypt"][name]) for name in ("n", "r", "p")}
        if costs["n"] > 2**17 or costs["r"] > 8 or costs["p"] > 8:
            raise BACKUP_UNREADABLE.error("the backup asks for more memory than is sensible")
        sealer = self._sealer(_bytes(header["salt"]), costs)
        return sealer.unseal(_bytes(header["wrapped"]), context=_CONTEXT)

    def _sealer(self, salt: bytes, costs: Mapping[str, int]) -> Sealer:
        memory = 256 * costs["n"] * costs["r"] + 2**20
        return Sealer(
            hashlib.scrypt(self.secret.reveal().encode(), salt=salt, dklen=32, maxmem=memory, **costs)
        )


@dataclass(frozen=True, slots=True)
class Recipient:
    """``Wrapping`` for whoever has the private half of an X25519 key: a server needs no secret to back up."""

    public_key: bytes

    def wrap(self, key: bytes) -> Mapping[str, Any]:
        """In a box."""
        return {"kind": "recipient", "wrapped": _text(boxed(key, self.public_key, context=_CONTEXT))}


@dataclass(frozen=True, slots=True)
class RecipientKey:
    """``Unwrapping`` with the private half."""

    private_key: X25519PrivateKey

    def unwrap(self, header: Mapping[str, Any]) -> bytes:
        """The key."""
        return unboxed(_bytes(header["wrapped"]), self.private_key, context=_CONTEXT)


@dataclass(frozen=True, slots=True)
class RootKey:
    """``Wrapping`` and ``Unwrapping`` under the root key of what is backed up; ``seal`` is how to get it."""

    root_key: bytes
    seal: bytes = b""

    def wrap(self, key: bytes) -> Mapping[str, Any]:
        """Beside the seal."""
        sealed = Sealer(self._key()).seal(key, context=_CONTEXT)
        return {"kind": "root-key", "seal": _text(self.seal), "wrapped": _text(sealed)}

    def unwrap(self, header: Mapping[str, Any]) -> bytes:
        """The key."""
        return Sealer(self._key()).unseal(_bytes(header["wrapped"]), context=_CONTEXT)

    def _key(self) -> bytes:
        return HKDFExpand(algorithm=SHA256(), length=32, info=_CONTEXT).derive(self.root_key)

    def __repr__(self) -> str:
        return "RootKey(…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupHeader:
    """What stands in clear at the beginning; not to be believed before the first chunk has been opened."""

    kind: str
    """Who can open it: ``passphrase``, ``recipient`` or ``root-key``."""
    created_at: str
    generation: int
    seal: bytes
    """The seal that gives the root key, for ``root-key``; else empty."""
    key: Mapping[str, Any]
    encoded: bytes


async def encrypted(
    rows: AsyncIterable[SealedRow], wrapping: Wrapping, *, created_at: str, generation: int
) -> AsyncIterator[bytes]:
    """The file, piece by piece."""
    key = AESGCM.generate_key(256)
    document = {"created_at": created_at, "generation": generation, "key": dict(wrapping.wrap(key))}
    header = json.dumps(document, sort_keys=True).encode()
    yield MAGIC + _LENGTH.pack(len(header)) + header
    chunks = _Chunks(key, header)
    gathered = bytearray()
    async for row in rows:
        gathered += _packed(row)
        if len(gathered) >= CHUNK:
            yield chunks.sealed(bytes(gathered), last=False)
            gathered.clear()
    yield chunks.sealed(bytes(gathered), last=True)


class BackupReader:
    """Reads a backup from a stream of pieces of any size.  Nothing is given out that was not authenticated."""

    def __init__(self, pieces: AsyncIterable[bytes]) -> None:
        self._pieces = aiter(pieces)
        self._buffer = bytearray()

    async def header(self) -> BackupHeader:
        """What stands at the beginning.  Raises: VST5020."""
        if await self._take(len(MAGIC)) != MAGIC:
            raise BACKUP_UNREADABLE.error("the file is no backup of the secret manager's")
        encoded = await self._sized(_MAX_HEADER)
        try:
            document = json.loads(encoded)
            key = document["key"]
            return BackupHeader(
                kind=str(key["kind"]),
                created_at=str(document["created_at"]),
                generation=int(document["generation"]),
                seal=_bytes(key.get("seal", "")),
                key=key,
                encoded=encoded,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BACKUP_UNREADABLE.error("the backup's header is malformed") from None

    async def rows(self, header: BackupHeader, unwrapping: Unwrapping) -> AsyncIterator[SealedRow]:
        """All rows.  Raises: VST5020, at the end too: only who has read to the end has a whole backup."""
        chunks = _Chunks(_unwrapped(header, unwrapping), header.encoded)
        last = False
        while not last:
            opened, last = chunks.opened(await self._sized(_MAX_CHUNK))
            for row in _unpacked(opened):
                yield row
        rest: bytes | None = await anext(self._pieces, None)
        if self._buffer or rest:
            raise BACKUP_UNREADABLE.error("something follows the end of the backup")

    async def _sized(self, longest: int) -> bytes:
        (length,) = _LENGTH.unpack(await self._take(_LENGTH.size))
        if length > longest:
            raise BACKUP_UNREADABLE.error("the backup is malformed")
        return await self._take(length)

    async def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            piece = await anext(self._pieces, None)
            if piece is None:
                raise BACKUP_UNREADABLE.error("the backup ends too early")
            self._buffer += piece
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken


class _Chunks:
    """The chunks of one file, in their order."""

    def __init__(self, key: bytes, header: bytes) -> None:
        self._cipher = AESGCM(key)
        self._header = MAGIC + hashlib.sha256(header).digest()
        self._number = 0

    def sealed(self, rows: bytes, *, last: bool) -> bytes:
        ciphertext = self._cipher.encrypt(self._nonce(last), rows, self._header)
        self._number += 1
        return _LENGTH.pack(len(ciphertext)) + ciphertext

    def opened(self, ciphertext: bytes) -> tuple[bytes, bool]:
        """The rows, and whether they are the last ones."""
        for last in (False, True):
            try:
                rows = self._cipher.decrypt(self._nonce(last), ciphertext, self._header)
            except InvalidTag:
                continue
            self._number += 1
            return rows, last
        raise BACKUP_UNREADABLE.error("the backup was changed, or is damaged")

    def _nonce(self, last: bool) -> bytes:
        return self._number.to_bytes(11, "big") + bytes([last])


def _unwrapped(header: BackupHeader, unwrapping: Unwrapping) -> bytes:
    try:
        key = unwrapping.unwrap(header.key)
    except VestibuleError:
        raise BACKUP_UNREADABLE.error(f"the backup ({header.kind}) does not open with this key") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise BACKUP_UNREADABLE.error("the backup's header is malformed") from None
    if len(key) != 32:
        raise BACKUP_UNREADABLE.error("the backup's header is malformed")
    return key


def _packed(row: SealedRow) -> bytes:
    space, key = row.space.encode(), row.key.encode()
    return _ROW.pack(len(space), len(key), row.revision, row.key_id, len(row.body)) + space + key + row.body


def _unpacked(chunk: bytes) -> Iterator[SealedRow]:
    """It was authenticated, so what is malformed is a bug of who wrote it."""
    at = 0
    while at < len(chunk):
        space, key, revision, key_id, body = _ROW.unpack_from(chunk, at)
        at += _ROW.size
        names, at = chunk[at : at + space + key], at + space + key
        yield SealedRow(
            space=names[:space].decode(),
            key=names[space:].decode(),
            revision=revision,
            key_id=key_id,
            body=chunk[at : at + body],
        )
        at += body


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
