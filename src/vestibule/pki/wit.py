"""Making and verifying WIT-SVIDs (WIT-SVID.md): tokens that are worth nothing without the key that they name.

Rules: T1 a header with kid, alg from a list, and typ ``wit+jwt`` (§2); T2 sub, exp, and cnf.jwk with an alg from the
list (§3); T3 no aud (§3.8).  What is verified here is the token; that its holder has the key is for whoever is shown
it to find out (§7.1), and until then nothing is proved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from vestibule.pki.codes import (
    INVALID_JWT_REQUEST,
    JWT_NOT_TRUSTED,
    JWT_NOT_VALID_NOW,
    NOT_A_WIT_SVID,
    SIGNER_SPENT,
)
from vestibule.pki.json_documents import parse_object
from vestibule.pki.jwk import (
    ALGORITHMS,
    algorithms_for,
    decode_base64url,
    encode_base64url,
    jwk_parameters,
    key_of_jwk,
    load_jwt_key,
)
from vestibule.pki.jwt import FUTURE_LEEWAY, MAX_TOKEN, check_signature, instant_of, subject_of
from vestibule.pki.keys import public_key_der
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, WitSvid

TYPE: Final = "wit+jwt"
_PRIVATE_PARTS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

BundleOf = Callable[[TrustDomain], TrustBundle | None]
"""The bundle of a trust domain; ``None`` where that is not trusted."""


# --------------------------------------------------------------------------------------------- making


def bound_key(public_key: bytes, algorithm: str) -> dict[str, object]:
    """The ``cnf.jwk`` of a public key (DER), which its holder signs with ``algorithm``.

    Raises: VST1016 for a key of another kind, or an algorithm that is not the key's.
    """
    try:
        key = load_jwt_key(public_key)
    except ValueError as error:
        raise INVALID_JWT_REQUEST.error(f"malformed public key: {error}") from error
    if algorithm not in algorithms_for(key):
        raise INVALID_JWT_REQUEST.error(
            f"invalid signing algorithm or key type: the key is not one for {algorithm[:20]!r}"
        )
    return {**jwk_parameters(key), "alg": algorithm}


def wit_claims(
    spiffe_id: SpiffeId,
    jwk: Mapping[str, object],
    now: datetime,
    ttl: timedelta,
    signer_expires_at: datetime,
    jti: str,
) -> dict[str, Any]:
    """The claims of a WIT-SVID issued now: good for ``ttl``, never beyond its signer's own end.

    There is no ``iss``: one that OpenID Connect could use would let the token pass for one of a bearer's (§3.7).
    Raises: VST1004 (the signer is spent).
    """
    begins, ends = int(now.timestamp()), math.floor(min(now + ttl, signer_expires_at).timestamp())
    if ends <= now.timestamp():
        raise SIGNER_SPENT.error(f"the signing key expired at {signer_expires_at.isoformat()}")
    return {"sub": str(spiffe_id), "exp": ends, "iat": begins, "jti": jti, "cnf": {"jwk": dict(jwk)}}


def private_jwk(key: EllipticCurvePrivateKey, algorithm: str) -> str:
    """A private key as the Workload API gives it: a JWK, in JSON."""
    width = (key.key_size + 7) // 8
    d = encode_base64url(key.private_numbers().private_value.to_bytes(width))
    return json.dumps({**jwk_parameters(key.public_key()), "alg": algorithm, "d": d}, separators=(",", ":"))


# ------------------------------------------------------------------------------------------- verifying


def read_wit_svid(token: str) -> WitSvid:
    """What a token says, without knowing whether it is true.  Raises: VST1021."""
    return _parse(token)[1]


def verify_wit_svid(token: str, bundle_of: BundleOf, now: datetime) -> WitSvid:
    """What a token says, if a trusted authority said so and it holds now.

    1. It has the form of a WIT-SVID (T1, T2, T3).
    2. Its kid is one of the WIT authorities of its subject's trust domain; no other trust domain's are looked at.
    3. That authority's signature is right.
    4. It has begun, and has not ended.

    Raises: VST1021 (step 1), VST1013 (2 and 3), VST1015 (4).
    """
    algorithm, svid = _parse(token)  # 1
    bundle = bundle_of(svid.spiffe_id.trust_domain)
    ours = bundle is not None and bundle.trust_domain == svid.spiffe_id.trust_domain
    authorities = bundle.wit_authorities if bundle is not None and ours else ()
    found = next((each for each in authorities if each.key_id == svid.key_id), None)
    if found is None:  # 2
        raise JWT_NOT_TRUSTED.error(
            f"the token of {svid.spiffe_id} is signed by no WIT authority that is trusted"
        )
    if found.expires_at is not None and found.expires_at <= now:
        raise JWT_NOT_TRUSTED.error(f"the WIT key {svid.key_id[:80]!r} has expired")
    check_signature(token, algorithm, found.public_key, svid.spiffe_id, svid.key_id)  # 3
    if now >= svid.expires_at:  # 4
        raise JWT_NOT_VALID_NOW.error(
            f"the token of {svid.spiffe_id} expired at {svid.expires_at.isoformat()}"
        )
    if svid.not_before is not None and svid.not_before > now + FUTURE_LEEWAY:
        raise JWT_NOT_VALID_NOW.error(f"the token of {svid.spiffe_id} is not valid yet")
    return svid


def _parse(token: str) -> tuple[str, WitSvid]:
    if len(token) > MAX_TOKEN:
        raise NOT_A_WIT_SVID.error(f"the token is longer than {MAX_TOKEN} characters")
    parts = token.split(".")
    if len(parts) != 3:
        raise NOT_A_WIT_SVID.error("the token is not a JWS in compact form")
    try:
        header, claims = (parse_object(decode_base64url(part)) for part in parts[:2])
        decode_base64url(parts[2])
    except ValueError as error:
        raise NOT_A_WIT_SVID.error("the token's parts are not base64url of JSON objects") from error
    algorithm, key_id = _check_header(header)
    return algorithm, _svid(token, key_id, claims)


def _check_header(header: Mapping[str, Any]) -> tuple[str, str]:
    """T1.  Unknown parameters are passed over, unless they are critical (§2.4)."""
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise NOT_A_WIT_SVID.error("the token's algorithm is not one that WIT-SVIDs may have")
    if header.get("typ") != TYPE:
        raise NOT_A_WIT_SVID.error(f"the token's typ is not {TYPE}")
    if not isinstance(key_id, str) or not key_id:
        raise NOT_A_WIT_SVID.error("the token does not name its key (kid)")
    if "crit" in header:
        raise NOT_A_WIT_SVID.error("the token's header has critical parameters, of which none is known here")
    return algorithm, key_id


def _svid(token: str, key_id: str, claims: Mapping[str, Any]) -> WitSvid:
    if "aud" in claims:  # T3
        raise NOT_A_WIT_SVID.error("the token has an audience, which no WIT-SVID may have")
    public_key, algorithm = _bound(claims)
    return WitSvid(
        spiffe_id=subject_of(claims, NOT_A_WIT_SVID),
        expires_at=instant_of(claims, "exp", NOT_A_WIT_SVID),
        issued_at=instant_of(claims, "iat", NOT_A_WIT_SVID) if "iat" in claims else None,
        not_before=instant_of(claims, "nbf", NOT_A_WIT_SVID) if "nbf" in claims else None,
        key_id=key_id,
        public_key=public_key,
        algorithm=algorithm,
        token=token,
        claims=dict(claims),
    )


def _bound(claims: Mapping[str, Any]) -> tuple[bytes, str]:
    """T2: the holder's public key (DER) and what it signs with."""
    cnf = claims.get("cnf")
    jwk = cnf.get("jwk") if isinstance(cnf, dict) else None
    if not isinstance(jwk, dict):
        raise NOT_A_WIT_SVID.error("the token is bound to no key (cnf.jwk)")
    if _PRIVATE_PARTS & jwk.keys():
        raise NOT_A_WIT_SVID.error("the token holds a private or symmetric key")
    algorithm = jwk.get("alg")
    try:
        key = key_of_jwk(jwk)
    except ValueError as error:
        raise NOT_A_WIT_SVID.error(f"the token's key is of no use: {error}") from error
    if not isinstance(algorithm, str) or algorithm not in algorithms_for(key):
        raise NOT_A_WIT_SVID.error(
            "the token's key has no alg that WIT-SVIDs may have, or not one of its own"
        )
    return public_key_der(key), algorithm
