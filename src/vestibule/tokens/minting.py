"""What a token says (RFC 9068), and the signature under it."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from os import urandom
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.tokens.codes import NOT_BOUND, NOT_VALID_NOW
from vestibule.tokens.keys import SigningKeys
from vestibule.tokens.permission import Permission
from vestibule.tokens.ports import Client, Minted, RevokedBy
from vestibule.tokens.revoked import RevokedList
from vestibule.tokens.signing import TRANSACTION_TOKEN as TRANSACTION_TYPE
from vestibule.tokens.types import TRANSACTION_TOKEN

_ID_BYTES: Final = 18
"""Of a token's ID: nobody guesses one, and none comes twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whom a token is for: of a client itself, or of somebody else on whose behalf it acts.

    ``issuer`` is the outside issuer who vouches for the subject, if one does; ``act`` the claim (RFC 8693, section
    4.1), ``actors`` the same as a list, the newest first; ``ends`` is when the token that was given ends.
    """

    name: str
    issuer: str = ""
    act: Mapping[str, Any] | None = None
    actors: tuple[str, ...] = ()
    transaction: str = ""
    ends: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A token that may be made."""

    client: Client
    subject: Subject
    targets: tuple[str, ...]
    scopes: tuple[str, ...]
    permission: Permission


class Mint:
    """Makes access tokens."""

    def __init__(self, issuer: str, keys: SigningKeys, revoked: RevokedList, clock: Clock) -> None:
        self._issuer = issuer
        self._keys = keys
        self._revoked = revoked
        self._clock = clock

    async def minted(self, order: Order) -> Minted:
        """An access token.  Raises: VST6006 (nothing is left of the given one's life), VST6021, VST6030."""
        now = await self._moment(order)
        issued, ends = _life(order, now)
        token_id = urlsafe_b64encode(urandom(_ID_BYTES)).decode()
        claims = self._claims(order, token_id, issued, ends)
        text = self._keys.signer(now).signed(claims)
        return _told(order, text, token_id, claims)

    async def transaction(self, order: Order, details: Mapping[str, Any]) -> Minted:
        """A transaction token (draft-ietf-oauth-transaction-tokens), which is no access token.  Raises: as above."""
        now = await self._moment(order)
        issued, ends = _life(order, now)
        token_id = urlsafe_b64encode(urandom(_ID_BYTES)).decode()
        claims = {
            "iss": self._issuer,
            "iat": issued,
            "aud": order.targets[0],
            "exp": ends,
            "txn": token_id,
            "sub": order.subject.name,
            "scope": " ".join(order.scopes),
            "req_wl": str(order.client.spiffe_id),
            **details,
        }
        text = self._keys.signer(now).signed(claims, TRANSACTION_TYPE)
        return replace(_told(order, text, token_id, claims), kind=TRANSACTION_TOKEN)

    async def _moment(self, order: Order) -> datetime:
        """Now; but not in the second in which what the token would say was revoked: it would be revoked, too."""
        now = self._clock.now()
        if self._revoked.now:
            client, subject = str(order.client.spiffe_id), order.subject.name
            begins = self._revoked.begins(now, (RevokedBy.CLIENT, client), (RevokedBy.SUBJECT, subject))
            if begins > now:
                await self._clock.sleep_until(begins)
                return max(begins, self._clock.now())
        return now

    def _claims(self, order: Order, token_id: str, issued: int, ends: int) -> dict[str, Any]:
        subject, targets = order.subject, order.targets
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "exp": ends,
            "aud": targets[0] if len(targets) == 1 else list(targets),
            "sub": subject.name,
            "client_id": str(order.client.spiffe_id),
            "iat": issued,
            "jti": token_id,
            "txn": subject.transaction or token_id,
        }
        if order.scopes:
            claims["scope"] = " ".join(order.scopes)
        if subject.act is not None:
            claims["act"] = subject.act
        if subject.issuer:
            claims["sub_iss"] = subject.issuer
        if order.permission.may_act is not None:
            claims["may_act"] = {"sub": str(order.permission.may_act)}
        if order.permission.certificate:
            claims |= _bound(order.client)
        return claims


def _life(order: Order, now: datetime) -> tuple[int, int]:
    """When the token is issued and when it ends, in whole seconds: never after the one that was given for it."""
    issued = int(now.timestamp())
    ends = issued + int(order.permission.lasts.total_seconds())
    if order.subject.ends is not None:
        ends = min(ends, int(order.subject.ends.timestamp()))
    if ends <= issued:
        raise NOT_VALID_NOW.error("the given token has ended")
    return issued, ends


def _bound(client: Client) -> dict[str, Any]:
    """RFC 8705, section 3.1; and the same in hex, as Envoy knows its peer's certificate."""
    if client.thumbprint is None:
        raise NOT_BOUND.error(
            f"tokens for this audience are bound to a certificate, and {client.spiffe_id} has none"
        )
    digest = urlsafe_b64encode(client.thumbprint).rstrip(b"=").decode()
    return {"cnf": {"x5t#S256": digest}, "cnf_x5t_hex": client.thumbprint.hex()}


def _told(order: Order, text: str, token_id: str, claims: Mapping[str, Any]) -> Minted:
    expires = datetime.fromtimestamp(claims["exp"], UTC)
    return Minted(
        text=text,
        token_id=token_id,
        audience=order.targets,
        scopes=order.scopes,
        subject=order.subject.name,
        expires=expires,
        lasts=expires - datetime.fromtimestamp(claims["iat"], UTC),
        rule=order.permission.rule,
        commit=order.permission.commit,
        shadow=order.permission.shadow,
        transaction=order.subject.transaction or claims["txn"],
        actors=order.subject.actors,
    )
