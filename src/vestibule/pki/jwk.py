"""Public keys as JSON Web Keys (RFC 7517, RFC 7518 section 6), and which JWS algorithm a key is for."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import load_der_public_key

JwtKey: TypeAlias = EllipticCurvePublicKey | RSAPublicKey

CURVES: Final[Mapping[str, EllipticCurve]] = {
    "P-256": SECP256R1(),
    "P-384": SECP384R1(),
    "P-521": SECP521R1(),
}
_CURVE_NAMES: Final = {curve.name: name for name, curve in CURVES.items()}
_RSA_BITS: Final = range(2048, 8193)
_RSA_EXPONENTS: Final = (3, 65537)

RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
ALGORITHMS: Final = frozenset({*RSA_ALGORITHMS, *EC_ALGORITHMS.values()})
"""All that JWT-SVID.md section 2.1 allows; ``none`` and the symmetric ones are not among them."""


def load_jwt_key(der: bytes) -> JwtKey:
    """Read a DER SubjectPublicKeyInfo of a key that JWT-SVIDs may be verified with.  Raises: ValueError."""
    try:
        return _usable(load_der_public_key(der))
    except UnsupportedAlgorithm as error:
        raise ValueError("the key's algorithm is not supported") from error


def algorithms_for(key: JwtKey) -> tuple[str, ...]:
    """The JWS algorithms that may be verified with a key: an EC key has exactly one."""
    if isinstance(key, EllipticCurvePublicKey):
        return (EC_ALGORITHMS[_CURVE_NAMES[key.curve.name]],)
    return RSA_ALGORITHMS


def jwk_parameters(key: object) -> dict[str, object]:
    """``kty`` and the key's own parameters.  Raises: ValueError for a key that is neither EC nor RSA."""
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        point, width = key.public_numbers(), (key.curve.key_size + 7) // 8
        x, y = (_base64url(part, width) for part in (point.x, point.y))
        return {"kty": "EC", "crv": _CURVE_NAMES[key.curve.name], "x": x, "y": y}
    if isinstance(key, RSAPublicKey):
        numbers = key.public_numbers()
        n, e = (_base64url(part, (part.bit_length() + 7) // 8) for part in (numbers.n, numbers.e))
        return {"kty": "RSA", "n": n, "e": e}
    raise ValueError("the key is neither EC (P-256, P-384, P-521) nor RSA")


def key_of_jwk(jwk: Mapping[str, Any]) -> JwtKey:
    """The public key that a JWK of ``kty`` EC or RSA stands for.  Raises: ValueError."""
    if jwk.get("kty") == "RSA":
        return _usable(RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n")).public_key())
    curve = CURVES.get(str(jwk.get("crv")))
    if jwk.get("kty") != "EC" or curve is None:
        raise ValueError("the key is neither EC (P-256, P-384, P-521) nor RSA")
    # The library refuses a point that is not on its curve.
    return EllipticCurvePublicNumbers(_number(jwk, "x"), _number(jwk, "y"), curve).public_key()


def _usable(key: object) -> JwtKey:
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        return key
    if isinstance(key, RSAPublicKey):
        # Verifying with a huge key or exponent costs thousands of times the usual work.
        if key.key_size in _RSA_BITS and key.public_numbers().e in _RSA_EXPONENTS:
            return key
        raise ValueError("the RSA key is too small, too large, or has an unusual exponent")
    raise ValueError("the key is neither EC (P-256, P-384, P-521) nor RSA")


def _number(jwk: Mapping[str, Any], name: str) -> int:
    text = jwk.get(name)
    if not isinstance(text, str):
        raise ValueError(f"the key has no {name}")  # noqa: TRY004 - it is the document's value that is wrong
    return int.from_bytes(decode_base64url(text))


def _base64url(number: int, width: int) -> str:
    return encode_base64url(number.to_bytes(width))


def encode_base64url(data: bytes) -> str:
    """Without padding, as JOSE has it (RFC 7515, section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """Read what ``encode_base64url`` wrote, and nothing else: no padding, no other letters, no stray bits.

    Raises: ValueError.
    """
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise ValueError("not base64url") from error
    if encode_base64url(data) != text:
        raise ValueError("not base64url")
    return data
