"""The front of the server's own services: the Envoy, the sockets behind it, and what it is served its SVIDs by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vestibule.doors.platform.sds import Credentials, PlatformSdsDoor
from vestibule.doors.platform.serving import GuardedHttp
from vestibule.envoy.platform import PlatformBootstrap, PlatformService
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PRIVATE, UnixListener, check_path, listen_unix
from vestibule.processes import Ledger, private_directory
from vestibule.proxy.platform import PlatformEnvoy, PlatformPlan
from vestibule.records import Address
from vestibule.spiffe import TrustDomain

_LEDGER: Final = "processes"
_AGE: Final = 0.4
"""How long a connection is kept, in lives of an SVID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPlan:
    """Where it is.  ``directory`` becomes private; ``svid_seconds`` the life of an SVID, ``drain`` in seconds."""

    trust_domain: TrustDomain
    directory: Path
    binary: Path
    log: Path
    svid_seconds: float
    drain: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A service behind the front: ``app`` answers what is asked at ``listen``.

    At ``open_listen``, if anywhere, no certificate is asked for; with ``web`` another than the SVID is shown there.
    """

    name: str
    listen: Address
    app: Any
    replies: Mapping[str, Any]
    open_listen: Address | None = None
    web: bool = False
    custom_methods: bool = False

    def service(self, directory: Path) -> PlatformService:
        """As Envoy is told of it, with its private socket in ``directory``."""
        return PlatformService(
            name=self.name,
            listen=self.listen,
            app_socket=directory / f"{self.name}.sock",
            replies=self.replies,
            open_listen=self.open_listen,
            web=self.web,
            custom_methods=self.custom_methods,
        )


class Front:
    """``run`` serves the houses at their addresses, to whoever has an SVID (and see ``House.open_listen``).

    It is used in ``with``, which makes the sockets and takes the directory.
    """

    def __init__(
        self,
        plan: FrontPlan,
        houses: Sequence[House],
        credentials: Callable[[], AsyncIterator[Credentials]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        directory = plan.directory
        self._houses = tuple(houses)
        self._ledger = Ledger(directory / _LEDGER)
        self.bootstrap = PlatformBootstrap(
            trust_domain=plan.trust_domain,
            services=tuple(each.service(directory) for each in houses),
            server_socket=directory / "sds.sock",
            admin_socket=directory / "admin.sock",
            connection_seconds=max(plan.svid_seconds * _AGE, 0.1),
        )
        self.envoy = PlatformEnvoy(
            PlatformPlan(
                binary=plan.binary,
                directory=directory,
                bootstrap=self.bootstrap,
                log=plan.log,
                drain=plan.drain,
            ),
            self._ledger,
            on_change=on_change,
        )
        self._sds = GrpcServer([PlatformSdsDoor(credentials, self.envoy.is_ours).servable()])
        self._open = ExitStack()
        self._http: list[GuardedHttp] = []
        self._server_socket: UnixListener | None = None

    def __enter__(self) -> Self:
        """Raises: VST2310, VST2311 (sockets), VST7003, VST7004, VST7006 (the directory)."""
        with ExitStack() as stack:
            private_directory(self.plan.directory)
            check_path(self.bootstrap.admin_socket)
            self._ledger.open()
            stack.callback(self._ledger.close, remove=True)
            self._server_socket = listen_unix(self.bootstrap.server_socket, PRIVATE)
            stack.callback(self._server_socket.close)
            self._http = [stack.enter_context(self._guarded(each)) for each in self._houses]
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @contextmanager
    def _guarded(self, house: House) -> Iterator[GuardedHttp]:
        listener = listen_unix(house.service(self.plan.directory).app_socket, PRIVATE)
        with closing(listener):
            yield GuardedHttp(house.app, listener.sock, self.envoy.is_ours)

    @property
    def refused(self) -> int:
        """How many connections of other processes were cut off."""
        return sum(each.refused for each in self._http)

    async def run(self) -> None:
        """Serve until cancelled, or ``stop``.  Raises: VST7000, VST7001, VST7002 when Envoy never comes up."""
        assert self._server_socket is not None
        await self._sds.listen(self._server_socket.sock)
        serving = [asyncio.create_task(each.run(), name="platform-http") for each in self._http]
        try:
            await self.envoy.run()
        finally:
            for each in serving:
                each.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            await self._sds.close()

    async def stop(self) -> None:
        """Finish what is in flight, and end."""
        await self.envoy.stop()
