"""Signing, verifying and HMACs with one version of a key."""

from __future__ import annotations

import hmac
from base64 import b64encode
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)

from vestibule.secrets.transit.ciphers import derived, parsed
from vestibule.secrets.transit.codes import NOT_DONE_WITH_KEY, UNREADABLE_INPUT
from vestibule.secrets.transit.keys import KeyVersion, TransitKey
from vestibule.secrets.transit.kinds import KeyKind

HASHES: Final[dict[str, hashes.HashAlgorithm]] = {
    "sha2-224": hashes.SHA224(),
    "sha2-256": hashes.SHA256(),
    "sha2-384": hashes.SHA384(),
    "sha2-512": hashes.SHA512(),
    "sha3-224": hashes.SHA3_224(),
    "sha3-256": hashes.SHA3_256(),
    "sha3-384": hashes.SHA3_384(),
    "sha3-512": hashes.SHA3_512(),
}
"""By the names of Vault.  SHA-1 is not offered."""


class Padding(Enum):
    """How RSA signatures are padded."""

    PSS = "pss"
    PKCS1 = "pkcs1v15"


class Marshaling(Enum):
    """How ECDSA signatures are written: DER, or r and s side by side (RFC 7518 section 3.4)."""

    ASN1 = "asn1"
    JWS = "jws"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signing:
    """How a signature is made.  ``prehashed`` input is a digest already."""

    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    prehashed: bool = False
    padding: Padding = Padding.PSS
    marshaling: Marshaling = Marshaling.ASN1


def sign(key: TransitKey, version: KeyVersion, data: bytes, how: Signing, context: bytes = b"") -> bytes:
    """The signature of ``data``.  Raises: VST5501, VST5502."""
    private = _private(key, version, context)
    _check(data, how)
    if isinstance(private, Ed25519PrivateKey):
        return private.sign(data)
    if isinstance(private, RSAPrivateKey):
        return private.sign(data, _padding(how), _hash(how))
    made = private.sign(data, ECDSA(_hash(how)))
    return made if how.marshaling is Marshaling.ASN1 else _side_by_side(private, made)


def verify(
    key: TransitKey, version: KeyVersion, data: bytes, signature: bytes, how: Signing, context: bytes = b""
) -> bool:
    """Whether ``signature`` is one of ``data``.  Raises: VST5501, VST5502."""
    private = _private(key, version, context)
    _check(data, how)
    try:
        if isinstance(private, Ed25519PrivateKey):
            private.public_key().verify(signature, data)
        elif isinstance(private, RSAPrivateKey):
            private.public_key().verify(signature, data, _padding(how), _hash(how))
        else:
            given = signature if how.marshaling is Marshaling.ASN1 else _der(private, signature)
            private.public_key().verify(given, data, ECDSA(_hash(how)))
    except InvalidSignature:
        return False
    return True


def mac(version: KeyVersion, data: bytes, algorithm: str) -> bytes:
    """The HMAC of ``data``."""
    return hmac.digest(version.mac, data, hash_named(algorithm).name.replace("-", "_"))


def public_half(key: TransitKey, version: KeyVersion, context: bytes = b"") -> str:
    """The public key of a context, where that is derived; else the version's."""
    if not key.derived:
        return version.public
    private = _private(key, version, context)
    assert isinstance(private, Ed25519PrivateKey)
    return b64encode(private.public_key().public_bytes_raw()).decode()


def hash_named(name: str) -> hashes.HashAlgorithm:
    """The hash of this name.  Raises: VST5502."""
    if name not in HASHES:
        raise UNREADABLE_INPUT.error(f"{name!r} is no hash algorithm of ours: {', '.join(HASHES)}")
    return HASHES[name]


def _check(data: bytes, how: Signing) -> None:
    if how.prehashed and len(data) != how.hash.digest_size:
        raise UNREADABLE_INPUT.error(f"the input is no digest of {how.hash.name}: {len(data)} bytes")


def _hash(how: Signing) -> hashes.HashAlgorithm | Prehashed:
    return Prehashed(how.hash) if how.prehashed else how.hash


def _padding(how: Signing) -> padding.PSS | padding.PKCS1v15:
    if how.padding is Padding.PKCS1:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(how.hash), how.hash.digest_size)


def _private(
    key: TransitKey, version: KeyVersion, context: bytes
) -> Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey:
    if not key.kind.signs:
        raise NOT_DONE_WITH_KEY.error(f"{key.name} ({key.kind.value}) does not sign")
    material = derived(key, version.material, context)
    if key.kind is KeyKind.ED25519:
        return Ed25519PrivateKey.from_private_bytes(material)
    return parsed(material)


def _side_by_side(private: EllipticCurvePrivateKey, signature: bytes) -> bytes:
    size = (private.key_size + 7) // 8
    return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(signature))


def _der(private: EllipticCurvePrivateKey, signature: bytes) -> bytes:
    size = (private.key_size + 7) // 8
    if len(signature) != 2 * size:
        raise InvalidSignature
    return encode_dss_signature(
        int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    )
