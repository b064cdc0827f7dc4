"""Records as lines of JSON, posted to an HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from vestibule.calls.audit_sinks.codes import SINK_REFUSED
from vestibule.calls.http import HttpServer

NDJSON: Final = "application/x-ndjson"


class HttpSink:
    """Posts each batch; any answer of 200 to 299 says that it is kept."""

    def __init__(self, server: HttpServer, path: str, token: Callable[[], str]) -> None:
        self._server = server
        self._path = path
        self._token = token

    async def send(self, lines: Sequence[bytes]) -> None:
        """Raises: VST2340, VST2341, VST8107."""
        await posted(
            self._server, self._path, self._token(), NDJSON, b"".join(b"%b\n" % line for line in lines)
        )


async def posted(server: HttpServer, path: str, token: str, kind: str, body: bytes) -> None:
    """Post a batch.  Raises: VST2340, VST2341, VST8107."""
    headers = {"Content-Type": kind, "User-Agent": "vestibule"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    answer = await server("POST", path, headers=headers, body=body)
    if not 200 <= answer.status < 300:
        raise SINK_REFUSED.error(f"{server} answers with {answer.status}")
