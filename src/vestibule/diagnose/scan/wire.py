"""One connection, bounded in time and bytes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from vestibule.posture import Target

MOST_BYTES: Final = 256 * 1024
"""Taken from an endpoint in one connection; the longest handshakes are a tenth of it."""
_CHUNK: Final = 16 * 1024
_GRACE: Final = 0.1
"""Seconds."""
_SHARE: Final = 0.9
"""Of the time for all, so that it can be told which part took it."""


class Flooded(Exception):  # noqa: N818 - an ending, not a mistake
    """The endpoint sent more than anything that was asked could need."""


class NoConnectionError(OSError):
    """There is none; the text says why."""


class Wire:
    """Bytes to and from an endpoint."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._taken = 0

    async def receive(self) -> bytes:
        """What comes next; empty at the end.  Raises: OSError, Flooded."""
        data = await self._reader.read(_CHUNK)
        self._taken += len(data)
        if self._taken > MOST_BYTES:
            raise Flooded
        return data

    async def receive_within(self, seconds: float) -> bytes | None:
        """The same; None when nothing came in time.  Raises: OSError, Flooded."""
        # Once more, shortly: if this process stood still, time is up although bytes are there.
        for patience in (seconds, _GRACE):
            try:
                async with asyncio.timeout(patience):
                    return await self.receive()
            except TimeoutError:
                continue
        return None

    async def send(self, data: bytes) -> None:
        """Raises: OSError."""
        if data:
            self._writer.write(data)
            await self._writer.drain()


@asynccontextmanager
async def connected(target: Target, seconds: float) -> AsyncIterator[Wire]:
    """A connection to the target while the block is entered, ``seconds`` at most.

    Raises: NoConnectionError; TimeoutError and OSError once there is one.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await _open(target, seconds)
        try:
            yield Wire(reader, writer)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


async def _open(target: Target, seconds: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(seconds * _SHARE):
            return await asyncio.open_connection(target.host, target.port, limit=_CHUNK)
    except TimeoutError as error:
        raise NoConnectionError(f"nothing answered within {seconds * _SHARE:g} s") from error
    except OSError as error:
        raise NoConnectionError(_reason(error)) from error


def _reason(error: OSError) -> str:
    """In words; asyncio's own text for several addresses repeats itself."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else (error.strerror or str(error))
