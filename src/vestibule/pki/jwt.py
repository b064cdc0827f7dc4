"""Making and verifying JWT-SVIDs (JWT-SVID.md).

Rules: J1 JWS compact only, a header of nothing but alg, kid and typ (§2); J2 alg from a list (§2.1); J3 typ JWT or
JOSE, if there is one (§2.3); J4 sub is a SPIFFE ID, aud holds the verifier, exp is there and in the future (§3);
J5 the key is found by its kid (§6.1 of the bundle's form).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.pki.codes import (
    INVALID_JWT_REQUEST,
    JWT_NOT_FOR_US,
    JWT_NOT_TRUSTED,
    JWT_NOT_VALID_NOW,
    NOT_A_JWT_SVID,
    SIGNER_SPENT,
)
from vestibule.pki.json_documents import parse_object
from vestibule.pki.jwk import ALGORITHMS, algorithms_for, decode_base64url, encode_base64url, load_jwt_key
from vestibule.spiffe import JwtSvid, SpiffeId, TrustBundle, TrustDomain

MAX_TOKEN: Final = 16 * 1024
MAX_AUDIENCES: Final = 64
MAX_AUDIENCE: Final = 2048
FUTURE_LEEWAY: Final = timedelta(seconds=60)
"""How far ``nbf`` and ``iat`` may lie ahead, for verifiers whose clocks are slow.  ``exp`` has no leeway."""

_HEADERS: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = ("JWT", "JOSE")
_ES256_BYTES: Final = 32

BundleOf = Callable[[TrustDomain], TrustBundle | None]
"""The bundle of a trust domain; ``None`` where that is not trusted."""


# --------------------------------------------------------------------------------------------- making


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnsignedJwt:
    """A token that waits for its signature: ES256, by the key called ``key_id``."""

    key_id: str
    claims: Mapping[str, Any]
    typ: str = "JWT"

    @property
    def signing_input(self) -> bytes:
        """What is signed (RFC 7515, section 5.1)."""
        header = {"alg": "ES256", "kid": self.key_id, "typ": self.typ}
        return f"{_part(header)}.{_part(self.claims)}".encode()

    def signed(self, signature: bytes) -> str:
        """The token; ``signature`` is an ECDSA signature in DER, as key managers make it."""
        r, s = decode_dss_signature(signature)
        raw = r.to_bytes(_ES256_BYTES) + s.to_bytes(_ES256_BYTES)
        return f"{self.signing_input.decode()}.{encode_base64url(raw)}"


def svid_claims(
    spiffe_id: SpiffeId,
    audience: Sequence[str],
    now: datetime,
    ttl: timedelta,
    signer_expires_at: datetime,
    issuer: str = "",
) -> dict[str, Any]:
    """The claims of a JWT-SVID issued now: good for ``ttl``, never beyond its signer's own end.

    ``aud`` is a list even of one.  Raises: VST1016 (audience), VST1004 (the signer is spent).
    """
    wanted = check_audience(audience)
    begins, ends = int(now.timestamp()), math.floor(min(now + ttl, signer_expires_at).timestamp())
    if ends <= now.timestamp():
        raise SIGNER_SPENT.error(f"the signing key expired at {signer_expires_at.isoformat()}")
    claims: dict[str, Any] = {"sub": str(spiffe_id), "aud": list(wanted), "exp": ends, "iat": begins}
    return claims | ({"iss": issuer} if issuer else {})


def check_audience(audience: Sequence[str]) -> tuple[str, ...]:
    """The audiences, each once.  Raises: VST1016."""
    if not audience:
        raise INVALID_JWT_REQUEST.error("at least one audience is required")
    if len(audience) > MAX_AUDIENCES or any(not 0 < len(each) <= MAX_AUDIENCE for each in audience):
        raise INVALID_JWT_REQUEST.error("an audience is empty or too long, or there are too many")
    return tuple(dict.fromkeys(audience))


def _part(value: Mapping[str, Any]) -> str:
    return encode_base64url(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


# ------------------------------------------------------------------------------------------- verifying


@dataclass(frozen=True, slots=True)
class _Parsed:
    algorithm: str
    svid: JwtSvid


def read_jwt_svid(token: str) -> JwtSvid:
    """Read a token and hold it against the profile; its signature, audience and time are not checked.

    Raises: VST1012.
    """
    return _parse(token).svid


def verify_jwt_svid(token: str, audience: Collection[str], bundle_of: BundleOf, now: datetime) -> JwtSvid:
    """The JWT-SVID that ``token`` is, if it proves an identity to one of ``audience`` at ``now``.

    1. It keeps the profile: three parts, a header of alg, kid and typ only, an algorithm of the list (J1–J3),
       sub, aud and exp present and well-formed (J4).
    2. Its key is the one that its own trust domain's bundle lists under its kid, and has not expired itself.  No
       other bundle is consulted.
    3. The algorithm is one of that key; what the header claims never chooses how a key is used.
    4. The signature is right.
    5. It was issued for one of ``audience``.
    6. It has not expired, and is not from the future.

    Raises: VST1012 (step 1), VST1013 (2 to 4), VST1014 (5), VST1015 (6).
    """
    parsed = _parse(token)  # 1
    svid = parsed.svid
    der = _authority(svid, bundle_of(svid.spiffe_id.trust_domain), now)  # 2
    check_signature(token, parsed.algorithm, der, svid.spiffe_id, svid.key_id)  # 3, 4
    if not set(svid.audience) & set(audience):  # 5
        raise JWT_NOT_FOR_US.error(f"the token of {svid.spiffe_id} is for {_listed(svid.audience)}")
    _check_time(svid, now)  # 6
    return svid


def _authority(svid: JwtSvid, bundle: TrustBundle | None, now: datetime) -> bytes:
    domain = svid.spiffe_id.trust_domain
    if bundle is None or bundle.trust_domain != domain:
        raise JWT_NOT_TRUSTED.error(f"there is no trust bundle of {domain}")
    for authority in bundle.jwt_authorities:
        if authority.key_id != svid.key_id:
            continue
        if authority.expires_at is not None and authority.expires_at <= now:
            raise JWT_NOT_TRUSTED.error(f"the JWT key {svid.key_id[:80]!r} of {domain} has expired")
        return authority.public_key
    raise JWT_NOT_TRUSTED.error(f"no JWT key of {domain} is called {svid.key_id[:80]!r}")


def check_signature(token: str, algorithm: str, der: bytes, spiffe_id: SpiffeId, key_id: str) -> None:
    """Whether a key (DER) signed a token by an algorithm that is one of the key's.  Raises: VST1013."""
    # Imported here: most who import this package never verify a token, and it takes a while.
    from joserfc import jws
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    try:
        key = load_jwt_key(der)
        if algorithm not in algorithms_for(key):
            raise JWT_NOT_TRUSTED.error(f"the key {key_id[:80]!r} is not one for {algorithm}")
        kind = ECKey if isinstance(key, EllipticCurvePublicKey) else RSAKey
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        # What a header may hold was checked before, by the profile of the token.
        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        jws.deserialize_compact(token, kind.import_key(pem), registry=registry)
    except (JoseError, ValueError) as error:
        raise JWT_NOT_TRUSTED.error(
            f"the token's signature is not one of {spiffe_id.trust_domain}"
        ) from error


def _check_time(svid: JwtSvid, now: datetime) -> None:
    if svid.expires_at <= now:
        raise JWT_NOT_VALID_NOW.error(
            f"the token of {svid.spiffe_id} expired at {svid.expires_at.isoformat()}"
        )
    for name in ("nbf", "iat"):
        if name in svid.claims and instant_of(svid.claims, name) > now + FUTURE_LEEWAY:
            raise JWT_NOT_VALID_NOW.error(f"the token of {svid.spiffe_id} is from the future ({name})")


def _parse(token: str) -> _Parsed:
    if len(token) > MAX_TOKEN:
        raise NOT_A_JWT_SVID.error(f"the token is longer than {MAX_TOKEN} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise NOT_A_JWT_SVID.error("the token is not a JWS in compact form")
    try:
        header, claims = (parse_object(decode_base64url(part)) for part in parts[:2])
        decode_base64url(parts[2])
    except ValueError as error:
        raise NOT_A_JWT_SVID.error("the token's parts are not base64url of JSON objects") from error
    algorithm, key_id = _check_header(header)
    return _Parsed(algorithm, _svid(token, key_id, claims))


def _check_header(header: Mapping[str, Any]) -> tuple[str, str]:
    if others := sorted(header.keys() - _HEADERS):
        raise NOT_A_JWT_SVID.error(f"the token's header may not have {others[0][:40]!r}")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise NOT_A_JWT_SVID.error("the token's algorithm is not one that JWT-SVIDs may have")
    if "typ" in header and header["typ"] not in _TYPES:
        raise NOT_A_JWT_SVID.error("the token's typ is neither JWT nor JOSE")
    if not isinstance(key_id, str) or not key_id:
        raise NOT_A_JWT_SVID.error("the token does not name its key (kid)")
    return algorithm, key_id


def _svid(token: str, key_id: str, claims: Mapping[str, Any]) -> JwtSvid:
    issued_at = instant_of(claims, "iat") if "iat" in claims else None
    if "nbf" in claims:
        instant_of(claims, "nbf")
    return JwtSvid(
        spiffe_id=subject_of(claims),
        audience=_audience(claims),
        expires_at=instant_of(claims, "exp"),
        issued_at=issued_at,
        key_id=key_id,
        token=token,
        claims=dict(claims),
    )


def subject_of(claims: Mapping[str, Any], code: ErrorCode = NOT_A_JWT_SVID) -> SpiffeId:
    """The identity in ``sub``.  Raises: ``code``."""
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise code.error("the token has no subject")
    try:
        spiffe_id = SpiffeId.parse(subject)
    except VestibuleError as error:
        raise code.error(f"the token's subject is not a SPIFFE ID: {error.message}") from error
    # Two ways to write one identity would let a token pass one check and fail another.
    if not spiffe_id.path or str(spiffe_id) != subject:
        raise code.error("the token's subject is not the ID of a workload in its usual form")
    return spiffe_id


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    audience = claims.get("aud")
    found = [audience] if isinstance(audience, str) else audience
    if not isinstance(found, list) or not found or not all(isinstance(each, str) and each for each in found):
        raise NOT_A_JWT_SVID.error("the token has no audience")
    return tuple(found)


def instant_of(claims: Mapping[str, Any], name: str, code: ErrorCode = NOT_A_JWT_SVID) -> datetime:
    """The NumericDate of this name.  Raises: ``code``."""
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise code.error(f"the token's {name} is missing or not a number")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise code.error(f"the token's {name} is not an instant") from error


def _listed(audience: Sequence[str]) -> str:
    return ", ".join(repr(each[:80]) for each in audience[:4]) + (" and others" if len(audience) > 4 else "")
