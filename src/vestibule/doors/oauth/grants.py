"""The token endpoint's grants: from a form to a question for the token service, and from its answer to a document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from vestibule.doors.oauth.codes import GRANT_UNSUPPORTED, MALFORMED
from vestibule.doors.oauth.forms import Form
from vestibule.tokens.ports import Client, Minted
from vestibule.tokens.requests import Context
from vestibule.tokens.service import TokenService
from vestibule.tokens.types import TRANSACTION_TOKEN

CLIENT_CREDENTIALS: Final = "client_credentials"
TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANTS: Final[Mapping[str, str]] = {
    CLIENT_CREDENTIALS: "mint",
    TOKEN_EXCHANGE: "exchange",
    JWT_BEARER: "admit",
}
"""What each is called in records and metrics."""

Granting = Callable[[Client, Form], Awaitable[Minted]]


class Grants:
    """Asks the service."""

    def __init__(self, service: TokenService) -> None:
        self._service = service
        self._by_verb: Mapping[str, Granting] = {
            "mint": self._mint,
            "exchange": self._exchange,
            "admit": self._admit,
        }

    async def minted(self, verb: str, client: Client, form: Form) -> Minted:
        """The token, by one of ``GRANTS``.  Raises: VST6070, and what the service raises."""
        return await self._by_verb[verb](client, form)

    async def _mint(self, client: Client, form: Form) -> Minted:
        return await self._service.mint(
            client,
            audiences=form.targets("audience"),
            resources=form.targets("resource"),
            scopes=form.scopes,
        )

    async def _exchange(self, client: Client, form: Form) -> Minted:
        _check_types(form)
        context = Context(
            request_context=form.get("request_context"), request_details=form.get("request_details")
        )
        return await self._service.exchange(
            client,
            subject_token=form.needed("subject_token"),
            subject_type=form.needed("subject_token_type"),
            actor_token=form.get("actor_token") or None,
            actor_type=form.get("actor_token_type") or None,
            requested_type=form.get("requested_token_type") or None,
            audiences=form.targets("audience"),
            resources=form.targets("resource"),
            scopes=form.scopes,
            context=context if context.request_context or context.request_details else None,
        )

    async def _admit(self, client: Client, form: Form) -> Minted:
        return await self._service.admit(
            client,
            assertion=form.needed("assertion"),
            audiences=form.targets("audience"),
            resources=form.targets("resource"),
            scopes=form.scopes,
        )


def verb_of(form: Form) -> str:
    """What the form asks for.  Raises: VST6070, VST6073."""
    grant = form.needed("grant_type")
    if (verb := GRANTS.get(grant)) is None:
        raise GRANT_UNSUPPORTED.error("the grant_type is none that is offered")
    return verb


def answer_of(verb: str, minted: Minted) -> Mapping[str, Any]:
    """RFC 6749, section 5.1; of an exchange RFC 8693, section 2.2.1."""
    found: dict[str, Any] = {
        "access_token": minted.text,
        "token_type": "N_A" if minted.kind == TRANSACTION_TOKEN else "Bearer",
        "expires_in": int(minted.lasts.total_seconds()),
    }
    if minted.scopes:
        found["scope"] = " ".join(minted.scopes)
    if verb == "exchange":
        found["issued_token_type"] = minted.kind
    return found


def _check_types(form: Form) -> None:
    """RFC 8693, section 2.1."""
    if bool(form.get("actor_token")) is not bool(form.get("actor_token_type")):
        raise MALFORMED.error("actor_token and actor_token_type are sent together or not at all")
