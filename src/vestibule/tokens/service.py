"""The token service, as doors see it: they translate, and ask here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vestibule.clock import Clock
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import Changes
from vestibule.store.barrier import Barrier
from vestibule.tokens.keyring import KeyTimes
from vestibule.tokens.keys import KeyInfo, Record, SigningKeys
from vestibule.tokens.minting import Mint, Order, Subject
from vestibule.tokens.permission import permitted
from vestibule.tokens.ports import (
    Asked,
    Client,
    Minted,
    OutsideIssuers,
    RevokedBy,
    RevokedSource,
    RevokedTokens,
    TokenAccess,
    TokenKeySource,
    Verb,
)
from vestibule.tokens.targets import scopes_of, targets_of

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type
JWT = "urn:ietf:params:oauth:token-type:jwt"
TRANSACTION_TOKEN = "urn:ietf:params:oauth:token-type:txn_token"  # noqa: S105 - a type


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a transaction token is about: JSON objects, as texts (draft-ietf-oauth-transaction-tokens)."""

    request_context: str = ""
    request_details: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUse:
    """What a client has had from this server since it started."""

    client: SpiffeId
    tokens: int
    refusals: int
    last: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSettings:
    """How the service works.  ``issuer`` is its URL, as tokens name it."""

    issuer: str
    trust_domain: TrustDomain
    times: KeyTimes = field(default_factory=KeyTimes)
    transaction_tokens: bool = False


class TokenService:
    """Everything that is asked of tokens.  ``run`` must run.

    What is refused is raised: a ``codes.TokenRefusedError`` (which has the rule, for the record) or another
    VestibuleError; ``codes.word_of`` gives the ``error`` of the response for either.
    """

    def __init__(
        self,
        settings: TokenSettings,
        *,
        barrier: Barrier,
        access: TokenAccess,
        outside: OutsideIssuers,
        clock: Clock,
        changes: Changes,
        record: Record,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """``record`` is asked before signing keys change, ``leads`` whether this server is the one to change them."""
        self.settings = settings
        self._access = access
        self._keys = SigningKeys(barrier, clock, times=settings.times, record=record)
        self._mint = Mint(settings.issuer, self._keys, clock)
        self._leads = leads

    # -------------------------------------------------------------------------------------------- grants

    async def mint(
        self,
        client: Client,
        *,
        audiences: Sequence[str] = (),
        resources: Sequence[str] = (),
        scopes: Sequence[str] = (),
    ) -> Minted:
        """A token of the client's own: client_credentials (RFC 6749, section 4.4; RFC 8707).

        Raises: VST6010 to VST6014, VST6021, VST6030.
        """
        targets, wanted = targets_of(audiences, resources), scopes_of(scopes)
        asked = Asked(client=client.spiffe_id, verb=Verb.MINT, audience="", scopes=wanted)
        permission = permitted(self._access, asked, targets)
        subject = Subject(name=str(client.spiffe_id))
        return self._mint.minted(
            Order(client=client, subject=subject, targets=targets, scopes=wanted, permission=permission)
        )

    async def exchange(
        self,
        client: Client,
        *,
        subject_token: str,
        subject_type: str,
        actor_token: str | None = None,
        actor_type: str | None = None,
        requested_type: str | None = None,
        audiences: Sequence[str] = (),
        resources: Sequence[str] = (),
        scopes: Sequence[str] = (),
        context: Context | None = None,
    ) -> Minted:
        """A token to act on behalf of a given token's subject (RFC 8693).

        Raises: VST6000 to VST6007 (the given tokens), VST6010 to VST6023, VST6030.
        """
        raise NotImplementedError

    async def admit(
        self,
        client: Client,
        *,
        assertion: str,
        audiences: Sequence[str] = (),
        resources: Sequence[str] = (),
        scopes: Sequence[str] = (),
    ) -> Minted:
        """A token to act on behalf of the subject of an outside issuer's token (RFC 7523, section 2.1).

        Raises: VST6000 to VST6009 (with the word ``invalid_grant``), VST6010 to VST6014, VST6021, VST6030, errors of
        the barrier where the assertion counts once.
        """
        raise NotImplementedError

    async def once(self, issuer: str, assertion: str, claims: Mapping[str, Any]) -> None:
        """Take note of a client's assertion (RFC 7523, section 3) that has a ``jti``: it counts once.

        For the door, which has verified it; one without ``jti`` (most JWT-SVIDs) may be shown again while it lasts.
        Raises: VST6008, errors of the barrier.
        """
        raise NotImplementedError

    # --------------------------------------------------------------------------------- what becomes of tokens

    async def inspect(self, client: Client, token: str) -> Mapping[str, Any]:
        """What a token says (RFC 7662): ``{"active": False}`` if it does not hold or is none of the client's business.

        Raises: VST6030 where nothing is known of any key.
        """
        raise NotImplementedError

    async def revoke(self, client: Client, token: str) -> RevokedTokens | None:
        """A token that the client was given counts no longer (RFC 7009); None where it did not count before.

        Raises: VST6022, VST6033, errors of the barrier.
        """
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------- operators

    async def revoke_by(self, by: RevokedBy, value: str, reason: str = "") -> RevokedTokens:
        """All tokens until now that have this in common count no longer.  A key is revoked by ``revoke_key``.

        Raises: VST6032, VST6033, errors of the barrier.
        """
        raise NotImplementedError

    def keys(self) -> tuple[KeyInfo, ...]:
        """The signing keys."""
        return self._keys.listed()

    async def rotate(self) -> tuple[KeyInfo, ...]:
        """The next key signs as soon as verifiers know it.  Raises: VST6034, errors of the barrier."""
        await self._keys.rotate()
        return self._keys.listed()

    async def revoke_key(self, key_id: str, reason: str = "") -> RevokedTokens:
        """A key is no longer trusted, nor anything that it signed; another one signs from now on.

        Raises: VST6031, VST6034, errors of the barrier.
        """
        raise NotImplementedError

    def clients(self) -> tuple[ClientUse, ...]:
        """Who has had tokens from this server since it started."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- for proxies, for all

    @property
    def key_source(self) -> TokenKeySource:
        """The public keys, as they change."""
        return self._keys

    @property
    def revoked(self) -> RevokedSource:
        """The list of what is revoked, as it changes."""
        raise NotImplementedError

    async def start(self) -> None:
        """Look once, and make keys if this server leads: if it can be done now.  ``run`` does it later otherwise."""
        await self._keys.plan()

    async def run(self) -> None:
        """Follow other servers, change keys in time, forget what is over; until cancelled."""
        raise NotImplementedError
