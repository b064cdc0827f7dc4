"""Encrypting and decrypting with one version of a key.

The sealed form is that of Vault: a nonce of 96 bits, then ciphertext and tag; of RSA, OAEP with SHA-256.
"""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_der_private_key

from vestibule.secrets.transit.codes import NOT_AUTHENTIC, NOT_DONE_WITH_KEY
from vestibule.secrets.transit.keys import KeyVersion, TransitKey
from vestibule.secrets.transit.kinds import KeyKind

_NONCE_BYTES: Final = 12
_OAEP: Final = OAEP(MGF1(SHA256()), SHA256(), None)


def seal(key: TransitKey, version: KeyVersion, plain: bytes, context: bytes, associated: bytes) -> bytes:
    """Encrypt.  Raises: VST5501."""
    if key.kind.is_rsa:
        _no_more(key, context, associated)
        try:
            return _rsa(version.material).public_key().encrypt(plain, _OAEP)
        except ValueError:
            raise NOT_DONE_WITH_KEY.error(
                f"{key.name} ({key.kind.value}) encrypts shorter texts only"
            ) from None
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + _cipher(key, version, context).encrypt(nonce, plain, associated or None)


def unseal(key: TransitKey, version: KeyVersion, sealed: bytes, context: bytes, associated: bytes) -> bytes:
    """Decrypt.  Raises: VST5501, VST5503."""
    try:
        if key.kind.is_rsa:
            _no_more(key, context, associated)
            return _rsa(version.material).decrypt(sealed, _OAEP)
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        return _cipher(key, version, context).decrypt(nonce, rest, associated or None)
    except (InvalidTag, ValueError):
        raise NOT_AUTHENTIC.error(f"the ciphertext does not open with {key.name}") from None


def derived(key: TransitKey, material: bytes, context: bytes) -> bytes:
    """The key of a context (HKDF with SHA-256, RFC 5869 section 2.3), or the key itself.  Raises: VST5501."""
    if not key.derived:
        if context:
            raise NOT_DONE_WITH_KEY.error(f"{key.name} is not derived, and takes no context")
        return material
    if not context:
        raise NOT_DONE_WITH_KEY.error(f"{key.name} is derived, and needs a context")
    return HKDFExpand(SHA256(), len(material), context).derive(material)


def _cipher(key: TransitKey, version: KeyVersion, context: bytes) -> AESGCM | ChaCha20Poly1305:
    if not key.kind.is_symmetric:
        raise NOT_DONE_WITH_KEY.error(f"{key.name} ({key.kind.value}) does not encrypt")
    material = derived(key, version.material, context)
    return ChaCha20Poly1305(material) if key.kind is KeyKind.CHACHA20 else AESGCM(material)


def _no_more(key: TransitKey, context: bytes, associated: bytes) -> None:
    if context or associated:
        raise NOT_DONE_WITH_KEY.error(
            f"{key.name} ({key.kind.value}) takes neither context nor associated data"
        )


def forget_private_keys() -> None:
    """Drop the private keys that were parsed, which is slow, and kept for the next use."""
    parsed.cache_clear()


@lru_cache(maxsize=64)
def parsed(material: bytes) -> EllipticCurvePrivateKey | RSAPrivateKey:
    """The private key that this engine wrote in PKCS #8."""
    # Checking RSA's numbers takes half a second, and these are our own, as the barrier has kept them.
    key = load_der_private_key(material, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, EllipticCurvePrivateKey | RSAPrivateKey)
    return key


def _rsa(material: bytes) -> RSAPrivateKey:
    key = parsed(material)
    assert isinstance(key, RSAPrivateKey)
    return key
