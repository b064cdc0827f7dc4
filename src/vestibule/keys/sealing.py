"""Sealing data at rest: AES-256-GCM under one key-encryption key (KEK)."""

from __future__ import annotations

import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vestibule.keys.codes import UNSEALABLE

KEK_BYTES: Final = 32
_VERSION: Final = b"VSB1"
_NONCE_BYTES: Final = 12
_OVERHEAD: Final = len(_VERSION) + _NONCE_BYTES + 16


class Sealer:
    """Encrypts and authenticates.

    The sealed form is ``VSB1``, a random nonce of 96 bits, the ciphertext and its tag of 128 bits.  Random
    nonces bound a key to 2^32 messages (NIST SP 800-38D, section 8.3): one each second for 136 years.
    """

    __slots__ = ("_cipher",)

    def __init__(self, kek: bytes) -> None:
        """``kek`` is a secret of 32 random bytes (``load_or_create_kek``)."""
        if len(kek) != KEK_BYTES:
            raise ValueError(f"a key-encryption key has {KEK_BYTES} bytes")
        self._cipher = AESGCM(kek)

    def seal(self, plaintext: bytes, *, context: bytes) -> bytes:
        """Seal for one purpose: only the same ``context`` opens it, so that sealed files can not be swapped."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plaintext, _VERSION + context)

    def unseal(self, sealed: bytes, *, context: bytes) -> bytes:
        """Open what ``seal`` made.  Raises: VST1102, which does not tell a wrong key from changed data."""
        if len(sealed) < _OVERHEAD or not sealed.startswith(_VERSION):
            raise UNSEALABLE.error("the data is not in the sealed form of this version")
        nonce, ciphertext = sealed[4 : 4 + _NONCE_BYTES], sealed[4 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, ciphertext, _VERSION + context)
        except InvalidTag:
            raise UNSEALABLE.error("the sealed data does not open with this key for this purpose") from None
