"""The front of the server's own services: the Envoy, the socket behind it, and what it is served its SVID by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vestibule.doors.platform.sds import Credentials, PlatformSdsDoor
from vestibule.doors.platform.serving import GuardedHttp
from vestibule.envoy.platform import PlatformBootstrap
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
    """Where it is.  ``directory`` becomes private; ``svid_seconds`` the life of an SVID, ``drain`` in seconds.

    At ``token_listen``, if anywhere, no certificate is asked for; with ``web`` another than the SVID is shown there.
    """

    trust_domain: TrustDomain
    listen: Address
    directory: Path
    binary: Path
    log: Path
    svid_seconds: float
    drain: float = 5.0
    token_listen: Address | None = None
    web: bool = False


class Front:
    """``run`` serves ``app`` at the plan's address, to whoever has an SVID (and see ``token_listen``).

    It is used in ``with``, which makes the sockets and takes the directory.
    """

    def __init__(
        self,
        plan: FrontPlan,
        app: Any,
        credentials: Callable[[], AsyncIterator[Credentials]],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        directory = plan.directory
        self._app = app
        self._ledger = Ledger(directory / _LEDGER)
        self.bootstrap = PlatformBootstrap(
            trust_domain=plan.trust_domain,
            listen=plan.listen,
            server_socket=directory / "sds.sock",
            app_socket=directory / "app.sock",
            admin_socket=directory / "admin.sock",
            connection_seconds=max(plan.svid_seconds * _AGE, 0.1),
            token_listen=plan.token_listen,
            web=plan.web,
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
        self.http: GuardedHttp | None = None
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
            app = listen_unix(self.bootstrap.app_socket, PRIVATE)
            stack.callback(app.close)
            self.http = GuardedHttp(self._app, app.sock, self.envoy.is_ours)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    async def run(self) -> None:
        """Serve until cancelled, or ``stop``.  Raises: VST7000, VST7001, VST7002 when Envoy never comes up."""
        assert self.http is not None
        assert self._server_socket is not None
        await self._sds.listen(self._server_socket.sock)
        serving = asyncio.create_task(self.http.run(), name="platform-http")
        try:
            await self.envoy.run()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await self._sds.close()

    async def stop(self) -> None:
        """Finish what is in flight, and end."""
        await self.envoy.stop()
