"""The token service, as doors see it: they translate, and ask here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.pki.jwt import instant_of
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import Changes
from vestibule.store.barrier import Barrier
from vestibule.store.sweeping import sweeping
from vestibule.tokens.admitting import Admission
from vestibule.tokens.clients import ClientUse, ClientUses
from vestibule.tokens.codes import ANOTHERS_TOKEN, CLAIMS_UNFIT, REVOCATION_MALFORMED
from vestibule.tokens.exchange import Exchange
from vestibule.tokens.introspection import INACTIVE, told
from vestibule.tokens.jwts import audiences_of, text_of
from vestibule.tokens.keyring import KeyTimes
from vestibule.tokens.keys import KeyInfo, Record, SigningKeys
from vestibule.tokens.minting import Mint
from vestibule.tokens.own import OwnTokens
from vestibule.tokens.ports import (
    Client,
    Minted,
    OutsideIssuers,
    RevokedBy,
    RevokedSource,
    RevokedTokens,
    TokenAccess,
    TokenKeySource,
)
from vestibule.tokens.reading import Reader
from vestibule.tokens.replays import Replays
from vestibule.tokens.requests import Context, Given, Wanted
from vestibule.tokens.revoked import RevokedList
from vestibule.tokens.targets import scopes_of, targets_of
from vestibule.tokens.types import ACCESS_TOKEN

TEND_EVERY: Final = timedelta(seconds=2)
"""How often keys are looked after; and, without word from the store, how late others are followed."""

PAUSE: Final = 0.05
"""Seconds between two looks: the store tells of each secret that is written, too."""

_NOT_OURS: Final = (Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.INTERNAL)
_log = logging.getLogger(__name__)


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
        self._barrier = barrier
        self._access = access
        self._clock = clock
        self._changes = changes
        self._leads = leads
        self._keys = SigningKeys(barrier, clock, times=settings.times, record=record)
        self._revoked = RevokedList(barrier, clock)
        self._replays = Replays(barrier, clock)
        self._reader = Reader(settings.issuer, self._keys, self._revoked, clock)
        mint = Mint(self._keys, self._revoked, clock)
        self._own = OwnTokens(settings.issuer, access, mint)
        self._exchange = Exchange(
            settings.issuer,
            self._reader,
            access,
            mint,
            transactions_in=settings.trust_domain if settings.transaction_tokens else None,
        )
        self._admission = Admission(
            settings.issuer, settings.trust_domain, outside, access, mint, self._replays, clock
        )
        self._uses = ClientUses(clock)
        self._trouble = ""

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
        with self._uses.counting(client.spiffe_id):
            return await self._own.mint(client, audiences, resources, scopes)

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

        Raises: VST6000 to VST6007 (the given tokens), VST6010 to VST6021, VST6023, VST6030.
        """
        with self._uses.counting(client.spiffe_id):
            given = Given(
                subject_token=subject_token,
                subject_type=subject_type,
                actor_token=actor_token,
                actor_type=actor_type,
                requested_type=requested_type or ACCESS_TOKEN,
                context=context,
            )
            return await self._exchange.exchange(client, given, _wanted(audiences, resources, scopes))

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

        Raises: VST6000 to VST6006, VST6008, VST6009 (with the word ``invalid_grant``), VST6010 to VST6014, VST6021,
        VST6030, errors of the barrier where the assertion counts once.
        """
        with self._uses.counting(client.spiffe_id):
            return await self._admission.admit(client, assertion, _wanted(audiences, resources, scopes))

    async def once(self, issuer: str, claims: Mapping[str, Any]) -> None:
        """Take note of a client's assertion (RFC 7523, section 3): with a ``jti``, it counts once.

        For the door, which has verified it, where the client calls it a ``jwt-bearer`` assertion.  One of the type
        ``jwt-spiffe`` may be shown again while it lasts: whoever issues JWT-SVIDs keeps and reuses them.
        Raises: VST6005, VST6008, errors of the barrier.
        """
        if "jti" in claims:
            name = text_of(claims, "jti").encode()
            await self._replays.once(issuer, name, instant_of(claims, "exp", CLAIMS_UNFIT))

    # --------------------------------------------------------------------------------- what becomes of tokens

    async def inspect(self, client: Client, token: str) -> Mapping[str, Any]:
        """What a token says (RFC 7662): ``{"active": False}`` if it does not hold or is none of the client's business.

        Raises: VST6030 where nothing is known of any key.
        """
        try:
            claims = await self._reader.read(token)
        except VestibuleError as error:
            if error.code.kind in _NOT_OURS:
                raise
            return INACTIVE
        return told(claims) if self._concerns(claims, client.spiffe_id) else INACTIVE

    async def revoke(self, client: Client, token: str) -> RevokedTokens | None:
        """A token that the client was given counts no longer (RFC 7009); None where it did not count before.

        Raises: VST6022, VST6030, VST6033, VST6034, errors of the barrier.
        """
        try:
            claims = await self._reader.read(token)
        except VestibuleError as error:
            if error.code.kind in _NOT_OURS:
                raise
            return None
        name = str(client.spiffe_id)
        if claims["client_id"] != name:
            raise ANOTHERS_TOKEN.error(f"the token was not made for {name}")
        return await self._revoked.add(RevokedBy.TOKEN, claims["jti"], whose=name)

    # -------------------------------------------------------------------------------------------- operators

    async def revoke_by(self, by: RevokedBy, value: str, reason: str = "") -> RevokedTokens:
        """All tokens until now that have this in common count no longer.

        Raises: VST6032, VST6033, VST6034, errors of the barrier; for a key, as ``revoke_key``.
        """
        if by is RevokedBy.KEY:
            return await self.revoke_key(value, reason)
        if not 0 < len(value) <= 2048 or not value.isprintable():
            raise REVOCATION_MALFORMED.error(
                f"what to revoke by {by.value} is empty, too long or unprintable"
            )
        if by is RevokedBy.CLIENT:
            try:
                value = str(SpiffeId.parse(value))
            except VestibuleError as error:
                raise REVOCATION_MALFORMED.error(f"the client is no SPIFFE ID: {error.message}") from None
        return await self._revoked.add(by, value, reason)

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
        await self._revoked.look()
        adding = self._revoked.adding(RevokedBy.KEY, key_id, reason)
        await self._keys.revoke(key_id, adding)
        return adding.revoked

    def clients(self) -> tuple[ClientUse, ...]:
        """Who has asked this server for tokens since it started, the last one first."""
        return self._uses.listed()

    # ------------------------------------------------------------------------------------- for proxies, for all

    @property
    def key_source(self) -> TokenKeySource:
        """The public keys, as they change."""
        return self._keys

    @property
    def revoked(self) -> RevokedSource:
        """The list of what is revoked, as it changes."""
        return self._revoked

    @property
    def trouble(self) -> str:
        """Why keys and revocations cannot be followed now; empty where they can."""
        return self._trouble

    async def start(self) -> None:
        """Begin with what there is, and make keys if this server leads; what cannot be done now ``run`` does later."""
        await self._tend()

    async def run(self) -> None:
        """Follow other servers, change keys in time, forget what is over; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="tokens-follow")
            tasks.create_task(self._tend_on(), name="tokens-tend")
            tasks.create_task(sweeping(self._barrier, self._clock, self._sweep), name="tokens-sweep")

    async def _follow(self) -> None:
        async for _ in self._changes.subscribe("secrets"):
            if not self._barrier.is_sealed:
                with suppress(VestibuleError):  # it is looked at again in a moment, and told then
                    await self._look()
            await asyncio.sleep(PAUSE)

    async def _tend_on(self) -> None:
        while True:
            await self._tend()
            await self._clock.sleep_until(self._clock.now() + TEND_EVERY)

    async def _tend(self) -> None:
        if self._barrier.is_sealed:
            self._keys.forget()
            self._trouble = "the secret manager is sealed"
            return
        try:
            await self._revoked.look()
            await (self._keys.plan() if self._leads() else self._keys.look())
        except VestibuleError as error:
            if not self._trouble:
                _log.warning("signing keys and revoked tokens cannot be followed: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    async def _look(self) -> None:
        await self._revoked.look()
        await self._keys.look()

    async def _sweep(self) -> int:
        self._revoked.forget_ended()
        if not self._leads():
            return 0
        try:
            return await self._revoked.sweep() + await self._replays.sweep()
        except VestibuleError as error:
            _log.warning("what is over cannot be forgotten now: %s", error)
            return 0

    def _concerns(self, claims: Mapping[str, Any], client: SpiffeId) -> bool:
        """It was made for the client to show, or to be shown to it."""
        if claims["client_id"] == str(client):
            return True
        return any(self._access.owns(client, each) for each in audiences_of(claims))


def _wanted(audiences: Sequence[str], resources: Sequence[str], scopes: Sequence[str]) -> Wanted:
    return Wanted(targets=targets_of(audiences, resources), scopes=scopes_of(scopes))
