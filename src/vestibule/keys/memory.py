"""Keys that live as long as the process."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import (
    CertificateBuilder,
    CertificateRevocationListBuilder,
    CertificateSigningRequestBuilder,
)

from vestibule.errors import VestibuleError
from vestibule.keys.codes import MALFORMED_KEY_ID, NO_SUCH_KEY
from vestibule.pki.keys import generate_key

_ECDSA_SHA256: Final = ECDSA(SHA256())
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


def check_key_id(key_id: str) -> str:
    """``key_id``, if it is well-formed.  Raises: VST1100."""
    if not _KEY_ID.fullmatch(key_id):
        raise MALFORMED_KEY_ID.error(f"{key_id[:80]!r} can not be the name of a key")
    return key_id


def no_such_key(key_id: str) -> VestibuleError:
    """The error for a key that is not there."""
    return NO_SUCH_KEY.error(f"there is no key named {key_id}")


def sign_data(key: EllipticCurvePrivateKey, data: bytes) -> bytes:
    """The signature in DER: ECDSA with SHA-256."""
    return key.sign(data, _ECDSA_SHA256)


Signable: TypeAlias = CertificateBuilder | CertificateRevocationListBuilder | CertificateSigningRequestBuilder


def sign(key: EllipticCurvePrivateKey, builder: Signable) -> bytes:
    """What was signed, in DER.  Some 30 µs, so it is done where it is asked for, in no other thread."""
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


class MemoryKeyManager:
    """A ``KeyManager`` for tests and for authorities that shall not outlive the process."""

    def __init__(self) -> None:
        self._keys: dict[str, EllipticCurvePrivateKey] = {}

    def hold(self, key_id: str, key: EllipticCurvePrivateKey) -> None:
        """Take a key that was made elsewhere, such as one that a passphrase has just opened."""
        self._keys[check_key_id(key_id)] = key

    async def generate(self, key_id: str) -> EllipticCurvePublicKey:
        """Make a key; one that had this ID is replaced."""
        key = self._keys[check_key_id(key_id)] = generate_key()
        return key.public_key()

    async def public_key(self, key_id: str) -> EllipticCurvePublicKey:
        """The public half."""
        return self._key(key_id).public_key()

    async def sign_certificate(self, key_id: str, builder: CertificateBuilder) -> bytes:
        """Sign what a profile built."""
        return sign(self._key(key_id), builder)

    async def sign_crl(self, key_id: str, builder: CertificateRevocationListBuilder) -> bytes:
        """Sign what ``pki.crls`` built."""
        return sign(self._key(key_id), builder)

    async def sign_csr(self, key_id: str, builder: CertificateSigningRequestBuilder) -> bytes:
        """Sign what ``pki.csr`` built."""
        return sign(self._key(key_id), builder)

    async def sign(self, key_id: str, data: bytes) -> bytes:
        """Sign ``data``."""
        return sign_data(self._key(key_id), data)

    async def delete(self, key_id: str) -> None:
        """Forget a key."""
        self._keys.pop(check_key_id(key_id), None)

    async def key_ids(self) -> frozenset[str]:
        """The IDs of all keys."""
        return frozenset(self._keys)

    def _key(self, key_id: str) -> EllipticCurvePrivateKey:
        try:
            return self._keys[check_key_id(key_id)]
        except KeyError:
            raise no_such_key(key_id) from None
