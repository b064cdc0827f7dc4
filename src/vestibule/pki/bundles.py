"""Trust bundles as documents: SPIFFE's JWK Set (SPIFFE_Trust_Domain_and_Bundle.md, section 4) and PEM."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import PARSE_ERRORS, load_certificate
from vestibule.pki.codes import MALFORMED_BUNDLE
from vestibule.pki.json_documents import parse_object
from vestibule.pki.jwk import algorithms_for, jwk_parameters, key_of_jwk, load_jwt_key
from vestibule.pki.keys import public_key_der
from vestibule.spiffe import JwtAuthority, TrustBundle, TrustDomain

X509_USE: Final = "x509-svid"
JWT_USE: Final = "jwt-svid"
WIT_USE: Final = "wit-svid"
MAX_BUNDLE_BYTES: Final = 4 * 1024 * 1024
_MAX_SEQUENCE: Final = 2**64 - 1


def to_jwks(bundle: TrustBundle) -> bytes:
    """The bundle as a SPIFFE JWK Set: the same bundle always gives the same bytes."""
    keys = [_x509_jwk(der) for der in bundle.x509_authorities]
    keys += [{"use": JWT_USE, **_jwt_jwk(authority)} for authority in bundle.jwt_authorities]
    keys += [{"use": WIT_USE, **_jwt_jwk(authority)} for authority in bundle.wit_authorities]
    document: dict[str, object] = {"keys": keys}
    document["spiffe_sequence"] = bundle.sequence
    if bundle.refresh_hint:
        document["spiffe_refresh_hint"] = bundle.refresh_hint
    return json.dumps(document, separators=(",", ":")).encode()


def to_jwt_jwks(bundle: TrustBundle) -> bytes:
    """The keys of JWT-SVIDs as a plain JWK Set, the form of the Workload API (section 6.2.2).

    Neither keys of other uses nor SPIFFE's own members are in it.
    """
    keys = [_jwt_jwk(authority) for authority in bundle.jwt_authorities]
    return json.dumps({"keys": keys}, separators=(",", ":")).encode()


def to_wit_jwks(bundle: TrustBundle) -> bytes:
    """The keys of WIT-SVIDs as a plain JWK Set, the form of the Workload API (section 7.2.2)."""
    keys = [_jwt_jwk(authority) for authority in bundle.wit_authorities]
    return json.dumps({"keys": keys}, separators=(",", ":")).encode()


def to_oidc_jwks(bundle: TrustBundle) -> dict[str, object]:
    """The same for readers that know OpenID Connect and nothing of SPIFFE: each key says how it is used."""
    keys = []
    for authority in bundle.jwt_authorities:
        algorithm, *_ = algorithms_for(load_jwt_key(authority.public_key))
        keys.append({**_jwt_jwk(authority), "alg": algorithm, "use": "sig"})
    return {"keys": keys}


def from_jwt_jwks(trust_domain: TrustDomain, document: bytes) -> TrustBundle:
    """Read what ``to_jwt_jwks`` wrote, of any implementation: keys without a ``use`` count.  Raises: VST1009."""
    keys = [key for key in _keys(_parse_json(document)) if key.get("use", JWT_USE) == JWT_USE]
    return TrustBundle(trust_domain=trust_domain, x509_authorities=(), jwt_authorities=_jwt_authorities(keys))


def from_jwks(trust_domain: TrustDomain, document: bytes) -> TrustBundle:
    """Read a SPIFFE JWK Set.  Raises: VST1009.

    1. It is a JSON object, no name twice, with a list ``keys``, which may be empty (section 4.1.3).
    2. Sequence and refresh hint, where present, are integers that are not negative (4.1.1, 4.1.2).
    3. Keys of an unknown or missing ``kty`` or ``use`` are passed over (4.2).
    4. Of X.509 keys only ``x5c[0]`` counts; those without it are passed over (X509-SVID.md section 6).
    5. JWT and WIT keys without a ``kid``, or of a size or curve that is not supported, are passed over; no two
       different ones may share a ``kid`` (JWT-SVID.md section 6.1, WIT-SVID.md section 6.1).
    """
    return _from_document(trust_domain, _parse_json(document))


def to_bundle_map(bundles: Iterable[TrustBundle]) -> bytes:
    """Bundles as a SPIFFE bundle map (section 5): each for itself, without refresh hints, by trust domain."""
    ordered = sorted(bundles, key=lambda each: each.trust_domain)
    documents = {
        str(each.trust_domain): json.loads(to_jwks(replace(each, refresh_hint=0))) for each in ordered
    }
    return json.dumps({"trust_domains": documents}, separators=(",", ":")).encode()


def from_bundle_map(document: bytes) -> dict[TrustDomain, TrustBundle]:
    """Read a SPIFFE bundle map, all of it or nothing.

    A trust domain that stands in it twice, however it is written, makes it invalid (section 5.1.1), as does a name that
    is none: whose bundle would it be?  Raises: VST1009, VST1400.
    """
    domains = _parse_json(document).get("trust_domains")
    if not isinstance(domains, dict):
        raise MALFORMED_BUNDLE.error("the bundle map has no object `trust_domains`")
    found: dict[TrustDomain, TrustBundle] = {}
    for name, content in domains.items():
        trust_domain = TrustDomain.parse(name)
        if trust_domain in found:
            raise MALFORMED_BUNDLE.error(f"{trust_domain} stands twice in the bundle map")
        if not isinstance(content, dict):
            raise MALFORMED_BUNDLE.error(f"the bundle of {trust_domain} is not a JSON object")
        found[trust_domain] = _from_document(trust_domain, content)
    return found


def _from_document(trust_domain: TrustDomain, parsed: dict[str, Any]) -> TrustBundle:
    keys = _keys(parsed)  # 1
    sequence = _integer(parsed, "spiffe_sequence")  # 2
    refresh_hint = _integer(parsed, "spiffe_refresh_hint")
    known = [key for key in keys if key.get("kty") in ("EC", "RSA")]  # 3
    found = (_certificate_of(key) for key in known if key.get("use") == X509_USE)
    jwt = _jwt_authorities([key for key in known if key.get("use") == JWT_USE])
    wit = _jwt_authorities([key for key in known if key.get("use") == WIT_USE])
    if shared := {each.key_id for each in jwt} & {each.key_id for each in wit}:
        raise MALFORMED_BUNDLE.error(
            f"a JWT and a WIT key of the bundle are both called {min(shared)[:80]!r}"
        )
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=tuple(dict.fromkeys(der for der in found if der is not None)),
        jwt_authorities=jwt,
        wit_authorities=wit,
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


def _x509_jwk(der: bytes) -> dict[str, object]:
    jwk = _parameters(load_certificate(der).public_key())
    return {"use": X509_USE, **jwk, "x5c": [base64.b64encode(der).decode()]}


def _jwt_jwk(authority: JwtAuthority) -> dict[str, object]:
    return {"kid": authority.key_id, **_parameters(load_jwt_key(authority.public_key))}


def _parameters(key: object) -> dict[str, object]:
    try:
        return jwk_parameters(key)
    except ValueError as error:
        raise MALFORMED_BUNDLE.error(f"an authority can not be written: {error}") from error


def _check_size(document: bytes) -> None:
    if len(document) > MAX_BUNDLE_BYTES:
        raise MALFORMED_BUNDLE.error(f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")


def _parse_json(document: bytes) -> dict[str, Any]:
    _check_size(document)
    try:
        return parse_object(document)
    except ValueError as error:
        raise MALFORMED_BUNDLE.error("the bundle is not a JSON object") from error


def _integer(document: dict[str, Any], name: str) -> int:
    value = document.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_SEQUENCE:
        raise MALFORMED_BUNDLE.error(f"{name} of the bundle is not an integer from 0 to 2^64 - 1")
    return value


def _keys(document: dict[str, Any]) -> list[dict[str, Any]]:
    keys = document.get("keys")
    if not isinstance(keys, list):
        raise MALFORMED_BUNDLE.error("the bundle has no list `keys`")
    if not all(isinstance(key, dict) for key in keys):
        raise MALFORMED_BUNDLE.error("a key of the bundle is not a JSON object")
    return keys


def _certificate_of(jwk: dict[str, Any]) -> bytes | None:
    chain = jwk.get("x5c")
    if not isinstance(chain, list) or not chain:  # 4
        return None
    return _certificate(chain[0])


def _jwt_authorities(keys: list[dict[str, Any]]) -> tuple[JwtAuthority, ...]:
    found: dict[str, JwtAuthority] = {}
    for jwk in keys:
        authority = _jwt_authority(jwk)
        if authority is not None and found.setdefault(authority.key_id, authority) != authority:
            raise MALFORMED_BUNDLE.error(f"two JWT keys of the bundle are called {authority.key_id[:80]!r}")
    return tuple(found.values())


def _jwt_authority(jwk: dict[str, Any]) -> JwtAuthority | None:
    key_id = jwk.get("kid")
    if not isinstance(key_id, str) or not key_id:  # 5
        return None
    try:
        return JwtAuthority(key_id=key_id, public_key=public_key_der(key_of_jwk(jwk)))
    except ValueError:
        # Another's bundle may hold keys of a kind that we do not know: nothing is trusted for them.
        return None


def _certificate(encoded: object) -> bytes:
    if not isinstance(encoded, str):
        raise MALFORMED_BUNDLE.error("a certificate in the bundle is not text")
    try:
        der = base64.b64decode(encoded, validate=True)
        load_certificate(der)
    except (binascii.Error, ValueError, VestibuleError) as error:
        raise MALFORMED_BUNDLE.error("a certificate in the bundle is not base64 of DER") from error
    return der
