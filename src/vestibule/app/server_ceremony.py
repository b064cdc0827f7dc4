"""A server whose intermediate comes from a ceremony: the wait for the first one, and what is measured of it."""

from __future__ import annotations

import logging
import socket
from typing import Final

from vestibule import __version__
from vestibule.clock import Clock
from vestibule.doors.ceremony_api import CeremonyDoor
from vestibule.doors.health import HealthServer, health_app
from vestibule.identity.beacon import first
from vestibule.identity.ca.ceremony import CeremonyUpstream
from vestibule.net.grpc_server import GrpcServer
from vestibule.processes import Shutdown
from vestibule.records import AuthorityState
from vestibule.store import Store
from vestibule.telemetry.metrics import Metrics

ANSWER_SECONDS: Final = 5.0

_log = logging.getLogger(__name__)


class StoppedWaiting(Exception):  # noqa: N818 - nothing went wrong
    """The server was told to end while it waited for its first intermediate."""


async def can_sign(store: Store, clock: Clock, owner: str) -> bool:
    """Whether an authority of this server's (``owner``) earlier run signs still, so that nobody has to wait."""
    now = clock.now()
    own = [each for each in await store.authorities.all() if each.owner == owner]
    return any(each.state is AuthorityState.ACTIVE and each.not_after > now for each in own)


class FirstIntermediate:
    """Keeps the operator's socket and the health pages open while there is nothing to issue with."""

    def __init__(self, local: socket.socket, health: socket.socket | None, shutdown: Shutdown) -> None:
        self._local = local
        self._health = health
        self._shutdown = shutdown
        self._server: GrpcServer | None = None

    async def wait(self, ceremony: CeremonyUpstream) -> None:
        """Return when the intermediate is there.  Raises: StoppedWaiting, errors of what brings it."""
        _log.warning("waiting for the ceremony: nothing is issued before the root has signed the request")
        # Nobody but the server's own user can open this socket, and nothing but the ceremony is behind it yet.
        self._server = GrpcServer([CeremonyDoor(ceremony).servable()])
        await self._server.listen(
            self._local.dup()
        )  # the server that comes next listens on the socket itself
        waits = [ceremony.issuing(), ceremony.run(), self._shutdown.drain.wait()]
        if self._health is not None:
            waits.append(self._pages(ceremony, self._health))
        await first(*waits)
        await self._server.drain(ANSWER_SECONDS)
        if self._shutdown.drain.is_set():
            raise StoppedWaiting

    async def aclose(self) -> None:
        """Close what is left of the connections: not earlier, for one of them has just brought the answer."""
        if self._server is not None:
            await self._server.close()

    async def _pages(self, ceremony: CeremonyUpstream, sock: socket.socket) -> None:
        async def waiting() -> str | None:
            return ceremony.warning() or None

        metrics = Metrics("server", __version__)
        ceremony_metrics(metrics, ceremony)
        await HealthServer(health_app({"ceremony": waiting}, metrics), sock.dup()).run()


def ceremony_metrics(metrics: Metrics, ceremony: CeremonyUpstream) -> None:
    """What to raise an alarm by."""
    metrics.gauge(
        "intermediate_expires_timestamp_seconds",
        "When the intermediate that the offline root signed ends; 0 while there is none.",
        lambda: ends.timestamp() if (ends := ceremony.ends()) else 0.0,
    )
    metrics.gauge(
        "ceremony_request_waiting",
        "1 while a request for an intermediate waits for the offline root.",
        lambda: float(ceremony.is_waiting()),
    )
