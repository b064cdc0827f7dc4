"""Bearer tokens in HTTP: reading the one of a request, and refusing as RFC 6750 (section 3) says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vestibule.errors import ErrorCode, VestibuleError

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""ASGI's own."""


def bearer_token(sent: Sequence[str], missing: ErrorCode) -> str:
    """The token in the values of all ``authorization`` headers of a request.  Raises: ``missing``."""
    if len(sent) > 1:
        raise missing.error("there are several authorization headers")
    kind, _, text = (sent[0] if sent else "").partition(" ")
    if kind.lower() != "bearer" or not text.strip():
        raise missing.error("there is no token in the request")
    return text.strip()


def authorization_of(scope: Scope) -> list[str]:
    """The values of the ``authorization`` headers of an ASGI scope."""
    return [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that refuses.  ``word`` is one of RFC 6750 (section 3.1); a request without any token gets none."""

    status: int
    word: str
    error: VestibuleError
    scopes: Sequence[str] = ()

    @property
    def body(self) -> bytes:
        """JSON, with the code and its advice."""
        told = {"error": self.word or "invalid_request", "error_description": self._described}
        return json.dumps(told).encode("ascii")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Those of the answer, names in lower case."""
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(self.body))),
            ("cache-control", "no-store"),
        ]
        if self.status in (401, 403):
            headers.append(("www-authenticate", self._challenge))
        return headers

    async def send(self, scope: Scope, send: Send) -> None:
        """Answer an ASGI request with it."""
        if scope["type"] == "websocket":
            # Before it is accepted, this is 403 (ASGI, "Disconnected" of WebSocket).
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})

    @property
    def _described(self) -> str:
        """Printable ASCII, no quotes, no backslashes."""
        text = f"{self.error.code.code} {self.error.message}. {self.error.advice}"
        plain = text.replace('"', "'").replace("\\", "/")
        return "".join(each if " " <= each <= "~" else "?" for each in plain)

    @property
    def _challenge(self) -> str:
        if not self.word:
            return "Bearer"
        wanted = f', scope="{" ".join(self.scopes)}"' if self.scopes else ""
        return f'Bearer error="{self.word}", error_description="{self._described}"{wanted}'
