"""What proxies are told of the mesh's own token service: its address and keys, and which of its tokens are revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from vestibule.envoy.revoked_tokens import MOST, Entry, RefusedTokens, slot
from vestibule.intent import Intent
from vestibule.intent.model import IssuerKind
from vestibule.xds.resources import Resource

_log = logging.getLogger(__name__)


class TokenKeySource(Protocol):
    """The public keys by which our tokens are verified."""

    @property
    def now(self) -> str:
        """As a JWK set; empty while there are none."""
        ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        ...


class RevokedTokenSource(Protocol):
    """The tokens that count no longer."""

    @property
    def now(self) -> Sequence[Entry]: ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int:
        """As above."""
        ...


class NoKeys:
    """Where there is no token service."""

    now = ""
    revision = 0

    async def changed(self, since: int) -> int:
        """Never."""
        await asyncio.Event().wait()
        return since


class NoneRevoked:
    """Likewise."""

    now: Sequence[Entry] = ()
    revision = 0

    async def changed(self, since: int) -> int:
        """Never."""
        await asyncio.Event().wait()
        return since


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTokens:
    """``issuer`` is what its tokens say as ``iss``; empty where there is no token service."""

    issuer: str = ""
    keys: TokenKeySource = field(default_factory=NoKeys)
    revoked: RevokedTokenSource = field(default_factory=NoneRevoked)


class RevokedSlots:
    """What fills proxies' slots for revoked tokens: the same for all of them, whatever intents call the service.

    Names that were in force once are kept: a proxy that could not be given what followed still uses them.
    """

    def __init__(self, service: OwnTokens) -> None:
        self._service = service
        self._names: frozenset[str] = frozenset()
        self._of: Sequence[Entry] | None = None
        self._refused = RefusedTokens()

    def of(self, intents: Iterable[Intent]) -> tuple[Resource, ...]:
        """By what is revoked now; none where no intent ever spoke of the service."""
        self._names |= {name for intent in intents if (name := service_name(intent))}
        if not self._names:
            return ()
        if (entries := self._service.revoked.now) is not self._of:
            self._of, self._refused = entries, RefusedTokens.of(entries)
            if self._refused.every is not None:
                _log.warning(
                    "more than %d tokens, clients or subjects are revoked: proxies refuse all tokens from before the "
                    "newest of these revocations",
                    MOST,
                )
        names = tuple(sorted(self._names))
        return (slot(self._refused, names, self._service.issuer, self._service.keys.now),)


def service_name(intent: Intent) -> str:
    """What an intent calls the token service; empty if it does not speak of it."""
    issuers = intent.mesh.issuers.values()
    return next((each.name for each in issuers if each.kind is IssuerKind.TOKENS), "")
