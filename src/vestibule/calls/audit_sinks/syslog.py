"""Records to syslog: messages of RFC 5424, on the machine's socket, or over TCP with their lengths (RFC 6587)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LOG_AUDIT: Final = 13
"""The facility (RFC 5424 section 6.2.1)."""

_WARNING: Final = 4
_INFORMATIONAL: Final = 6
_SECONDS: Final = 10.0


class SyslogSink:
    """Sends each record as one message.  Syslog does not answer: that it was taken over, is all there is to know."""

    def __init__(self, *, unix: Path | None = None, host: str = "", port: int = 0) -> None:
        self._unix = unix
        self._host = host
        self._port = port

    async def send(self, lines: Sequence[bytes]) -> None:
        """Raises: OSError (TimeoutError among them)."""
        messages = [message(line) for line in lines]
        async with asyncio.timeout(_SECONDS):
            if self._unix is not None:
                await self._send_datagrams(self._unix, messages)
            else:
                await self._send_stream(messages)

    async def _send_datagrams(self, path: Path, messages: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.connect(os.fspath(path))
            for each in messages:
                await loop.sock_sendall(channel, each)

    async def _send_stream(self, messages: Sequence[bytes]) -> None:
        _, writer = await asyncio.open_connection(self._host, self._port)
        try:
            writer.writelines(b"%d %b" % (len(each), each) for each in messages)
            await writer.drain()
            writer.write_eof()
        finally:
            writer.close()
            await writer.wait_closed()


def message(line: bytes) -> bytes:
    """The message for a record: its time, its action as MSGID, and the record whole."""
    record = json.loads(line)
    severity = _INFORMATIONAL if record["outcome"] == "ok" else _WARNING
    time, action = record["time"], record["action"][:32]
    host = socket.gethostname()[:255] or "-"
    head = f"<{LOG_AUDIT * 8 + severity}>1 {time} {host} vestibule {os.getpid()} {action} - "
    return head.encode("ascii", "replace") + line
