"""Signed notes (C2SP signed-note): a text, and under it who has signed it, with Ed25519."""

from __future__ import annotations

import binascii
import hashlib
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519: Final = b"\x01"
_ID_BYTES: Final = 4
_NAME: Final = re.compile(r"[^\s+]{1,255}")
_SIGNATURE: Final = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/=]+)")


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:_ID_BYTES]


@dataclass(frozen=True, slots=True)
class NoteVerifier:
    """Who may have signed: a name and a public key.  As text: ``NAME+ID+KEY`` (C2SP signed-note)."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> NoteVerifier:
        """From the text form.  Raises: ValueError."""
        name, _, rest = text.strip().partition("+")
        key_id, _, key = rest.partition("+")
        try:
            body = b64decode(key, validate=True)
        except ValueError:  # of base64, too
            raise ValueError("the key is not base64") from None
        if not _NAME.fullmatch(name) or len(body) != 33 or body[:1] != _ED25519:
            raise ValueError("it has not the form NAME+ID+KEY of an Ed25519 key")
        if key_id != _key_id(name, body[1:]).hex():
            raise ValueError("its ID is not that of name and key")
        return cls(name, body[1:])

    def __str__(self) -> str:
        key = b64encode(_ED25519 + self.public).decode()
        return f"{self.name}+{_key_id(self.name, self.public).hex()}+{key}"

    def has_signed(self, text: str, signatures: str) -> bool:
        """Whether one of the lines of ``signatures`` is this key's, of ``text``."""
        for line in signatures.splitlines():
            found = _SIGNATURE.fullmatch(line)
            if found is not None and found[1] == self.name and self._verifies(text, found[2]):
                return True
        return False

    def _verifies(self, text: str, signature: str) -> bool:
        try:
            body = b64decode(signature, validate=True)
            if body[:_ID_BYTES] != _key_id(self.name, self.public):
                return False
            Ed25519PublicKey.from_public_bytes(self.public).verify(body[_ID_BYTES:], text.encode())
        except (binascii.Error, InvalidSignature):
            return False
        return True


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """Signs notes.  ``private`` is a secret of 32 bytes."""

    name: str
    private: bytes = field(repr=False)

    @property
    def verifier(self) -> NoteVerifier:
        """What checks its signatures."""
        return NoteVerifier(self.name, self._key.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """The line that stands under ``text``, which ends with a new line."""
        signature = self._key.sign(text.encode())
        return f"— {self.name} {b64encode(_key_id(self.name, self.verifier.public) + signature).decode()}\n"

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.private)
