"""Trust bundles as documents: SPIFFE's JWK Set (SPIFFE_Trust_Domain_and_Bundle.md, section 4) and PEM."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Final, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import PARSE_ERRORS, load_certificate
from vestibule.pki.codes import MALFORMED_BUNDLE
from vestibule.spiffe import TrustBundle, TrustDomain

X509_USE: Final = "x509-svid"
MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024
_MAX_SEQUENCE: Final = 2**64 - 1
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def to_jwks(bundle: TrustBundle) -> bytes:
    """The bundle as a SPIFFE JWK Set: the same bundle always gives the same bytes."""
    document: dict[str, object] = {"keys": [_jwk(der) for der in bundle.x509_authorities]}
    document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint:
        document["spiffe_refresh_hint"] = bundle.refresh_hint
    return json.dumps(document, separators=(",", ":")).encode()


def from_jwks(trust_domain: TrustDomain, document: bytes) -> TrustBundle:
    """Read a SPIFFE JWK Set.  Raises: VST1009.

    1. It is a JSON object, no name twice, with a list ``keys``, which may be empty (section 4.1.3).
    2. Sequence and refresh hint, where present, are integers that are not negative (4.1.1, 4.1.2).
    3. Keys of an unknown or missing ``kty`` or ``use`` are passed over (4.2).
    4. Of X.509 keys only ``x5c[0]`` counts; those without it are passed over (X509-SVID.md section 6).
    """
    parsed = _parse_json(document)  # 1
    keys = parsed.get("keys")
    if not isinstance(keys, list):
        raise MALFORMED_BUNDLE.error("the bundle has no list `keys`")
    sequence = _integer(parsed, "spiffe_sequence")  # 2
    refresh_hint = _integer(parsed, "spiffe_refresh_hint")
    found = (_authority(key) for key in keys)
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(dict.fromkeys(der for der in found if der is not None)),
        sequence=sequence,
        refresh_hint=refresh_hint,
    )


def to_pem(bundle: TrustBundle) -> bytes:
    """The authorities as PEM, one after the other."""
    certificates = (load_certificate(der) for der in bundle.x509_authorities)
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def from_pem(trust_domain: TrustDomain, pem: bytes) -> TrustBundle:
    """Read PEM certificates, at least one.  Raises: VST1009."""
    _check_size(pem)
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        encoded = [certificate.public_bytes(Encoding.DER) for certificate in certificates]
        for der in encoded:
            load_certificate(der)
    except (*PARSE_ERRORS, VestibuleError) as error:
        raise MALFORMED_BUNDLE.error("the bundle does not consist of PEM certificates") from error
    return TrustBundle(trust_domain=trust_domain, x509_authorities=tuple(dict.fromkeys(encoded)))


def sha256_fingerprint(bundle: TrustBundle) -> str:
    """SHA-256, in lower-case hex, of the authorities' DER in ascending order, joined.

    For a bundle of one authority this is what ``openssl x509 -fingerprint -sha256`` prints for it.  Sequence
    and hint do not count.  DER tells its own length, so that no two sets of certificates join to the same bytes.
    """
    return hashlib.sha256(b"".join(sorted(bundle.x509_authorities))).hexdigest()


def _jwk(der: bytes) -> dict[str, object]:
    jwk = _key_parameters(load_certificate(der))
    return {"use": X509_USE, **jwk, "x5c": [base64.b64encode(der).decode()]}


def _key_parameters(certificate: x509.Certificate) -> dict[str, object]:
    key = certificate.public_key()
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        point, width = key.public_numbers(), (key.curve.key_size + 7) // 8
        x, y = (_base64url(part, width) for part in (point.x, point.y))
        return {"kty": "EC", "crv": _CURVES[key.curve.name], "x": x, "y": y}
    if isinstance(key, RSAPublicKey):
        numbers = key.public_numbers()
        n, e = (_base64url(part, (part.bit_length() + 7) // 8) for part in (numbers.n, numbers.e))
        return {"kty": "RSA", "n": n, "e": e}
    raise MALFORMED_BUNDLE.error("an authority's key is neither EC (P-256, P-384, P-521) nor RSA")


def _base64url(number: int, width: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(width)).rstrip(b"=").decode()


def _check_size(document: bytes) -> None:
    if len(document) > MAX_BUNDLE_BYTES:
        raise MALFORMED_BUNDLE.error(f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")


def _parse_json(document: bytes) -> dict[str, Any]:
    _check_size(document)
    try:
        parsed = json.loads(
            document.decode("utf-8"), object_pairs_hook=_each_name_once, parse_constant=_no_constants
        )
    # RecursionError: thousands of nested brackets.
    except (ValueError, RecursionError) as error:
        raise MALFORMED_BUNDLE.error("the bundle is not JSON") from error
    if not isinstance(parsed, dict):
        raise MALFORMED_BUNDLE.error("the bundle is not a JSON object")
    return parsed


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(parsed := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return parsed


def _no_constants(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _integer(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_SEQUENCE:
        raise MALFORMED_BUNDLE.error(f"{name} of the bundle is not an integer from 0 to 2^64 - 1")
    return value


def _authority(jwk: object) -> bytes | None:
    if not isinstance(jwk, dict):
        raise MALFORMED_BUNDLE.error("a key of the bundle is not a JSON object")
    if jwk.get("use") != X509_USE or jwk.get("kty") not in ("EC", "RSA"):  # 3
        return None
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or not chain:  # 4
        return None
    return _certificate(chain[0])


def _certificate(encoded: object) -> bytes:
    if not isinstance(encoded, str):
        raise MALFORMED_BUNDLE.error("a certificate in the bundle is not text")
    try:
        der = base64.b64decode(encoded, validate=True)
        load_certificate(der)
    except (binascii.Error, ValueError, VestibuleError) as error:
        raise MALFORMED_BUNDLE.error("a certificate in the bundle is not base64 of DER") from error
    return der
