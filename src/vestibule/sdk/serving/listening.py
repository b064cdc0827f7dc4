"""Accepting connections with library mTLS, and saying who was refused."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from vestibule.net.handshakes import HANDSHAKE_TIMEOUT, TlsListener
from vestibule.net.listen import listen_tcp
from vestibule.sdk.reasons import reason

PER_HOST: Final = 1024
UNFINISHED: Final = 4096
"""Handshakes that may be under way: from one host, which may be a gateway whose pool is made anew, and altogether."""

SILENCE: Final = 60.0
"""Seconds in which the same refusal of the same host is told once."""
_REMEMBERED: Final = 1024

_log: Final = logging.getLogger("vestibule.sdk.refused")

ProtocolFactory = Callable[[], asyncio.Protocol]


class Refusals:
    """Tells of peers that were refused for who they are; noise, such as port scans and probes, is told to nobody."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def tell(self, host: str, error: Exception) -> None:
        """One handshake failed.  May be called from any thread."""
        why = _why(error)
        if why and self._is_news((host, why)):
            _log.warning("refused %s: %s", host, why)

    def _is_news(self, key: tuple[str, str]) -> bool:
        now = time.monotonic()
        with self._lock:
            if key in self._told and now - self._told[key] < SILENCE:
                return False
            while len(self._told) >= _REMEMBERED:
                del self._told[next(iter(self._told))]
            self._told.pop(key, None)
            self._told[key] = now
        return True


def _why(error: Exception) -> str:
    if (found := reason(error)) is not None:
        return str(found)
    return str(error) if isinstance(error, ssl.SSLCertVerificationError) else ""


class Listeners:
    """The listening sockets of one server, in the form in which uvicorn holds those of asyncio."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        context: ssl.SSLContext,
        protocol: ProtocolFactory,
        patience: float,
    ) -> None:
        """``patience``: seconds that a handshake may take."""
        self.sockets = tuple(sockets)
        refusals = Refusals()
        self._listeners = [
            TlsListener(
                each,
                context,
                protocol,
                per_source=PER_HOST,
                altogether=UNFINISHED,
                timeout=patience,
                on_refused=refusals.tell,
            )
            for each in sockets
        ]

    def start(self) -> None:
        """Begin to accept."""
        for each in self._listeners:
            each.start()

    def close(self) -> None:
        """Accept no more, and end handshakes that are under way; connections that were made go on.  May be repeated."""
        for each in self._listeners:
            each.close()

    async def wait_closed(self) -> None:
        """Closed is closed."""


def bound(host: str | None, port: int) -> socket.socket:
    """A listening TCP socket; ``host`` None for every address of the machine.  Raises: VST2320, VST2321."""
    return listen_tcp("0.0.0.0" if host is None else host, port)  # noqa: S104 - as asked for


__all__ = ["HANDSHAKE_TIMEOUT", "Listeners", "Refusals", "bound"]
