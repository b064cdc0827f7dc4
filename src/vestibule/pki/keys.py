"""Private keys: P-256 for everything that Vestibule makes, a short list for what it certifies."""

from __future__ import annotations

from typing import Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from vestibule.pki.codes import MALFORMED_KEY, UNSUPPORTED_KEY

PublicKey: TypeAlias = EllipticCurvePublicKey | RSAPublicKey
"""The public keys that may stand in an SVID."""

_CURVES: Final = (SECP256R1, SECP384R1)
_RSA_BITS: Final = range(2048, 4097)
_RSA_EXPONENT: Final = 65537


def generate_key() -> EllipticCurvePrivateKey:
    """A new P-256 key."""
    return generate_private_key(SECP256R1())


def key_to_pkcs8(key: EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 DER, the form of the Workload API (section 5.1).  A secret."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def key_from_pkcs8(der: bytes) -> EllipticCurvePrivateKey:
    """Read what ``key_to_pkcs8`` wrote.  Raises: VST1010, VST1003 (not an EC key on P-256 or P-384)."""
    try:
        key = load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MALFORMED_KEY.error("not an unencrypted PKCS #8 private key") from error
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, _CURVES):
        raise UNSUPPORTED_KEY.error("the private key is not an EC key on P-256 or P-384")
    return key


def public_key_der(key: PublicKey) -> bytes:
    """The key as DER SubjectPublicKeyInfo; equal keys give equal bytes."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certifiable(key: object) -> PublicKey:
    """``key``, if it is of a type and size that may stand in an SVID.  Raises: VST1003.

    RSA exponents are pinned: verifying with a huge one costs a server thousands of times the usual work.
    """
    if isinstance(key, EllipticCurvePublicKey):
        if isinstance(key.curve, _CURVES):
            return key
        raise UNSUPPORTED_KEY.error(f"EC keys on the curve {key.curve.name} are not supported")
    if isinstance(key, RSAPublicKey):
        if key.key_size in _RSA_BITS and key.public_numbers().e == _RSA_EXPONENT:
            return key
        raise UNSUPPORTED_KEY.error("the RSA key is too small, too large, or has an unusual exponent")
    raise UNSUPPORTED_KEY.error(f"keys of type {type(key).__name__} are not supported")
