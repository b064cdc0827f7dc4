"""Following what is revoked (``vestibule.node.v1.Revocations``), at a server or at an agent's public socket."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from grpclib.client import Channel

from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.spiffe import Reason, Revocation
from vestibule.spiffe.revocations import parse_target
from vestibule.wire.gen.vestibule.node.v1 import revocations_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Revocations"]
_LATEST: Final = 253402300799
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Update:
    """Changes, with which the list is at ``version``; ``more`` of the same change follow at once."""

    version: int
    changes: tuple[Revocation, ...]
    more: bool


class RevocationFeed:
    """A client on a channel to whoever has the list."""

    def __init__(self, channel: Channel) -> None:
        self._client = Client(channel, SERVICE)

    async def watch(self, since: int) -> AsyncGenerator[Update, None]:
        """What changed after that version, at once, and then every change.

        Raises: the other side's errors, VST2300.
        """
        async with self._client.stream("Watch") as stream:
            await stream.send_message(wire.WatchRevocationsRequest(since=since), end=True)
            while (update := await stream.recv_message()) is not None:
                changes = tuple(_readable(update.changes))
                yield Update(version=update.version, changes=changes, more=update.more)


def _readable(changes: Iterable[wire.RevocationChange]) -> Iterator[Revocation]:
    """Those that this version understands.  The others are reported: a newer server may know more kinds."""
    for each in changes:
        try:
            yield from_wire(each)
        except (VestibuleError, ValueError) as error:
            _log.error("a revocation is not understood and not enforced here: %s", error)


def from_wire(each: wire.RevocationChange) -> Revocation:
    """Raises: VST1403, VST1400, ValueError for what is no revocation."""
    return Revocation(
        target=parse_target(each.kind, each.name, _instant(each.issued_before)),
        at=_instant(each.at) or datetime.fromtimestamp(0, UTC),
        reason=_reason(each.reason),
        expires_at=_instant(each.expires_at),
        version=each.version,
    )


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError:
        return Reason.UNSPECIFIED  # why it is revoked does not change that it is


def _instant(seconds: int) -> datetime | None:
    return datetime.fromtimestamp(min(seconds, _LATEST), UTC) if seconds > 0 else None
