"""What attestors need of the outside; ``app`` fills it with ``calls``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class HttpAnswer(Protocol):
    """A whole answer, its body within a limit."""

    @property
    def status(self) -> int: ...

    @property
    def body(self) -> bytes: ...


class Http(Protocol):
    """One HTTP server.  Redirects are not followed."""

    async def __call__(
        self, method: str, target: str, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> HttpAnswer:
        """Ask once; ``target`` is a path with its query.  Raises: VST2340, VST2341."""
        ...
