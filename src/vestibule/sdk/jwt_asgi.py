"""Middleware for ASGI apps: requests come with a JWT-SVID that was verified."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.sdk.authorizers import Authorizer
from vestibule.sdk.bearer import App, Message, Receive, Scope, Send, authorization_of
from vestibule.sdk.jwt_callers import JwtCallers, refusal_of
from vestibule.sdk.jwt_source import JwtSource
from vestibule.spiffe import JwtSvid

PATIENCE: Final = 5.0
"""Seconds that the first requests wait for the trust bundles; then they are answered with 503, and others try again."""

KEY: Final = "vestibule.jwt_svid"
"""Of the ASGI scope."""

_current: ContextVar[JwtSvid] = ContextVar("vestibule_jwt_svid")


def jwt_svid_of(scope: Mapping[str, Any]) -> JwtSvid:
    """The token of a request, from its ASGI scope (``request.scope``).  Raises: KeyError where none was wanted."""
    found: JwtSvid = scope[KEY]
    return found


def current_jwt_svid() -> JwtSvid:
    """The token of the request that is being answered.  Raises: LookupError where there is none."""
    return _current.get()


class JwtSvids:
    """Lets only requests through to ``app`` that have a JWT-SVID for ``audience``, of somebody ``authorize`` wants.

    For Starlette and FastAPI: ``app.add_middleware(JwtSvids, audience="payments")``; around other apps:
    ``JwtSvids(app, audience="payments")``.  Without ``authorize``, whoever the trust bundles vouch for is let through.
    Paths in ``open_to_all`` need no token (``/healthz``).

    ``source`` is one that is entered elsewhere; without it, the middleware enters one of its own at the first request,
    and leaves it when the server stops (ASGI's lifespan).
    """

    def __init__(
        self,
        app: App,
        *,
        audience: str | Sequence[str],
        authorize: Authorizer | None = None,
        source: JwtSource | None = None,
        open_to_all: Collection[str] = (),
    ) -> None:
        """Raises: VST2400, VST2401, VST2310 (no ``source``, and no address of the Workload API)."""
        self._app = app
        self._callers = JwtCallers(audience, authorize)
        self._owned = source is None
        self._source = source or JwtSource(patience=PATIENCE)
        self._open = frozenset(open_to_all)
        self._entering: asyncio.Task[JwtSource] | None = None

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
            await self._enter()
            svid = self._callers.of(authorization_of(scope), self._source)
        except VestibuleError as error:
            await refusal_of(error).send(scope, send)
            return
        reset = _current.set(svid)
        try:
            await self._app({**scope, KEY: svid}, receive, send)
        finally:
            _current.reset(reset)

    async def _enter(self) -> None:
        """Requests that come meanwhile wait for the same, and fail for the same reason."""
        if not self._owned or self._source.is_entered:
            return
        if self._entering is None or self._entering.done():
            self._entering = asyncio.create_task(self._source.__aenter__(), name="jwt-svids")
        await asyncio.shield(self._entering)

    def _leaving(self, send: Send) -> Send:
        async def sent(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown.") and self._owned and self._source.is_entered:
                await self._source.__aexit__(None, None, None)
            await send(message)

        return sent
