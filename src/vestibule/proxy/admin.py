"""Envoy's admin interface, on its private Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11

from vestibule.proxy.codes import ENVOY_ADMIN

_LONGEST_ANSWER: Final = 64 << 20
_CHUNK: Final = 65536
_IN_FLIGHT: Final = r"^(http\..*\.downstream_rq_active|tcp\..*\.downstream_cx_active)$"
_OWN: Final = "http.admin."


@dataclass(frozen=True, slots=True)
class Answer:
    """What the admin interface said."""

    status: int
    body: bytes


class Admin:
    """A client that makes one connection per request: draining and diagnosis are rare."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def get(self, target: str, *, timeout: float = 2.0) -> Answer:
        """Raises: VST7103 when nobody answers in time, or not in HTTP."""
        return await self._request("GET", target, timeout)

    async def post(self, target: str, *, timeout: float = 2.0) -> Answer:
        """A request that changes something.  Raises: VST7103, also for any answer but 200."""
        answer = await self._request("POST", target, timeout)
        if answer.status != 200:
            raise ENVOY_ADMIN.error(f"Envoy answers {answer.status} to POST {target}: {answer.body[:200]!r}")
        return answer

    async def in_flight(self) -> int:
        """HTTP requests and TCP connections that Envoy handles now, its admin's own aside.  Raises: VST7103."""
        from urllib.parse import quote

        answer = await self.get(f"/stats?format=json&filter={quote(_IN_FLIGHT)}")
        try:
            stats = [stat for stat in json.loads(answer.body)["stats"] if "value" in stat]
            return sum(int(stat["value"]) for stat in stats if not stat["name"].startswith(_OWN))
        except (ValueError, KeyError, TypeError) as error:
            raise ENVOY_ADMIN.error("Envoy's statistics cannot be read") from error

    async def _request(self, method: str, target: str, timeout: float) -> Answer:
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(method, target)
        except TimeoutError as error:
            raise ENVOY_ADMIN.error(f"Envoy did not answer {target} within {timeout:g} s") from error
        except (OSError, h11.ProtocolError) as error:
            raise ENVOY_ADMIN.error(f"Envoy's admin interface does not answer {target}: {error}") from error

    async def _exchange(self, method: str, target: str) -> Answer:
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        try:
            connection = h11.Connection(h11.CLIENT)
            headers = [("host", "envoy"), ("connection", "close"), ("content-length", "0")]
            for event in (h11.Request(method=method, target=target, headers=headers), h11.EndOfMessage()):
                writer.write(connection.send(event) or b"")
            return await response_of(connection, reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def response_of(connection: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    """An answer in full.  Raises: VST7103 for an endless one, h11.ProtocolError."""
    status, body = 0, bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _LONGEST_ANSWER:
                raise ENVOY_ADMIN.error("Envoy's answer is larger than any it should give")
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("the connection closed without an answer")
