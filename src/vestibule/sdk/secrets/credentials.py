"""A credential that is renewed before its end, and replaced by another one when it can be renewed no more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Protocol, Self

from vestibule.clock import Clock
from vestibule.sdk.codes import CREDENTIAL_ENDED
from vestibule.sdk.secrets.answers import Credential
from vestibule.sdk.secrets.errors import SecretsError

RENEW_AT: Final = 2 / 3
"""Of a credential's life."""

RETRY: Final = timedelta(seconds=5)
SOONEST: Final = timedelta(seconds=1)
WORTH_KEEPING: Final = 1 / 2
"""A renewal that gives less than this part of the first life is near the lease's last end: another one is taken."""

_log = logging.getLogger(__name__)


class Leases(Protocol):
    """Where credentials come from: an ``AsyncSecrets``."""

    async def fetch_credential(self, path: str) -> Credential: ...

    async def renew(self, credential: Credential) -> Credential: ...

    async def revoke(self, credential: Credential) -> None: ...


class KeptCredential:
    """``current`` is good for as long as the block is entered; at its end the lease is revoked.

    ``changes()`` tells of each *other* user and password; a renewal changes neither.
    """

    def __init__(self, leases: Leases, path: str, clock: Clock) -> None:
        self.path = path
        self._leases = leases
        self._clock = clock
        self._current: Credential | None = None
        self._life = timedelta()
        self._problem = ""
        self._next = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def current(self) -> Credential:
        """Raises: VST2410 where it has ended and no other came."""
        found = self._current
        if found is None or found.ends <= self._clock.now():
            why = f": {self._problem}" if self._problem else ""
            raise CREDENTIAL_ENDED.error(f"there is no credential of {self.path} that lasts{why}")
        return found

    async def changes(self) -> AsyncIterator[Credential]:
        """The credential, and each that takes its place."""
        told = ""
        while self._keeping is not None:
            waiter, found = self._next, self._current
            if found is not None and found.lease_id + found.username != told:
                told = found.lease_id + found.username
                yield found
                continue
            await waiter.wait()

    async def __aenter__(self) -> Self:
        """Raises: as ``AsyncSecrets.read``."""
        self._take(await self._leases.fetch_credential(self.path))
        self._keeping = asyncio.create_task(self._keep(), name=f"credential {self.path}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        keeping, self._keeping = self._keeping, None
        assert keeping is not None
        keeping.cancel()
        await asyncio.wait({keeping})
        self._wake()
        if self._current is not None and self._current.lease_id:
            try:
                await self._leases.revoke(self._current)
            except SecretsError as refused:
                _log.info("the lease of %s is left to end by itself: %s", self.path, refused)

    async def _keep(self) -> None:
        while True:
            assert self._current is not None
            await self._clock.sleep_until(self._due(self._current))
            try:
                await self._refresh(self._current)
                self._problem = ""
            except SecretsError as error:
                if self._problem != str(error):
                    _log.warning("the credential of %s is not renewed: %s", self.path, error)
                self._problem = str(error)
                await self._clock.sleep_until(self._clock.now() + RETRY)

    def _due(self, current: Credential) -> datetime:
        return current.taken + max(current.lasts * RENEW_AT, SOONEST)

    async def _refresh(self, current: Credential) -> None:
        if current.renewable:
            try:
                longer = await self._leases.renew(current)
            except SecretsError as error:
                _log.info("the lease of %s cannot be renewed: %s", self.path, error)
            else:
                if longer.lasts >= self._life * WORTH_KEEPING:
                    self._current = longer
                    return
        self._take(await self._leases.fetch_credential(self.path))

    def _take(self, credential: Credential) -> None:
        self._current, self._life = credential, credential.lasts
        self._wake()

    def _wake(self) -> None:
        event, self._next = self._next, asyncio.Event()
        event.set()
