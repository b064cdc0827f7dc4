"""The client for asyncio."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

from vestibule.clock import Clock, SystemClock
from vestibule.errors import Kind
from vestibule.sdk.codes import SECRETS_UNREACHABLE
from vestibule.sdk.holder import Holder
from vestibule.sdk.http import Http, HttpFailedError, HttpRequest
from vestibule.sdk.secrets import answers
from vestibule.sdk.secrets.addresses import SecretsAddress, secret_manager_of
from vestibule.sdk.secrets.answers import Ask, Credential, Reply, Secret
from vestibule.sdk.secrets.credentials import KeptCredential
from vestibule.sdk.secrets.errors import SecretsError
from vestibule.sdk.source import X509Source
from vestibule.sdk.tls import client_context

WAIT: Final = 10.0
"""Seconds that a question for something newer stays open: less than proxies let a request take."""

PAUSE_FIRST: Final = 0.5
PAUSE_LONGEST: Final = 30.0


class AsyncSecrets:
    """Reads secrets for as long as the block is entered.

    ``address`` as for ``SecretsAddress.find``.  Where that is https, the SVID comes from ``source``, or from an
    ``X509Source`` of its own.
    """

    def __init__(
        self, address: str | None = None, *, source: Holder | None = None, clock: Clock | None = None
    ) -> None:
        """Raises: VST2406."""
        self.address = SecretsAddress.find(address)
        self._source = source
        self._clock = clock or SystemClock()
        self._context: ssl.SSLContext | None = None
        self._http = Http(self.address, lambda: self._context)
        self._entered = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Raises: VST2402 where an SVID is needed and none comes."""
        if self.address.shows_svid:
            source = self._source
            if source is None:
                source = await self._entered.enter_async_context(X509Source())
            self._context = client_context(source, secret_manager_of(source))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()
        await self._entered.aclose()

    async def read(self, path: str, version: int = 0) -> Secret:
        """The newest version of a secret, or one by its number.

        Raises: NoSuchSecretError, SecretDeniedError, SecretsError (VST2407: no answer, VST5000: sealed).
        """
        return answers.secret_of(await self.ask(answers.read(path, version)), path)

    async def write(self, path: str, data: Mapping[str, Any], *, expected: int | None = None) -> int:
        """Keep a new version, and return its number; ``expected`` is the newest there must be now (0: none).

        Raises: SecretConflictError, and as ``read``.
        """
        return answers.version_of(await self.ask(answers.write(path, data, expected)), path)

    async def list(self, path: str = "") -> list[str]:
        """The names in a folder; folders among them end with a slash.  Raises: as ``read``."""
        return answers.names_of(await self.ask(answers.names(path)), path)

    async def watch(self, path: str, after: int = 0) -> AsyncIterator[Secret]:
        """The newest version, and each newer one as soon as it is there; a slow reader misses what was replaced.

        Goes on while the secret manager is away or sealed.  ``after`` is a version that is known already.
        Raises: SecretDeniedError, also later, when a rule is taken back.
        """
        known, pause = after, PAUSE_FIRST
        while True:
            try:
                reply = await self.ask(answers.read_newer(path, known, WAIT))
                newer, known_now = answers.newer_of(reply, path, known)
            except SecretsError as error:
                if error.code.kind not in (Kind.UNAVAILABLE, Kind.EXHAUSTED, Kind.INTERNAL):
                    raise
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load, hides nothing
                pause = min(pause * 2, PAUSE_LONGEST)
                continue
            known, pause = known_now, PAUSE_FIRST
            if newer is not None:
                yield newer

    async def fetch_credential(self, path: str) -> Credential:
        """A new credential of a role, such as ``database/creds/payments``, that nobody renews.  Raises: as ``read``."""
        reply = await self.ask(answers.credential(path))
        return answers.credential_of(reply, path, self._clock.now())

    async def renew(self, credential: Credential) -> Credential:
        """The same, for longer.  Raises: as ``read``; VST55nn for a lease that has ended."""
        reply = await self.ask(answers.renew(credential.lease_id))
        return answers.renewed(reply, credential, self._clock.now())

    async def revoke(self, credential: Credential) -> None:
        """End it now.  Raises: as ``read``."""
        answers.checked(await self.ask(answers.revoke(credential.lease_id)), credential.path)

    def credential(self, path: str) -> KeptCredential:
        """A credential that is renewed before its end, and replaced when it cannot be, while its block is entered."""
        return KeptCredential(self, path, self._clock)

    async def ask(self, ask: Ask) -> Reply:
        """Any request of the API, its answer as it comes.  Raises: VST2407."""
        try:
            answer = await self._http.ask(_request(ask))
        except HttpFailedError as error:
            raise SecretsError(
                SECRETS_UNREACHABLE, f"the secret manager at {self.address} {error}"
            ) from error
        return answers.reply_of(answer.status, answer.body)


def _request(ask: Ask) -> HttpRequest:
    headers = {"x-vault-request": "true"} | ({"content-type": "application/json"} if ask.body else {})
    return HttpRequest(
        method=ask.method, target=ask.target, headers=headers, body=ask.body, patience=ask.patience
    )
