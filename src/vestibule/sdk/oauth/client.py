"""The client of the token service, for asyncio."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vestibule.clock import Clock, SystemClock
from vestibule.sdk.codes import TOKENS_UNREACHABLE
from vestibule.sdk.holder import Holder
from vestibule.sdk.http import Http, HttpFailedError, HttpRequest
from vestibule.sdk.jwt import fetch_jwt_svid
from vestibule.sdk.oauth import answers
from vestibule.sdk.oauth.addresses import TokensAddress, token_service_of
from vestibule.sdk.oauth.answers import ACCESS_TOKEN, Form, Token
from vestibule.sdk.oauth.cache import TokenCache
from vestibule.sdk.oauth.errors import TokensError
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import client_context

if TYPE_CHECKING:
    from vestibule.sdk.oauth.httpx import TokenAuth

Names = str | Sequence[str]
Given = str | Callable[[], str]
"""A token, or what says which one it is at the moment."""


class AsyncTokens:
    """Gets tokens for as long as the block is entered, and keeps each until shortly before its end.

    Who asks is told by the sidecar (``http``), or by this process's X.509-SVID over mutual TLS (``https``); the SVID
    comes from ``source``, or from an ``X509Source`` of its own.  Where something in between ends TLS, ``issuer`` (the
    URL of the token service, as its tokens have it) makes the client prove itself with a JWT-SVID for that issuer
    instead, a new one for each request.  ``context`` is what the server is believed by there, in the place of its SVID.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        issuer: str = "",
        source: Holder | None = None,
        context: ssl.SSLContext | None = None,
        workload_api: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``address`` as for ``TokensAddress.find``.  Raises: VST6120."""
        self.address = TokensAddress.find(address)
        self._issuer = issuer
        self._source = source
        self._context = context
        self._workload_api = workload_api
        self.clock = clock or SystemClock()
        self._http = Http(self.address, lambda: self._context)
        self._cache = TokenCache(self.clock)
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises: VST2402 where an SVID is needed and none comes."""
        if self.address.shows_svid and self._context is None:
            source = self._source
            if source is None:
                source = await self._entered.enter_async_context(X509Source(self._workload_api))
            self._context = client_context(source, token_service_of(source))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._cache.close()
        self._http.close()
        await self._entered.aclose()

    # ---------------------------------------------------------------------------------------------- getting

    async def get(self, audience: Names, scopes: Names = ()) -> Token:
        """A token of the caller's own (RFC 6749, section 4.4).

        Raises: TokenDeniedError (no rule allows it), TokensError (VST6121: no answer; VST6030: sealed).
        """
        wanted, asked = _names(audience), _names(scopes)
        return await self._cache.get(
            ("own", wanted, asked), lambda: self._got(answers.mint(wanted, asked), wanted, asked)
        )

    async def exchange(
        self,
        subject_token: str,
        audience: Names,
        scopes: Names = (),
        *,
        subject_type: str = ACCESS_TOKEN,
        actor_token: str = "",
    ) -> Token:
        """A token for whom the given one is of, with the caller as its newest actor (RFC 8693).

        The given token was made for the caller; the new one has no more scopes and lasts no longer.
        Raises: as ``get``.
        """
        wanted, asked = _names(audience), _names(scopes)
        form = answers.exchange(
            subject_token, wanted, asked, subject_type=subject_type, actor_token=actor_token
        )
        return await self._cache.get(_key(form), lambda: self._got(form, wanted, asked))

    async def admit(self, assertion: str, audience: Names, scopes: Names = ()) -> Token:
        """A token for the subject of an outside issuer's, such as an ID token (RFC 7523).  Raises: as ``get``."""
        wanted, asked = _names(audience), _names(scopes)
        form = answers.admit(assertion, wanted, asked)
        return await self._cache.get(_key(form), lambda: self._got(form, wanted, asked))

    def forget(self, token: Token) -> None:
        """Get another one the next time, for instance because somebody refused this one."""
        self._cache.forget(token)

    def auth(self, audience: Names, scopes: Names = (), *, on_behalf_of: Given | None = None) -> TokenAuth:
        """For ``httpx.AsyncClient(auth=…)``: each request gets a token, of the caller's own or in exchange.

        ``on_behalf_of`` is the token that is given for it, or says which one (``current_token_text``).
        """
        from vestibule.sdk.oauth.httpx import TokenAuth

        return TokenAuth(Taken(self, audience, scopes, on_behalf_of))

    # ---------------------------------------------------------------------------------------- knowing and ending

    async def inspect(self, token: str) -> Mapping[str, Any]:
        """What the token service says of a token that was made for the caller (RFC 7662): ``active``, and its claims.

        Raises: TokensError.
        """
        return await self._posted(answers.INTROSPECT, (("token", token),))

    async def revoke(self, token: Token | str) -> None:
        """End a token of the caller's own, and what was got in exchange for it (RFC 7009).  Raises: TokensError."""
        if isinstance(token, Token):
            self.forget(token)
        text = token.text if isinstance(token, Token) else token
        await self._posted(answers.REVOKE, (("token", text),))

    async def keys(self) -> Mapping[str, Any]:
        """The keys with which tokens are verified: a JWK set (RFC 7517).  Raises: TokensError."""
        return await self._asked(answers.get(answers.KEYS))

    async def metadata(self) -> Mapping[str, Any]:
        """What the token service says of itself (RFC 8414).  Raises: TokensError."""
        return await self._asked(answers.get(answers.METADATA))

    async def _got(self, form: Form, audience: Sequence[str], scopes: Sequence[str]) -> Token:
        asked_at = self.clock.now()
        return answers.token_of(await self._posted(answers.TOKEN, form), audience, scopes, asked_at)

    async def _posted(self, target: str, form: Form) -> Mapping[str, Any]:
        return await self._asked(answers.post(target, (*form, *await self._assertion())))

    async def _assertion(self) -> Form:
        if not self._issuer:
            return ()
        svid = await fetch_jwt_svid(self._issuer, address=self._workload_api)
        return (("client_assertion_type", answers.JWT_SVID), ("client_assertion", svid.token))

    async def _asked(self, request: HttpRequest) -> Mapping[str, Any]:
        try:
            answer = await self._http.ask(request)
        except HttpFailedError as error:
            raise TokensError(TOKENS_UNREACHABLE, f"the token service at {self.address} {error}") from error
        return answers.document_of(answer)


class Taken:
    """What ``auth`` takes its tokens from (``vestibule.sdk.oauth.httpx.TokenSource``)."""

    def __init__(self, tokens: AsyncTokens, audience: Names, scopes: Names, given: Given | None) -> None:
        self._tokens = tokens
        self._audience = audience
        self._scopes = scopes
        self._given = given

    def now(self) -> datetime:
        """By the clock of the tokens."""
        return self._tokens.clock.now()

    def given(self) -> str:
        """The token that is given in exchange; an empty one is none, and is refused as such."""
        return "" if self._given is None else self._given if isinstance(self._given, str) else self._given()

    async def take(self, given: str, refused: Token | None = None) -> Token:
        """One of the caller's own, or one in exchange."""
        if refused is not None:
            self._tokens.forget(refused)
        if self._given is None:
            return await self._tokens.get(self._audience, self._scopes)
        return await self._tokens.exchange(given, self._audience, self._scopes)

    def waited(self, given: str, refused: Token | None = None) -> Token:
        """Not here: it would wait for its own event loop."""
        raise RuntimeError("AsyncTokens are for httpx.AsyncClient; take Tokens for httpx.Client")


def _names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _key(form: Form) -> bytes:
    """What is kept under it is a secret already; what was given for it need not be kept, too."""
    return hashlib.sha256(repr(form).encode()).digest()
