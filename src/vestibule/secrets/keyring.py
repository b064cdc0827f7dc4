"""The keys under which everything is kept: data keys for rows, one secret for what is derived, sealed by a root key.

A row's body is one byte of version, a random nonce of 96 bits, then AES-256-GCM's ciphertext and tag.  What is
authenticated with it says where the row belongs: space, key and revision, each behind its length, so that no two rows
have the same.  A body that was changed, or put into another place or beside another revision, does not open.
"""

from __future__ import annotations

import base64
import json
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from vestibule.records import SealedRow
from vestibule.secrets.codes import TAMPERED

KEY_BYTES: Final = 32
MAX_SEALED: Final = 2**31
"""How many values one data key seals: half of what random nonces of 96 bits bear (NIST SP 800-38D, section 8.3)."""

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12
_OVERHEAD: Final = len(_VERSION) + _NONCE_BYTES + 16
_REVISIONS: Final = 2**63
_LENGTHS: Final = struct.Struct(">3sIIQ")


def new_key() -> bytes:
    """A new key of AES-256.  A secret."""
    return secrets.token_bytes(KEY_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    """``keys`` by their numbers, which grow; new values are sealed by the highest.

    ``lasting`` is what keys for other purposes are derived from: it is never rotated.  ``seal_sha256`` is the digest of
    the row of the seal that belongs to it, so that an old seal that is put back is noticed.
    """

    keys: Mapping[int, bytes] = field(repr=False)
    lasting: bytes = field(repr=False)
    seal_sha256: str

    @property
    def active(self) -> int:
        """The key that seals what is written now."""
        return max(self.keys)

    def rotated(self) -> Keyring:
        """With a new active key; the former ones stay, to read with."""
        return Keyring(
            keys={**self.keys, self.active + 1: new_key()}, lasting=self.lasting, seal_sha256=self.seal_sha256
        )

    def retired(self) -> Keyring:
        """With the active key only."""
        return Keyring(
            keys={self.active: self.keys[self.active]}, lasting=self.lasting, seal_sha256=self.seal_sha256
        )

    def under(self, seal_sha256: str) -> Keyring:
        """For another seal."""
        return Keyring(keys=self.keys, lasting=self.lasting, seal_sha256=seal_sha256)

    def derived(self, purpose: str) -> bytes:
        """A key for one purpose, by HKDF-Expand with SHA-256 (RFC 5869)."""
        info = b"vestibule secrets: " + purpose.encode()
        return HKDFExpand(algorithm=SHA256(), length=KEY_BYTES, info=info).derive(self.lasting)

    def encode(self) -> bytes:
        """As a text that ``decode`` reads.  A secret."""
        document = {
            "keys": {str(number): _text(key) for number, key in self.keys.items()},
            "lasting": _text(self.lasting),
            "seal_sha256": self.seal_sha256,
        }
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Keyring:
        """What ``encode`` made; it was authenticated before, so what is malformed is a bug."""
        document: dict[str, Any] = json.loads(encoded)
        return cls(
            keys={int(number): base64.b64decode(key) for number, key in document["keys"].items()},
            lasting=base64.b64decode(document["lasting"]),
            seal_sha256=document["seal_sha256"],
        )


def new_keyring(seal_sha256: str) -> Keyring:
    """With one new data key."""
    return Keyring(keys={1: new_key()}, lasting=new_key(), seal_sha256=seal_sha256)


class RowCipher:
    """Seals and opens the bodies of rows with the keys of one keyring, or with a root key alone (number 0)."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        self._ciphers = {number: AESGCM(key) for number, key in keys.items()}
        self.active = max(keys)

    def knows(self, key_id: int) -> bool:
        """Whether there is a key of this number."""
        return key_id in self._ciphers

    def seal(self, space: str, key: str, revision: int, value: bytes) -> SealedRow:
        """A row that holds ``value``, under the active key."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._ciphers[self.active].encrypt(nonce, value, bound(space, key, revision))
        body = _VERSION + nonce + sealed
        return SealedRow(space=space, key=key, revision=revision, key_id=self.active, body=body)

    def open(self, row: SealedRow) -> bytes:
        """What a row holds.  Raises: VST5002."""
        cipher, body = self._ciphers.get(row.key_id), row.body
        if cipher is None or not is_well_formed(row):
            raise _tampered(row)
        nonce, sealed = body[1 : 1 + _NONCE_BYTES], body[1 + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, sealed, bound(row.space, row.key, row.revision))
        except InvalidTag:
            raise _tampered(row) from None


def is_numbered(row: SealedRow) -> bool:
    """Whether its revision may be one: SQLite keeps values of any type in any column, if somebody puts them there."""
    revision: object = row.revision
    return isinstance(revision, int) and 0 < revision < _REVISIONS


def is_well_formed(row: SealedRow) -> bool:
    """Whether it may be one of ours."""
    body: object = row.body
    return is_numbered(row) and isinstance(body, bytes) and len(body) >= _OVERHEAD and body[:1] == _VERSION


def bound(space: str, key: str, revision: int) -> bytes:
    """Where a row belongs, as no other row has it."""
    first, second = space.encode(), key.encode()
    return _LENGTHS.pack(b"VSR", len(first), len(second), revision) + first + second


def _tampered(row: SealedRow) -> Exception:
    return TAMPERED.error(
        f"the row {row.key!r} of {row.space!r} is not what was written there at revision {row.revision}"
    )


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
