"""An ASGI app as one connection sees it: each scope says who calls, and answers say when the connection ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from vestibule.sdk.serving.held import Held

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Identified:
    """``app``, on the connection ``held``."""

    def __init__(self, app: App, held: Held) -> None:
        self._app = app
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI wants it."""
        scope["extensions"] = {**(scope.get("extensions") or {}), **self._held.extensions()}
        await self._app(scope, receive, closing(self._held, scope, send))


def closing(held: Held, scope: Scope, send: Send) -> Send:
    """``send``, which adds ``Connection: close`` to the answers on a retired connection (RFC 9112, section 9.6).

    HTTP/2 has other means, and the header is forbidden there (RFC 9113, section 8.2.2).
    """
    if scope["type"] != "http" or not scope["http_version"].startswith("1"):
        return send

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and held.retired:
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return sent
