"""WebSockets of ASGI apps, which are asked to come again when their connection is to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vestibule.sdk.serving.identified import Message, Send

SERVICE_RESTART: Final = 1012
"""To WebSockets: come again (the registry of RFC 6455's close codes)."""


class WebSockets:
    """Those of one connection.  Once it is pressed they are closed: at once, or as soon as the app accepts them."""

    def __init__(self) -> None:
        self.pressed = False
        self._open: set[WebSocket] = set()

    @contextmanager
    def outgoing(self, send: Send) -> Iterator[Send]:
        """``send``, for the app of a new one, while it runs."""
        made = WebSocket(self, send)
        try:
            yield made.send
        finally:
            self.closed(made)

    def press(self) -> list[WebSocket]:
        """Those that are to ``leave`` now."""
        self.pressed = True
        return list(self._open)

    def accepted(self, which: WebSocket) -> None:
        """It is open."""
        self._open.add(which)

    def closed(self, which: WebSocket) -> None:
        """It is not any more."""
        self._open.discard(which)


class WebSocket:
    """What an app sends to one; nothing more after ``leave``, so that the app may end in peace."""

    def __init__(self, among: WebSockets, send: Send) -> None:
        self._among = among
        self._send = send
        self._left = False

    async def send(self, message: Message) -> None:
        """As ASGI wants it."""
        if self._left:
            return
        if message["type"] == "websocket.close":
            self._among.closed(self)
        await self._send(message)
        if message["type"] == "websocket.accept":
            self._among.accepted(self)
            if self._among.pressed:
                await self.leave()

    async def leave(self) -> None:
        """Ask the other side to come again."""
        if not self._left:
            self._left = True
            self._among.closed(self)
            await self._send({"type": "websocket.close", "code": SERVICE_RESTART})
