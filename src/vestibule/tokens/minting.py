"""What a token says (RFC 9068), and the signature under it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from os import urandom
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.pki.jwk import encode_base64url
from vestibule.pki.token_texts import ACCESS_TOKEN, first_claims
from vestibule.tokens.codes import NOT_BOUND, NOT_VALID_NOW
from vestibule.tokens.keys import SigningKeys
from vestibule.tokens.permission import Permission
from vestibule.tokens.ports import Client, Minted, RevokedBy
from vestibule.tokens.revoked import RevokedList
from vestibule.tokens.signing import TRANSACTION_TOKEN as TRANSACTION_TYPE
from vestibule.tokens.signing import base64url
from vestibule.tokens.types import ACCESS_TOKEN as ACCESS_TOKEN_KIND
from vestibule.tokens.types import TRANSACTION_TOKEN as TRANSACTION_TOKEN_KIND

_ID_BYTES: Final = 18
"""Of a token's ID: nobody guesses one, and none comes twice."""

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All of a token but its ID and its times: what is the same in each that a client gets of a kind.

    ``said`` is the claims' JSON without its end; ``name`` the claim that holds the token's own ID.
    """

    order: Order
    said: str = field(repr=False)
    traits: tuple[tuple[RevokedBy, str], ...]
    lasts: int
    ends: int | None
    name: str = "jti"
    typ: str = ACCESS_TOKEN
    kind: str = ACCESS_TOKEN_KIND


def prepared(issuer: str, order: Order) -> Prepared:
    """An access token.  Raises: VST6021."""
    subject, targets, client = order.subject, order.targets, str(order.client.spiffe_id)
    audience = targets[0] if len(targets) == 1 else list(targets)
    # By what stands first proxies know a token; ``client_id`` is the outermost actor, too, where there is one.
    claims = first_claims(issuer, audience, order.scopes, client)
    claims["sub"] = subject.name
    if subject.act is not None:
        claims["act"] = subject.act
    if subject.issuer:
        claims["sub_iss"] = subject.issuer
    if order.permission.may_act is not None:
        claims["may_act"] = {"sub": str(order.permission.may_act)}
    if order.permission.certificate:
        claims |= _bound(order.client)
    if subject.transaction:
        claims["txn"] = subject.transaction
    return _prepared(order, claims)


def prepared_transaction(issuer: str, order: Order, details: Mapping[str, Any]) -> Prepared:
    """A transaction token (draft-ietf-oauth-transaction-tokens), which is no access token."""
    claims = {
        "iss": issuer,
        "aud": order.targets[0],
        "sub": order.subject.name,
        "scope": " ".join(order.scopes),
        "req_wl": str(order.client.spiffe_id),
        **details,
    }
    return _prepared(order, claims, name="txn", typ=TRANSACTION_TYPE, kind=TRANSACTION_TOKEN_KIND)


def _prepared(order: Order, claims: Mapping[str, Any], **more: str) -> Prepared:
    ends = order.subject.ends
    return Prepared(
        order=order,
        said=_encode(claims)[:-1],
        traits=(
            (RevokedBy.CLIENT, str(order.client.spiffe_id)),
            (RevokedBy.SUBJECT, order.subject.name),
        ),
        lasts=int(order.permission.lasts.total_seconds()),
        ends=None if ends is None else int(ends.timestamp()),
        **more,
    )


def _bound(client: Client) -> dict[str, Any]:
    """RFC 8705, section 3.1; and the same in hex, as Envoy knows its peer's certificate."""
    if client.thumbprint is None:
        raise NOT_BOUND.error(
            f"tokens for this audience are bound to a certificate, and {client.spiffe_id} has none"
        )
    digest = encode_base64url(client.thumbprint)
    return {"cnf": {"x5t#S256": digest}, "cnf_x5t_hex": client.thumbprint.hex()}


class Mint:
    """Makes tokens of what is prepared."""

    def __init__(self, keys: SigningKeys, revoked: RevokedList, clock: Clock) -> None:
        self._keys = keys
        self._revoked = revoked
        self._clock = clock

    async def minted(self, token: Prepared) -> Minted:
        """The token.  Raises: VST6006 (nothing is left of the given one's life), VST6030."""
        now = self._clock.now()
        if self._revoked.now:
            now = await self._unrevoked(token, now)
        issued = int(now.timestamp())
        ends = issued + token.lasts
        if token.ends is not None:
            ends = _not_after(token.ends, ends, issued)
        token_id = base64url(urandom(_ID_BYTES)).decode()
        transaction = token.order.subject.transaction
        said = f'{token.said},"exp":{ends},"iat":{issued},"{token.name}":"{token_id}"'
        # A token that was not got for another is the first of its transaction.
        said += "}" if transaction or token.name == "txn" else f',"txn":"{token_id}"}}'
        text = self._keys.signer(now).signed(said, token.typ)
        return _told(token, text, token_id, issued, ends)

    async def _unrevoked(self, token: Prepared, now: datetime) -> datetime:
        """Not in the second in which what the token would say was revoked: it would be revoked, too."""
        begins = self._revoked.begins(now, *token.traits)
        if begins > now:
            await self._clock.sleep_until(begins)
            return max(begins, self._clock.now())
        return now


def _not_after(latest: int, ends: int, issued: int) -> int:
    """Never after the token that was given ends, and with some life left."""
    if latest <= issued:
        raise NOT_VALID_NOW.error("the given token has ended")
    return min(ends, latest)


def _told(token: Prepared, text: str, token_id: str, issued: int, ends: int) -> Minted:
    order, permission = token.order, token.order.permission
    return Minted(
        text=text,
        token_id=token_id,
        audience=order.targets,
        scopes=order.scopes,
        subject=order.subject.name,
        expires=datetime.fromtimestamp(ends, UTC),
        lasts=timedelta(seconds=ends - issued),
        kind=token.kind,
        rule=permission.rule,
        commit=permission.commit,
        shadow=permission.shadow,
        transaction=order.subject.transaction or token_id,
        actors=order.subject.actors,
    )
