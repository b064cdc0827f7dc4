"""Verifying a signature (RFC 7518, section 3; RFC 8037), by an algorithm that is the key's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from vestibule.pki.jwk import algorithms_for, decode_base64url, key_of_jwk

PublicKey: TypeAlias = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey

EDDSA: Final = frozenset({"EdDSA", "Ed25519"})
"""Two names of the same: RFC 8037, and RFC 9864, which replaces it."""

_HASHES: Final[Mapping[str, HashAlgorithm]] = {"256": SHA256(), "384": SHA384(), "512": SHA512()}


def public_key(jwk: Mapping[str, Any]) -> PublicKey:
    """The key that a JWK stands for: EC, RSA or Ed25519.  Raises: ValueError."""
    if jwk.get("kty") == "OKP" and jwk.get("crv") == "Ed25519":
        return Ed25519PublicKey.from_public_bytes(decode_base64url(str(jwk.get("x"))))
    return key_of_jwk(jwk)


def fits(key: PublicKey, algorithm: str) -> bool:
    """Whether the algorithm is one that may be used with the key."""
    if isinstance(key, Ed25519PublicKey):
        return algorithm in EDDSA
    return algorithm in algorithms_for(key)


def is_signature(key: PublicKey, algorithm: str, signature: bytes, data: bytes) -> bool:
    """Whether the key signed the data, by an algorithm that ``fits`` it."""
    try:
        _verify(key, algorithm, signature, data)
    except InvalidSignature:
        return False
    return True


def _verify(key: PublicKey, algorithm: str, signature: bytes, data: bytes) -> None:
    if isinstance(key, Ed25519PublicKey):
        key.verify(signature, data)
        return
    digest = _HASHES[algorithm[2:]]
    if isinstance(key, EllipticCurvePublicKey):
        key.verify(_der(signature, (key.curve.key_size + 7) // 8), data, ECDSA(digest))
    elif algorithm.startswith("PS"):
        key.verify(signature, data, PSS(MGF1(digest), digest.digest_size), digest)
    else:
        key.verify(signature, data, PKCS1v15(), digest)


def _der(signature: bytes, width: int) -> bytes:
    """From the two numbers side by side, neither longer nor shorter than they have to be (RFC 7518, section 3.4)."""
    if len(signature) != 2 * width:
        raise InvalidSignature
    return encode_dss_signature(int.from_bytes(signature[:width]), int.from_bytes(signature[width:]))
