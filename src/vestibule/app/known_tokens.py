"""What proxies are told of the token service, also before its secret manager is open: what was known last.

Neither keys nor revocations are secrets.  Without this, proxies that come to a server that has just started would be
told of no key, and refuse all tokens, until the secret manager is unsealed; and what was revoked would count again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from vestibule.keys.files import read_private, write_private, written
from vestibule.mesh.own_tokens import OwnTokens
from vestibule.tokens.ports import RevokedBy, RevokedSource, RevokedTokens, TokenKeySource

FILE: Final = "tokens-known.json"
LARGEST: Final = 16 * 1024 * 1024
RETRY_SECONDS: Final = 5.0
_log = logging.getLogger(__name__)


class KnownTokens:
    """``own`` is what a mesh is given; ``connect`` it to the service once there is one; ``run`` keeps it in a file."""

    def __init__(self, issuer: str, path: Path) -> None:
        self._path = path
        keys, revoked = _kept(path)
        self._keys, self._revoked = _Keys(keys), _Revoked(revoked)
        self.own = OwnTokens(issuer=issuer, keys=self._keys, revoked=self._revoked)

    def connect(self, keys: TokenKeySource, revoked: RevokedSource) -> None:
        """From now on what these say counts."""
        self._keys.follow(keys)
        self._revoked.follow(revoked)

    async def run(self) -> None:
        """Keep what is known; never ends by itself."""
        while True:
            seen = self._keys.revision, self._revoked.revision
            try:
                await written(partial(write_private, self._path, self._document()))
            except OSError as error:
                _log.error("cannot write %s: %s", self._path, error.strerror)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            waiting = [
                asyncio.ensure_future(self._keys.changed(seen[0])),
                asyncio.ensure_future(self._revoked.changed(seen[1])),
            ]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waiting:
                    each.cancel()

    def _document(self) -> bytes:
        revoked = [
            {
                "by": each.by.value,
                "value": each.value,
                "before": each.before.isoformat(),
                "until": each.until.isoformat(),
            }
            for each in self._revoked.now
        ]
        return json.dumps({"keys": self._keys.now, "revoked": revoked}).encode()


class _Followed:
    """Revisions of what is followed once it is there."""

    def __init__(self) -> None:
        self._source: TokenKeySource | RevokedSource | None = None
        self._there = asyncio.Event()

    @property
    def revision(self) -> int:
        return -1 if self._source is None else self._source.revision

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        await self._there.wait()
        assert self._source is not None
        return self.revision if since == -1 else await self._source.changed(since)


class _Keys(_Followed):
    def __init__(self, kept: str) -> None:
        super().__init__()
        self._kept = kept
        self._of: TokenKeySource | None = None

    def follow(self, source: TokenKeySource) -> None:
        self._source = self._of = source
        self._there.set()

    @property
    def now(self) -> str:
        """What the service says; before it can say anything, what was known last."""
        return (self._of.now if self._of is not None else "") or self._kept


class _Revoked(_Followed):
    def __init__(self, kept: tuple[RevokedTokens, ...]) -> None:
        super().__init__()
        self._kept = kept
        self._of: RevokedSource | None = None
        self._seen: tuple[RevokedTokens, ...] = ()
        self._all = kept

    def follow(self, source: RevokedSource) -> None:
        self._source = self._of = source
        self._there.set()

    @property
    def now(self) -> tuple[RevokedTokens, ...]:
        """What the service says, and what was known last: nothing is taken back.  It is the same object as long."""
        found = self._of.now if self._of is not None else ()
        if found is not self._seen:
            self._seen = found
            self._all = (*found, *_still(self._kept, datetime.now(UTC)))
        return self._all


def _still(kept: Sequence[RevokedTokens], now: datetime) -> tuple[RevokedTokens, ...]:
    return tuple(each for each in kept if now < each.until)


def _kept(path: Path) -> tuple[str, tuple[RevokedTokens, ...]]:
    """What is in the file; nothing, if there is none."""
    with suppress(FileNotFoundError):
        try:
            document = json.loads(read_private(path, LARGEST))
            revoked = tuple(map(_entry, document["revoked"]))
            return str(document["keys"]), _still(revoked, datetime.now(UTC))
        except (PermissionError, ValueError, KeyError, TypeError) as error:
            _log.error("cannot read %s, and go on without: %s", path, error)
    return "", ()


def _entry(document: dict[str, Any]) -> RevokedTokens:
    return RevokedTokens(
        by=RevokedBy(document["by"]),
        value=document["value"],
        before=datetime.fromisoformat(document["before"]),
        until=datetime.fromisoformat(document["until"]),
    )
