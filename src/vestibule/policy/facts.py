"""What is known of one call when it is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from vestibule.spiffe import SpiffeId

GIVEN: Final = ""
"""In the place of an issuer's name: the token that comes with a question, which no rule demands and any may look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class McpCall:
    """What an MCP client asks for: a JSON-RPC method and, where the method has one, the name or URI of its object.

    Replies of a client to the server have no method.
    """

    method: str | None
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The facts of one call.

    ``path`` may carry a query, which rules do not look at; TCP has neither method nor path.  ``headers`` have
    lower-case names; of several of one name the values are joined by commas.  ``tokens`` are the claims of the
    tokens that were verified, by the name of their issuer, or by ``GIVEN``.  ``body`` is the request's JSON, where it
    was read; ``attributes`` is what is known from outside.  ``certificate`` is the SHA-256 of the caller's certificate,
    in hexadecimal digits; empty if nobody asked for it.
    """

    caller: SpiffeId
    port: str
    method: str | None = None
    path: str | None = None
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    time: datetime | None = None
    tokens: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    mcp: McpCall | None = None
    body: Any = field(default=None, hash=False)
    attributes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    certificate: str = ""
