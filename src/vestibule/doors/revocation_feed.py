"""``vestibule.node.v1.Revocations``: what is revoked, told at once to whoever watches.

The server serves it to agents, and an agent to the processes on its node that have an identity.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from vestibule.net.grpc import Servable, Stream, serve
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity
from vestibule.wire.gen.vestibule.node.v1 import revocations_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Revocations"]
PAGE: Final = 2000
"""Changes in one message: some hundred kilobytes."""


class Source(Protocol):
    """Where the list is."""

    @property
    def now(self) -> Revocations: ...

    @property
    def revision(self) -> int: ...

    async def changed(self, since: int) -> int: ...

    def hear(self, version: int) -> None:
        """Somebody has a version that this list never had."""
        ...


async def _everybody(_stream: Stream) -> None:
    """Who may call was decided before."""


class RevocationFeedDoor:
    """Follows a list for each watcher; ``admit`` refuses, by raising, who may not watch."""

    def __init__(self, source: Source, admit: Callable[[Stream], Awaitable[None]] = _everybody) -> None:
        self._source = source
        self._admit = admit

    def servable(self) -> Servable:
        """The service; on the server not yet guarded."""
        return serve(SERVICE, self)

    async def watch(self, stream: Stream) -> None:
        """Watch.

        A watcher that knows more than there is (this server's database was restored) is told everything: what it
        lacks may have any version up to its own.
        """
        await self._admit(stream)
        request = await stream.recv_message()
        known = request.since if request is not None else 0
        if known > self._source.now.version:
            self._source.hear(known)
            known = 0
        told = False
        while True:
            seen, now = self._source.revision, self._source.now
            changes = now.since(known)
            if changes or not told:
                parts = pages(changes, PAGE)
                for number, part in enumerate(parts, 1):
                    last = number == len(parts)
                    version = now.version if last else part[-1].version
                    update = wire.RevocationsUpdate(version=version, more=not last)
                    update.changes.extend(map(to_wire, part))
                    await stream.send_message(update)
                known, told = now.version, True
            await self._source.changed(seen)


def pages(changes: Sequence[Revocation], size: int) -> Sequence[Sequence[Revocation]]:
    """``changes`` in parts of at most ``size``; one empty part if there are none."""
    return [changes[start : start + size] for start in range(0, len(changes), size)] or [()]


def to_wire(each: Revocation) -> wire.RevocationChange:
    """A revocation without its note and its actor, which are nobody's business but the operator's."""
    target = each.target
    before = target.issued_before if isinstance(target, RevokedIdentity) else None
    return wire.RevocationChange(
        kind=target.kind,
        name=target.name,
        issued_before=_seconds(before),
        at=int(each.at.timestamp()),
        reason=each.reason.value,
        expires_at=_seconds(each.expires_at),
        version=each.version,
    )


def _seconds(instant: datetime | None) -> int:
    return 0 if instant is None else math.ceil(instant.timestamp())
