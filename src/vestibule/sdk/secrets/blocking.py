"""The client for code that blocks: the other one, on an event loop in a thread of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vestibule.sdk.holder import Holder
from vestibule.sdk.secrets.addresses import SecretsAddress
from vestibule.sdk.secrets.answers import Credential, Secret
from vestibule.sdk.secrets.client import AsyncSecrets
from vestibule.sdk.threads import Blocking


class HeldCredential:
    """``current`` is good for as long as the block is entered."""

    def __init__(self, kept: Any) -> None:
        self._kept = kept

    @property
    def current(self) -> Credential:
        """Raises: VST2410 where it has ended and no other came."""
        found: Credential = self._kept.current
        return found


class Secrets(Blocking[AsyncSecrets]):
    """``AsyncSecrets`` without asyncio.  Methods may be called from any thread, not from a running event loop."""

    def __init__(self, address: str | None = None, *, source: Holder | None = None) -> None:
        """Raises: VST2406."""
        super().__init__(AsyncSecrets(address, source=source), "vestibule secrets")

    @property
    def address(self) -> SecretsAddress:
        """Where it asks."""
        return self._client.address

    def read(self, path: str, version: int = 0) -> Secret:
        """As ``AsyncSecrets.read``."""
        return self._thread.wait(self._client.read(path, version))

    def write(self, path: str, data: Mapping[str, Any], *, expected: int | None = None) -> int:
        """As ``AsyncSecrets.write``."""
        return self._thread.wait(self._client.write(path, data, expected=expected))

    def list(self, path: str = "") -> list[str]:
        """As ``AsyncSecrets.list``."""
        return self._thread.wait(self._client.list(path))

    def watch(self, path: str, after: int = 0) -> Iterator[Secret]:
        """As ``AsyncSecrets.watch``: blocks until there is something newer."""
        versions = self._client.watch(path, after)
        try:
            while True:
                yield self._thread.wait(_next(versions))
        finally:
            self._thread.wait(_closed(versions))

    @contextmanager
    def credential(self, path: str) -> Iterator[HeldCredential]:
        """As ``AsyncSecrets.credential``; renewed in the background."""
        kept = self._client.credential(path)
        self._thread.wait(kept.__aenter__())
        try:
            yield HeldCredential(kept)
        finally:
            self._thread.wait(kept.__aexit__(None, None, None))


async def _next(versions: AsyncIterator[Secret]) -> Secret:
    return await anext(versions)


async def _closed(versions: Any) -> None:
    await versions.aclose()
