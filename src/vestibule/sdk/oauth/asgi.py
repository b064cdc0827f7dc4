"""Middleware for ASGI apps (Starlette, FastAPI, Django and others): requests come with a token that was verified.

Answers are those of RFC 6750 (section 3), with our code and advice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from vestibule.errors import Kind, VestibuleError
from vestibule.sdk.bearer import App, Message, Receive, Refusal, Scope, Send, authorization_of, bearer_token
from vestibule.sdk.codes import NO_TOKEN, TOKEN_OF_ANOTHER
from vestibule.sdk.oauth.access_tokens import AccessToken
from vestibule.sdk.oauth.errors import InvalidTokenError, TokenScopeError
from vestibule.sdk.oauth.verifier import TokenVerifier

KEY: Final = "vestibule.token"
"""Of the ASGI scope."""

_current: ContextVar[AccessToken] = ContextVar("vestibule_token")


def token_of(scope: Mapping[str, Any]) -> AccessToken:
    """The token of a request, from its ASGI scope (``request.scope``).  Raises: KeyError where none was wanted."""
    found: AccessToken = scope[KEY]
    return found


def current_token() -> AccessToken:
    """The token of the request that is being answered.  Raises: LookupError where there is none."""
    return _current.get()


def current_token_text() -> str:
    """Its text, to give in exchange: ``tokens.auth("reports", on_behalf_of=current_token_text)``."""
    return _current.get().text


class TokenRequired:
    """Lets only requests through to ``app`` that have a token for it, with all of ``scopes``.

    For Starlette and FastAPI: ``app.add_middleware(TokenRequired, verifier=TokenVerifier("reports"))``; around other
    apps: ``TokenRequired(app, verifier)``.  What ``must_have`` raises is answered with 403 unless the app's framework
    turned it into something else before.

    Paths in ``open_to_all`` need none (``/healthz``).  Where the sidecar says who calls
    (``x-forwarded-client-cert``), the token has to be the caller's own, unless ``bound`` is false.
    """

    def __init__(
        self,
        app: App,
        verifier: TokenVerifier,
        *,
        scopes: Sequence[str] = (),
        open_to_all: Collection[str] = (),
        bound: bool = True,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._scopes = tuple(scopes)
        self._open = frozenset(open_to_all)
        self._bound = bound
        self._entering = asyncio.Lock()
        self._is_entered = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._leaving(send))
        elif scope["type"] not in ("http", "websocket") or scope["path"] in self._open:
            await self._app(scope, receive, send)
        else:
            await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            token = await self._verified(scope)
        except VestibuleError as error:
            await _refusal(error).send(scope, send)
            return
        began = _Began(send)
        reset = _current.set(token)
        try:
            await self._app({**scope, KEY: token}, receive, began)
        except TokenScopeError as error:
            if began.told:
                raise
            await _refusal(error).send(scope, send)
        finally:
            _current.reset(reset)

    async def _verified(self, scope: Scope) -> AccessToken:
        text = bearer_token(authorization_of(scope), NO_TOKEN)
        await self._enter()
        token = await self._verifier.verify(text)
        caller = _caller(scope) if self._bound else ""
        if caller and caller != token.presenter:
            raise InvalidTokenError(
                TOKEN_OF_ANOTHER, f"the access token is refused: it is not one of {caller}, who shows it"
            )
        token.must_have(*self._scopes)
        return token

    async def _enter(self) -> None:
        if self._is_entered:
            return
        async with self._entering:
            if not self._is_entered:
                await self._verifier.__aenter__()
                self._is_entered = True

    def _leaving(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown.") and self._is_entered:
                self._is_entered = False
                await self._verifier.__aexit__(None, None, None)
            await send(message)

        return sent


class _Began:
    """Knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.told = False

    async def __call__(self, message: Message) -> None:
        self.told = True
        await self._send(message)


def _caller(scope: Scope) -> str:
    """Who calls, by the word of the sidecar, which replaces what callers send; empty where none stands before us."""
    sent = [value for name, value in scope["headers"] if name == b"x-forwarded-client-cert"]
    if not sent:
        return ""
    # The last element is the nearest proxy's; a SPIFFE ID has neither of the separators.
    parts = sent[-1].decode("latin-1").rpartition(",")[2].split(";")
    named = [each.partition("=")[2].strip('"') for each in parts if each.lower().startswith("uri=")]
    return named[0] if len(named) == 1 else "nobody"


# -------------------------------------------------------------------------------------------- refusing


def _refusal(error: VestibuleError) -> Refusal:
    """A request without any token is told no more than what it lacks (RFC 6750, section 3.1)."""
    if error.code is NO_TOKEN:
        return Refusal(status=401, word="", error=error)
    if isinstance(error, TokenScopeError):
        return Refusal(status=403, word="insufficient_scope", error=error, scopes=error.scopes)
    if isinstance(error, InvalidTokenError) or error.code.kind is Kind.UNAUTHENTICATED:
        return Refusal(status=401, word="invalid_token", error=error)
    return Refusal(status=503, word="temporarily_unavailable", error=error)
