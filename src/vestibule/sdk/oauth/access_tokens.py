"""What an access token says (RFC 9068), once it was verified: no sockets, the keys and the time are given.

The steps of verifying:

1. It has the form, neither too long nor too deep, no name twice; nothing in its header says where a key is, or has to
   be understood; its type is ``at+jwt``: no ID token, no JWT-SVID, no assertion passes for an access token.
2. The key is the one of the issuer's that is called ``kid``; its own kind says which algorithms it is for.
3. The signature is right.
4. The issuer is the one that is believed.
5. Whom it is of, and who acts, is said in the way that it has to be.
6. The audience is one of ours.
7. It has not ended, and is not from the future; clocks may be half a minute apart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.pki.jwk import ALGORITHMS
from vestibule.pki.jwt import instant_of
from vestibule.sdk.codes import TOKEN_LACKS_SCOPE, TOKEN_NOT_FOR_US
from vestibule.sdk.oauth.errors import InvalidTokenError, TokenScopeError
from vestibule.tokens.codes import CLAIMS_UNFIT, HEADER_REFUSED, KEY_UNKNOWN, SIGNATURE_WRONG
from vestibule.tokens.jwts import Jwt, audiences_of, check_times, taken_apart, text_of
from vestibule.tokens.signatures import PublicKey, fits, is_signature, public_key

_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_LONGEST: Final = 2048


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
        """Raises: TokenScopeError (VST6124), which the middleware answers with 403."""
        if missing := [each for each in scopes if each not in self.scopes]:
            raise TokenScopeError(TOKEN_LACKS_SCOPE, f"the token lacks {' '.join(missing)}", tuple(scopes))


class VerificationKey:
    """A public key of the issuer."""

    def __init__(self, key: PublicKey, algorithm: str = "") -> None:
        """``algorithm``: the only one that its owner uses it for.  Raises: ValueError."""
        if algorithm and not fits(key, algorithm):
            raise ValueError(f"a key cannot be one for {algorithm[:40]}")
        self._key = key
        self._algorithm = algorithm

    def has_signed(self, jwt: Jwt) -> bool:
        """Whether the signature is one of the key, by an algorithm that is one of the key's."""
        if self._algorithm not in ("", jwt.algorithm) or not fits(self._key, jwt.algorithm):
            return False
        return is_signature(self._key, jwt.algorithm, jwt.signature, jwt.signed)


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
            found[name] = VerificationKey(public_key(each), algorithm)
        except ValueError:
            continue
    return found


def key_id_of(text: str) -> str:
    """Which key a token says that it was signed with (step 1).  Raises: InvalidTokenError (VST6000, VST6001)."""
    try:
        return _named_key(_apart(text))
    except VestibuleError as error:
        raise _invalid(error.code, error.message) from error


def verified(text: str, keys: Keys, *, issuer: str, audience: Collection[str], now: datetime) -> AccessToken:
    """What ``text`` says, if it is an access token of the issuer for one of ``audience``, good at ``now``.

    Raises: InvalidTokenError (VST6000 and VST6001: form; VST6002 and VST6003: key and signature; VST6123: issuer or
    audience; VST6005: claims; VST6006: time).
    """
    try:
        return _verified(text, keys, issuer, audience, now)
    except InvalidTokenError:
        raise
    except VestibuleError as error:
        raise _invalid(error.code, error.message) from error


def _verified(text: str, keys: Keys, issuer: str, audience: Collection[str], now: datetime) -> AccessToken:
    jwt = _apart(text)  # 1
    key_id = _named_key(jwt)
    key = keys.get(key_id)  # 2
    if key is None:
        raise _invalid(KEY_UNKNOWN, f"the issuer has no key {key_id[:80]!r}")
    if not key.has_signed(jwt):  # 3
        raise _invalid(SIGNATURE_WRONG, f"its signature is not one of the key {key_id[:80]!r}")
    if jwt.claims.get("iss") != issuer:  # 4
        raise _invalid(TOKEN_NOT_FOR_US, f"it is of another issuer than {issuer}")
    token = _token(text, jwt.claims)  # 5
    if not set(token.audience) & set(audience):  # 6
        raise _invalid(TOKEN_NOT_FOR_US, f"it was not made for {' or '.join(sorted(audience))}")
    check_times(jwt.claims, now)  # 7
    return token


def _apart(text: str) -> Jwt:
    return taken_apart(text, algorithms=ALGORITHMS, types=_TYPES)


def _named_key(jwt: Jwt) -> str:
    if not jwt.key_id:
        raise HEADER_REFUSED.error("the token does not name its key (kid)")
    return jwt.key_id


def _token(text: str, claims: Mapping[str, Any]) -> AccessToken:
    scope, confirmed = claims.get("scope", ""), claims.get("cnf", {})
    if not isinstance(scope, str) or not isinstance(confirmed, dict):
        raise CLAIMS_UNFIT.error("the token's scope or cnf is not what it has to be")
    return AccessToken(
        text=text,
        issuer=_said(claims, "iss"),
        subject=_said(claims, "sub"),
        client_id=_said(claims, "client_id"),
        audience=audiences_of(claims),
        scopes=frozenset(scope.split()),
        issued_at=instant_of(claims, "iat", CLAIMS_UNFIT),
        expires_at=instant_of(claims, "exp", CLAIMS_UNFIT),
        token_id=_said(claims, "jti"),
        transaction=_said(claims, "txn") if "txn" in claims else "",
        actors=tuple(_actors(claims)),
        may_act=_said(_inner(claims, "may_act"), "sub") if "may_act" in claims else "",
        certificate=_said(confirmed, "x5t#S256") if "x5t#S256" in confirmed else "",
        claims=claims,
    )


def _actors(claims: Mapping[str, Any]) -> list[str]:
    """RFC 8693, section 4.1."""
    found: list[str] = []
    while "act" in claims:
        claims = _inner(claims, "act")
        found.append(_said(claims, "sub"))
    return found


def _said(claims: Mapping[str, Any], name: str) -> str:
    return text_of(claims, name, _LONGEST)


def _inner(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = claims[name]
    if not isinstance(found, dict):
        raise CLAIMS_UNFIT.error(f"the token's {name} is no object")
    return found


def _invalid(code: ErrorCode, why: str) -> InvalidTokenError:
    return InvalidTokenError(code, f"the access token is refused: {why}")
