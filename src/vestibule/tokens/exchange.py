"""Token exchange (RFC 8693): to act on behalf of whom a given token is of, elsewhere, with no more than it allows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.pki.json_documents import parse_object
from vestibule.spiffe import TrustDomain
from vestibule.tokens.chain import act_of, lengthened, named_actor, presenter_of
from vestibule.tokens.codes import (
    ACTOR_WRONG,
    DETAILS_MALFORMED,
    SCOPE_MALFORMED,
    SCOPE_WIDENED,
    TARGET_MALFORMED,
    TYPE_UNSUPPORTED,
    about,
)
from vestibule.tokens.jwts import audiences_of
from vestibule.tokens.minting import Mint, Order, Subject, prepared, prepared_transaction
from vestibule.tokens.permission import permitted
from vestibule.tokens.ports import Asked, Client, Minted, TokenAccess, Verb
from vestibule.tokens.reading import Reader
from vestibule.tokens.requests import Context, Given, Wanted
from vestibule.tokens.types import OURS, TRANSACTION_TOKEN

LONGEST_CONTEXT: Final = 4096


class Exchange:
    """Gives tokens for tokens of ours."""

    def __init__(
        self,
        issuer: str,
        reader: Reader,
        access: TokenAccess,
        mint: Mint,
        *,
        transactions_in: TrustDomain | None,
    ) -> None:
        """``transactions_in`` is the trust domain for which transaction tokens are given; None: for none."""
        self._issuer = issuer
        self._reader = reader
        self._access = access
        self._mint = mint
        self._transactions_in = transactions_in

    async def exchange(self, client: Client, given: Given, wanted: Wanted) -> Minted:
        """Another token for the given one.

        1. Types are those that are taken and given here.
        2. The given token is ours and holds (``Reader.read``); an actor token is of the client itself.
        3. Scopes only get fewer.
        4. The client may give it in exchange, to hand these scopes on: the token names it (``may_act``), or a rule for
           each of its audiences does; where it names somebody else, no rule helps.
        5. The client may receive a token for each of the audiences that it asks for, for this subject.
        6. The client becomes the newest actor: it was none before, and the chain is not too long.
        7. The new token ends no later than the given one.

        Raises: VST6000 to VST6007, VST6010, VST6011, VST6015 to VST6021, VST6023, VST6030.
        """
        self._check_types(given)  # 1
        claims = await self._reader.read(given.subject_token)  # 2
        try:
            await self._check_actor(client, given)
            return await self._exchanged(client, given, wanted, claims)
        except VestibuleError as error:
            raise about(error, claims) from None

    async def _exchanged(
        self, client: Client, given: Given, wanted: Wanted, claims: Mapping[str, Any]
    ) -> Minted:
        _check_narrow(wanted.scopes, claims)  # 3
        asked = Asked(
            client=client.spiffe_id, verb=Verb.EXCHANGE, audience="", scopes=wanted.scopes, subject=claims
        )
        if not named_actor(claims, client.spiffe_id):  # 4
            permitted(self._access, asked, audiences_of(claims))
        permission = permitted(self._access, replace(asked, verb=Verb.RECEIVE), wanted.targets)  # 5
        actors = lengthened(claims, client.spiffe_id, permission.depth)  # 6
        subject = Subject(
            name=claims["sub"],
            issuer=claims.get("sub_iss", ""),
            act=act_of(actors),
            actors=actors,
            transaction=claims["txn"],
            ends=datetime.fromtimestamp(claims["exp"], UTC),  # 7
        )
        order = Order(
            client=client,
            subject=subject,
            targets=wanted.targets,
            scopes=wanted.scopes,
            permission=permission,
        )
        if given.requested_type == TRANSACTION_TOKEN:
            details = self._details(wanted, given.context)
            return await self._mint.minted(prepared_transaction(self._issuer, order, details))
        return await self._mint.minted(prepared(self._issuer, order))

    def _check_types(self, given: Given) -> None:
        if given.subject_type not in OURS:
            raise TYPE_UNSUPPORTED.error("tokens of this subject_token_type are not taken")
        if (given.actor_token is None) != (given.actor_type is None):
            raise TYPE_UNSUPPORTED.error("actor_token and actor_token_type come together, or not at all")
        if given.actor_type is not None and given.actor_type not in OURS:
            raise TYPE_UNSUPPORTED.error("tokens of this actor_token_type are not taken")
        wanted = given.requested_type
        if wanted not in OURS and not (wanted == TRANSACTION_TOKEN and self._transactions_in):
            raise TYPE_UNSUPPORTED.error("tokens of this requested_token_type are not given")

    async def _check_actor(self, client: Client, given: Given) -> None:
        if given.actor_token is None:
            return
        claims = await self._reader.read(given.actor_token)
        name = str(client.spiffe_id)
        if claims["sub"] != name or presenter_of(claims) != name:
            raise ACTOR_WRONG.error(f"the actor token is not one of {name} itself")

    def _details(self, wanted: Wanted, context: Context | None) -> dict[str, Any]:
        """What a transaction token says of its transaction.  Raises: VST6013, VST6014, VST6023."""
        if wanted.targets != (str(self._transactions_in),):
            raise TARGET_MALFORMED.error(
                f"transaction tokens are for {self._transactions_in}, and nothing else"
            )
        if not wanted.scopes:
            raise SCOPE_MALFORMED.error("a transaction token needs a scope: what the transaction is for")
        if context is None:
            return {}
        said = {"rctx": context.request_context, "tctx": context.request_details}
        return {name: _object(text) for name, text in said.items() if text}


def _check_narrow(scopes: tuple[str, ...], claims: Mapping[str, Any]) -> None:
    has = str(claims.get("scope", "")).split(" ")
    if wider := next((each for each in scopes if each not in has), None):
        raise SCOPE_WIDENED.error(f"the given token does not have the scope {wider!r}")


def _object(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_CONTEXT:
        raise DETAILS_MALFORMED.error(
            f"the transaction's context is longer than {LONGEST_CONTEXT} characters"
        )
    try:
        said = parse_object(text.encode())
        json.dumps(said, allow_nan=False, ensure_ascii=False).encode()  # infinities, half characters
    except ValueError:
        raise DETAILS_MALFORMED.error("the transaction's context is no JSON object") from None
    return said
