"""Who has asked for tokens: of this server, since it started."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.spiffe import SpiffeId

MOST: Final = 4096
"""Clients that are remembered: those that asked last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientUse:
    """What a client has had from this server since it started."""

    client: SpiffeId
    tokens: int
    refusals: int
    last: datetime


class _Count:
    """Of one client.  Entered for each request, which ends with a token or with a refusal."""

    __slots__ = ("last", "refusals", "tokens")

    def __init__(self, last: datetime) -> None:
        self.tokens = 0
        self.refusals = 0
        self.last = last

    def __enter__(self) -> None:
        """A request begins."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """It ends."""
        if error is None:
            self.tokens += 1
        elif isinstance(error, VestibuleError):
            self.refusals += 1


class ClientUses:
    """Counts what clients ask for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: OrderedDict[SpiffeId, _Count] = OrderedDict()

    def counting(self, client: SpiffeId) -> _Count:
        """To be entered for one request."""
        count = self._counts.get(client)
        if count is None:
            count = self._counts[client] = _Count(self._clock.now())
            if len(self._counts) > MOST:
                self._counts.popitem(last=False)
        else:
            self._counts.move_to_end(client)
            count.last = self._clock.now()
        return count

    def listed(self) -> tuple[ClientUse, ...]:
        """The last one first."""
        return tuple(
            ClientUse(client=client, tokens=each.tokens, refusals=each.refusals, last=each.last)
            for client, each in reversed(self._counts.items())
        )
