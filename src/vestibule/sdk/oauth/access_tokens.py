"""What an access token says (RFC 9068), once it was verified: no sockets, the keys and the time are given.

The steps of verifying:

1. Three parts of base64url, not too long; header and claims are JSON objects, no name twice, not too deep.
2. The header has alg, kid and typ and nothing else: nothing in it says where a key is, or has to be understood.  The
   type is ``at+jwt``: no ID token, no JWT-SVID, no assertion passes for an access token.
3. The key is the one of the issuer's that is called ``kid``; its own kind says which algorithms it is for.
4. The signature is right.
5. The issuer is the one that is believed.
6. Whom it is of, and who acts, is said in the way that it has to be.
7. The audience is one of ours.
8. It has not ended, and is not from the future.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.pki.json_documents import parse_object
from vestibule.pki.jwk import ALGORITHMS, JwtKey, algorithms_for, decode_base64url, key_of_jwk
from vestibule.pki.jwt import instant_of
from vestibule.sdk.codes import TOKEN_LACKS_SCOPE, TOKEN_NOT_FOR_US, TOKEN_NOT_NOW, TOKEN_NOT_VALID
from vestibule.sdk.oauth.errors import InvalidTokenError, TokenScopeError

LARGEST: Final = 16 * 1024
DEEPEST: Final = 16
"""Objects and lists within one another; actors in a chain."""

LEEWAY: Final = timedelta(seconds=30)
"""How far two clocks may be apart."""

_HEADERS: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """A token that was verified: whom it is of, who acts, what it is good for.

    ``subject`` is for whom the request acts; ``actors`` who does so, the newest first, empty where the subject acts
    itself.  ``transaction`` (``txn``) is the same in all tokens that were got in exchange for one another.
    ``text`` is the token: a secret.
    """

    text: str = field(repr=False)
    issuer: str
    subject: str
    client_id: str
    audience: tuple[str, ...]
    scopes: frozenset[str]
    issued_at: datetime
    expires_at: datetime
    token_id: str
    transaction: str = ""
    actors: tuple[str, ...] = ()
    may_act: str = ""
    certificate: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def presenter(self) -> str:
        """Who may show it: the newest actor, else the client that got it."""
        return self.actors[0] if self.actors else self.client_id

    def has(self, *scopes: str) -> bool:
        """Whether it has all of them."""
        return self.scopes.issuperset(scopes)

    def must_have(self, *scopes: str) -> None:
        """Raises: TokenScopeError (VST6126), which the middleware answers with 403."""
        if missing := [each for each in scopes if each not in self.scopes]:
            raise TokenScopeError(TOKEN_LACKS_SCOPE, f"the token lacks {' '.join(missing)}", tuple(scopes))


class VerificationKey:
    """A public key of the issuer, ready for use."""

    def __init__(self, key: JwtKey, algorithm: str = "") -> None:
        """``algorithm``: the only one that its owner uses it for.  Raises: ValueError."""
        from joserfc.jwk import ECKey, RSAKey

        fits = algorithms_for(key)
        if algorithm and algorithm not in fits:
            raise ValueError(f"a key cannot be one for {algorithm[:40]}")
        self.algorithms = (algorithm,) if algorithm else fits
        kind = ECKey if isinstance(key, EllipticCurvePublicKey) else RSAKey
        self._key = kind.import_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def has_signed(self, text: str, algorithm: str) -> bool:
        """Whether the signature of this token is one of the key, by an algorithm that is one of the key's."""
        from joserfc import jws
        from joserfc.errors import JoseError

        if algorithm not in self.algorithms:
            return False
        registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        try:
            jws.deserialize_compact(text, self._key, registry=registry)
        except (JoseError, ValueError):
            return False
        return True


Keys = Mapping[str, VerificationKey]
"""By ``kid``."""


def keys_of(document: Mapping[str, Any]) -> dict[str, VerificationKey]:
    """The keys of a JWK set (RFC 7517) that verify tokens; others, and those without a ``kid``, are passed over."""
    found: dict[str, VerificationKey] = {}
    listed = document.get("keys")
    for each in listed if isinstance(listed, list) else ():
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        name, algorithm = each.get("kid"), each.get("alg", "")
        if not isinstance(name, str) or not name or not isinstance(algorithm, str):
            continue
        try:
            found[name] = VerificationKey(key_of_jwk(each), algorithm)
        except ValueError:
            continue
    return found


def key_id_of(text: str) -> str:
    """Which key a token says that it was signed with (steps 1 and 2).  Raises: InvalidTokenError (VST6123)."""
    return _header(_parts(text)[0])[1]


def verified(
    text: str,
    keys: Keys,
    *,
    issuer: str,
    audience: Collection[str],
    now: datetime,
    leeway: timedelta = LEEWAY,
) -> AccessToken:
    """What ``text`` says, if it is an access token of the issuer for one of ``audience``, good at ``now``.

    Raises: InvalidTokenError (VST6123: no token, key or signature; VST6124: issuer or audience; VST6125: time).
    """
    head, body = _parts(text)  # 1
    algorithm, key_id = _header(head)  # 2
    key = keys.get(key_id)  # 3
    if key is None:
        raise _invalid(f"the issuer has no key {key_id[:80]!r}")
    if not key.has_signed(text, algorithm):  # 4
        raise _invalid(f"its signature is not one of the key {key_id[:80]!r}")
    claims = _object(body, "claims")
    if claims.get("iss") != issuer:  # 5
        raise _invalid(f"it is of another issuer than {issuer}", TOKEN_NOT_FOR_US)
    token = _token(text, claims)  # 6
    if not set(token.audience) & set(audience):  # 7
        raise _invalid(f"it was not made for {' or '.join(sorted(audience))}", TOKEN_NOT_FOR_US)
    _check_time(token, now, leeway)  # 8
    return token


def _check_time(token: AccessToken, now: datetime, leeway: timedelta) -> None:
    if token.expires_at <= now - leeway:
        raise _invalid(f"it ended at {token.expires_at.isoformat()}", TOKEN_NOT_NOW)
    begins = _instant(token.claims, "nbf") if "nbf" in token.claims else token.issued_at
    if max(token.issued_at, begins) > now + leeway:
        raise _invalid(f"it begins at {begins.isoformat()}", TOKEN_NOT_NOW)


def _token(text: str, claims: Mapping[str, Any]) -> AccessToken:
    scope, confirmed = claims.get("scope", ""), claims.get("cnf", {})
    if not isinstance(scope, str) or not isinstance(confirmed, dict):
        raise _invalid("its scope or cnf is not what it has to be")
    return AccessToken(
        text=text,
        issuer=_text(claims, "iss"),
        subject=_text(claims, "sub"),
        client_id=_text(claims, "client_id"),
        audience=_audience(claims),
        scopes=frozenset(scope.split()),
        issued_at=_instant(claims, "iat"),
        expires_at=_instant(claims, "exp"),
        token_id=_text(claims, "jti"),
        transaction=_text(claims, "txn") if "txn" in claims else "",
        actors=tuple(_actors(claims)),
        may_act=_text(_inner(claims, "may_act"), "sub") if "may_act" in claims else "",
        certificate=_text(confirmed, "x5t#S256") if "x5t#S256" in confirmed else "",
        claims=claims,
    )


def _actors(claims: Mapping[str, Any]) -> list[str]:
    """RFC 8693, section 4.1."""
    found: list[str] = []
    while "act" in claims:
        claims = _inner(claims, "act")
        found.append(_text(claims, "sub"))
    return found


def _parts(text: str) -> tuple[bytes, bytes]:
    if len(text) > LARGEST:
        raise _invalid(f"it is longer than {LARGEST} characters")
    parts = text.split(".")
    if len(parts) != 3:
        raise _invalid("it is no JWT in compact form")
    try:
        header, claims, _ = (decode_base64url(each) for each in parts)
    except ValueError as error:
        raise _invalid("its parts are not base64url") from error
    return header, claims


def _header(part: bytes) -> tuple[str, str]:
    header = _object(part, "header")
    if others := sorted(header.keys() - _HEADERS):
        raise _invalid(f"its header may not have {others[0][:40]!r}")
    algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _invalid("its type is not at+jwt")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise _invalid("its algorithm is not one that access tokens may have")
    if not isinstance(key_id, str) or not key_id:
        raise _invalid("it does not name its key (kid)")
    return algorithm, key_id


def _object(part: bytes, what: str) -> dict[str, Any]:
    try:
        found = parse_object(part)
    except ValueError as error:
        raise _invalid(f"its {what} is no JSON object, or says something twice") from error
    if _depth_of(found) > DEEPEST:
        raise _invalid(f"its {what} is nested too deeply")
    return found


def _depth_of(value: object) -> int:
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        level = [inner for each in level for inner in _inside(each)]
        depth += 1
    return depth


def _inside(value: object) -> Collection[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _inner(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = claims[name]
    if not isinstance(found, dict):
        raise _invalid(f"its {name} is no object")
    return found


def _text(claims: Mapping[str, Any], name: str) -> str:
    found = claims.get(name)
    if not isinstance(found, str) or not found:
        raise _invalid(f"its {name} is missing or no text")
    return found


def _audience(claims: Mapping[str, Any]) -> tuple[str, ...]:
    found = claims.get("aud")
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
        raise _invalid("its aud is missing or no text")
    return tuple(listed)


def _instant(claims: Mapping[str, Any], name: str) -> datetime:
    try:
        return instant_of(claims, name)
    except VestibuleError as error:
        raise _invalid(error.message.removeprefix("the token's ")) from error


def _invalid(why: str, code: ErrorCode = TOKEN_NOT_VALID) -> InvalidTokenError:
    return InvalidTokenError(code, f"the access token is refused: {why}")
