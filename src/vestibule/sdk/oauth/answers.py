"""What is asked of the token service, and what its answers say: no sockets.  RFC 6749, 7009, 7523, 7662, 8693."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeGuard
from urllib.parse import urlencode

from vestibule.pki.json_documents import parse_object
from vestibule.sdk.codes import TOKENS_UNREACHABLE
from vestibule.sdk.http import HttpAnswer, HttpRequest
from vestibule.sdk.oauth.errors import TokensError, refusal

TOKEN: Final = "/oauth2/token"  # noqa: S105 - a path
INTROSPECT: Final = "/oauth2/introspect"
REVOKE: Final = "/oauth2/revoke"
KEYS: Final = "/oauth2/jwks"
METADATA: Final = "/.well-known/oauth-authorization-server"

ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type
CLIENT_CREDENTIALS: Final = "client_credentials"
EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
JWT_SVID: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
PATIENCE: Final = 15.0
"""Seconds that an answer may take."""

_LONGEST: Final = 366 * 86400

Form = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that was got.  ``text`` is the token itself, a secret; its ``repr`` does not show it.

    ``scopes`` are those that it has, also where fewer were asked for.  ``ends`` is by this machine's clock.
    """

    text: str = field(repr=False)
    audience: tuple[str, ...]
    scopes: tuple[str, ...]
    taken: datetime
    ends: datetime
    kind: str = ACCESS_TOKEN

    @property
    def lasts(self) -> timedelta:
        """From when it was taken."""
        return self.ends - self.taken


# ------------------------------------------------------------------------------------------------ what is asked


def mint(audience: Sequence[str], scopes: Sequence[str]) -> Form:
    """A token of the client's own."""
    return (("grant_type", CLIENT_CREDENTIALS), *_target(audience, scopes))


def exchange(
    subject_token: str,
    audience: Sequence[str],
    scopes: Sequence[str],
    *,
    subject_type: str = ACCESS_TOKEN,
    actor_token: str = "",
) -> Form:
    """A token for whom the given one is of, with the client as actor."""
    actor = (("actor_token", actor_token), ("actor_token_type", ACCESS_TOKEN)) if actor_token else ()
    return (
        ("grant_type", EXCHANGE),
        ("subject_token", subject_token),
        ("subject_token_type", subject_type),
        *actor,
        *_target(audience, scopes),
    )


def admit(assertion: str, audience: Sequence[str], scopes: Sequence[str]) -> Form:
    """A token for the subject of an outside issuer's."""
    return (("grant_type", JWT_BEARER), ("assertion", assertion), *_target(audience, scopes))


def post(target: str, form: Form) -> HttpRequest:
    """A form, as all of OAuth's requests are."""
    return HttpRequest(
        method="POST",
        target=target,
        headers={"content-type": "application/x-www-form-urlencoded"},
        body=urlencode(form).encode("ascii"),
        patience=PATIENCE,
    )


def get(target: str) -> HttpRequest:
    """What is public."""
    return HttpRequest(method="GET", target=target, patience=PATIENCE)


def _target(audience: Sequence[str], scopes: Sequence[str]) -> Form:
    asked = tuple(("audience", each) for each in audience)
    return (*asked, ("scope", " ".join(scopes))) if scopes else asked


# ---------------------------------------------------------------------------------------------- what is answered


def document_of(answer: HttpAnswer) -> Mapping[str, Any]:
    """What is in an answer; nothing where that is all right.  Raises: TokensError and its kinds."""
    fine = 200 <= answer.status < 300
    if fine and not answer.body:
        return {}
    try:
        document = parse_object(answer.body)
    except ValueError:
        raise TokensError(
            TOKENS_UNREACHABLE,
            f"what answers with status {answer.status} is no token service",
            status=answer.status,
        ) from None
    if not fine:
        raise refusal(answer.status, document)
    return document


def token_of(
    document: Mapping[str, Any], audience: Sequence[str], scopes: Sequence[str], now: datetime
) -> Token:
    """What was given; RFC 6749 leaves ``scope`` out where it is what was asked for.  Raises: VST6121."""
    text, lasts = document.get("access_token"), document.get("expires_in")
    told = document.get("scope", " ".join(scopes))
    if not _is_token(text) or not isinstance(lasts, int) or not isinstance(told, str):
        raise TokensError(TOKENS_UNREACHABLE, "the token service's answer has no token, or no end of it")
    return Token(
        text=text,
        audience=tuple(audience),
        scopes=tuple(told.split()),
        taken=now,
        ends=now + timedelta(seconds=min(max(lasts, 0), _LONGEST)),
        kind=str(document.get("issued_token_type", ACCESS_TOKEN)),
    )


def _is_token(text: object) -> TypeGuard[str]:
    """RFC 6749, appendix A.12, without blanks: it goes into a header as it is."""
    return isinstance(text, str) and bool(text) and all("!" <= each <= "~" for each in text)
