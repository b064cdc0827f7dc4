"""The types of keys, by the names that clients of Vault know."""

from __future__ import annotations

from enum import Enum
from typing import Final


class KeyKind(Enum):
    """What a key is, and so what can be done with it."""

    AES128 = "aes128-gcm96"
    AES256 = "aes256-gcm96"
    CHACHA20 = "chacha20-poly1305"
    ED25519 = "ed25519"
    P256 = "ecdsa-p256"
    P384 = "ecdsa-p384"
    P521 = "ecdsa-p521"
    RSA2048 = "rsa-2048"
    RSA3072 = "rsa-3072"
    RSA4096 = "rsa-4096"
    HMAC = "hmac"

    @property
    def is_symmetric(self) -> bool:
        """Whether it is a secret of random bytes that encrypts."""
        return self in _SYMMETRIC

    @property
    def is_rsa(self) -> bool:
        """Whether it is a pair of RSA keys."""
        return self in _RSA

    @property
    def encrypts(self) -> bool:
        """Whether it encrypts and decrypts."""
        return self.is_symmetric or self.is_rsa

    @property
    def signs(self) -> bool:
        """Whether it makes signatures that its public half verifies."""
        return self not in _SYMMETRIC and self is not KeyKind.HMAC

    @property
    def derives(self) -> bool:
        """Whether each context can have a key of its own."""
        return self.is_symmetric or self is KeyKind.ED25519


_SYMMETRIC: Final = frozenset({KeyKind.AES128, KeyKind.AES256, KeyKind.CHACHA20})
_RSA: Final = frozenset({KeyKind.RSA2048, KeyKind.RSA3072, KeyKind.RSA4096})
