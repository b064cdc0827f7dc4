"""A JWT of strangers, taken apart; nothing that it says is believed here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from vestibule.pki.json_documents import parse_object
from vestibule.pki.jwk import decode_base64url
from vestibule.pki.jwt import instant_of
from vestibule.tokens.codes import CLAIMS_UNFIT, HEADER_REFUSED, NOT_VALID_NOW, UNREADABLE_TOKEN

LONGEST: Final = 16 * 1024
DEEPEST: Final = 16
MOST_VALUES: Final = 1000
SKEW: Final = timedelta(seconds=30)
"""How far clocks may differ: of servers, and of outside issuers."""

_REFUSED: Final = ("crit", "jku", "jwk", "x5u", "x5c", "zip", "b64")
"""What would have us fetch a key, believe one, or read the token in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jwt:
    """The parts of a token.  ``signed`` is what its signature is of."""

    algorithm: str
    key_id: str | None
    claims: Mapping[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)


def taken_apart(text: str, *, algorithms: Collection[str], types: Collection[str | None]) -> Jwt:
    """The parts of a JWS in compact form.

    1. It is ASCII, neither too long nor too deep, of three parts in base64url, two of which are JSON objects in which
       no name stands twice.
    2. Its header asks for nothing: no key, no URL of one, nothing critical.
    3. Its algorithm and its type (in lower case) are on our lists; ``none`` and secrets never are.

    Raises: VST6000 (step 1), VST6001 (2, 3).
    """
    header, claims, signature, signed = _parts(text)  # 1
    if asked := next((each for each in _REFUSED if each in header), None):  # 2
        raise HEADER_REFUSED.error(f"the token's header may not have {asked!r}")
    algorithm, key_id, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(algorithm, str) or algorithm not in algorithms:  # 3
        raise HEADER_REFUSED.error("the token's algorithm (alg) is none that is taken here")
    if not (typ is None or isinstance(typ, str)) or (typ and typ.lower()) not in types:
        raise HEADER_REFUSED.error("the token is of another type (typ) than those that are taken here")
    if not (key_id is None or isinstance(key_id, str)):
        raise HEADER_REFUSED.error("the token's key ID (kid) is no text")
    return Jwt(algorithm=algorithm, key_id=key_id, claims=claims, signed=signed, signature=signature)


def _parts(text: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    if len(text) > LONGEST:
        raise UNREADABLE_TOKEN.error(f"the token is longer than {LONGEST} characters")
    parts = text.split(".")
    if len(parts) != 3 or not text.isascii():
        raise UNREADABLE_TOKEN.error("the token is no JWS in compact form")
    try:
        header, claims = (parse_object(decode_base64url(part)) for part in parts[:2])
        signature = decode_base64url(parts[2])
    except ValueError:
        raise UNREADABLE_TOKEN.error("the token's parts are not base64url of JSON objects") from None
    _bounded(header)
    _bounded(claims)
    return header, claims, signature, f"{parts[0]}.{parts[1]}".encode()


def _bounded(said: Mapping[str, Any]) -> None:
    """Not so deep, and not so much, that looking at it is work."""
    level: list[Any] = [said]
    count = 0
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inside(each)]
        count += len(level)
        if not all(each.isascii() or _is_text(each) for each in level if isinstance(each, str)):
            raise UNREADABLE_TOKEN.error("the token has half characters (lone surrogates)")
        if not level:
            return
        if count > MOST_VALUES:
            raise UNREADABLE_TOKEN.error(f"the token says more than {MOST_VALUES} things")
    raise UNREADABLE_TOKEN.error(f"the token is nested more than {DEEPEST} levels deep")


def _inside(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return value if isinstance(value, list) else ()


def _is_text(value: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in value)


def check_times(claims: Mapping[str, Any], now: datetime, longest: timedelta | None = None) -> None:
    """Whether a token holds now: ``exp`` must be there, ``nbf`` and ``iat`` may; clocks may differ by 30 seconds.

    With ``longest``, ``iat`` must be there, too, and the whole life no longer.  Raises: VST6005, VST6006.
    """
    expires = instant_of(claims, "exp", CLAIMS_UNFIT)
    if now >= expires + SKEW:
        raise NOT_VALID_NOW.error("the token has ended")
    for name in ("nbf", "iat"):
        if name in claims and instant_of(claims, name, CLAIMS_UNFIT) > now + SKEW:
            raise NOT_VALID_NOW.error(f"the token is from the future ({name})")
    if longest is None:
        return
    if expires - instant_of(claims, "iat", CLAIMS_UNFIT) > longest:
        raise CLAIMS_UNFIT.error("the token lasts longer than its issuer's may")


def text_of(claims: Mapping[str, Any], name: str, longest: int = 512) -> str:
    """A claim that must be there: printable text.  Raises: VST6005."""
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise CLAIMS_UNFIT.error(f"the token's {name} is missing, too long, or no printable text")
    return value


def audiences_of(claims: Mapping[str, Any]) -> tuple[str, ...]:
    """``aud``, as a list.  Raises: VST6005."""
    audience = claims.get("aud")
    listed = [audience] if isinstance(audience, str) else audience
    if (
        not isinstance(listed, list)
        or not listed
        or not all(isinstance(each, str) and each for each in listed)
    ):
        raise CLAIMS_UNFIT.error("the token has no audience (aud)")
    return tuple(listed)
