"""A connection that a server holds, from its handshake to its end.

In its life it is told, at most, three things, by calls to whoever *owns* it, the protocol that is spoken on it:

1. ``retire``: halfway (``Lifetimes``) to the end of the certificates.  Say so to the other side where the protocol can,
   and break nothing.
2. ``press``: half of the rest is over, too.  Ask with what the protocol has: end it when idle, GOAWAY, the closing
   handshake of WebSocket.
3. ``cut``: it ends now, whatever runs on it.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from vestibule.errors import VestibuleError
from vestibule.sdk.connections import Connection, Lifetimes, connection_of
from vestibule.sdk.serving.scope import tls_extension
from vestibule.sdk.source import X509Source

_log: Final = logging.getLogger("vestibule.sdk.serving")


class Owner(Protocol):
    """Speaks a protocol on a connection.  Called on the connection's event loop; none of it waits."""

    def retire(self) -> None: ...

    def press(self) -> None: ...

    def cut(self, reason: VestibuleError) -> None: ...


class Held:
    """One connection.  ``retiring`` is set when it is asked to end."""

    def __init__(
        self, source: X509Source, tls: ssl.SSLObject, owner: Owner, lifetimes: Lifetimes | None
    ) -> None:
        """Right after the handshake.  Raises: VST2405 for a connection of another context than the SDK's."""
        self.owner = owner
        self.connection: Connection = connection_of(tls)
        self.retiring = asyncio.Event()
        self._tls = tls
        self._extension: dict[str, Any] | None = None
        self._pressing: asyncio.TimerHandle | None = None
        self._watch = source.connections.watch(
            self.connection, retire=self._retire, cut=self._cut, lifetimes=lifetimes
        )

    @property
    def retired(self) -> bool:
        """Whether the other side is to be asked to use another connection."""
        return self._watch.retired or self.retiring.is_set()

    def extensions(self) -> dict[str, Any]:
        """What the ASGI scope of a request has to say of its connection; the caller's to keep."""
        if self._extension is None:
            self._extension = tls_extension(self._tls, self.connection)
        told = {"spiffe_id": str(self.connection.peer), "retiring": self.retiring}
        return {"tls": dict(self._extension), "vestibule": told}

    def retire(self) -> None:
        """Ask it to end, though no certificate is about to: the server stops."""
        if not self.retiring.is_set():
            self.retiring.set()
            self.owner.retire()

    def release(self) -> None:
        """It is closed.  May be called again."""
        self._watch.forget()
        if self._pressing is not None:
            self._pressing.cancel()
            self._pressing = None

    def _retire(self, connection: Connection) -> None:
        left = (connection.ends - datetime.now(UTC)).total_seconds()
        self._pressing = asyncio.get_running_loop().call_later(max(left / 2, 0.0), self._press)
        self.retire()

    def _press(self) -> None:
        self._pressing = None
        self.owner.press()

    def _cut(self, connection: Connection, reason: VestibuleError) -> None:
        self.release()
        self.retiring.set()
        _log.info("ended the connection of %s: %s", connection.peer, reason)
        self.owner.cut(reason)
