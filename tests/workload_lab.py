"""A Workload API of the tests' own, by the published protocol: it says who somebody is, and renews that when told to.

Certificates last for an hour unless told otherwise; they are *replaced* by tests, not waited for.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from vestibule.agent.codes import NO_IDENTITY
from vestibule.agent.workloads import Identities
from vestibule.calls.workload_api import SERVICE
from vestibule.doors.workload_api import svid_response
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, UnixListener, listen_unix
from vestibule.spiffe import SpiffeId, TrustBundle
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spiffe import workload_pb2 as wire

HOUR = timedelta(hours=1)


class Endpoint:
    """The Workload API of one workload: ``SPIFFE_ENDPOINT_SOCKET`` is ``address``."""

    def __init__(self, path: Path, authority: TestAuthority, who: str) -> None:
        self.address = f"unix://{path}"
        self.spiffe_id = SpiffeId.of(authority.trust_domain, who)
        self.issued = 0
        self._path = path
        self._authority = authority
        self._said: wire.X509SVIDResponse | None = None
        self._news = asyncio.Event()
        self._listener: UnixListener | None = None
        self._server: GrpcServer | None = None
        self.issue()

    def issue(
        self, *, ttl: timedelta = HOUR, bundle: TrustBundle | None = None, dns_names: tuple[str, ...] = ()
    ) -> None:
        """A new certificate for everybody who asks, now and on open streams."""
        svid = self._authority.svid(self.spiffe_id, ttl=ttl, dns_names=dns_names)
        self.issued += 1
        self._say(svid_response(Identities(svids=(svid,), bundle=bundle or self._authority.bundle)))

    def withdraw(self) -> None:
        """There is no identity any more."""
        self._say(None)

    def _say(self, what: wire.X509SVIDResponse | None) -> None:
        self._said = what
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def fetch_x509_svid(self, stream: Stream) -> None:
        await stream.recv_message()
        while True:
            news = self._news
            if self._said is None:
                raise NO_IDENTITY.error("the test withdrew it")
            await stream.send_message(self._said)
            await news.wait()

    async def start(self) -> None:
        self._listener = listen_unix(self._path, PUBLIC)
        self._server = GrpcServer([serve(SERVICE, self)])
        await self._server.listen(self._listener.sock)

    async def stop(self) -> None:
        if self._server is not None and self._listener is not None:
            await self._server.drain(1)
            await self._server.close()
            self._listener.close()


@asynccontextmanager
async def endpoints(*who: str, authority: TestAuthority | None = None) -> AsyncIterator[list[Endpoint]]:
    """Workload APIs of so many workloads of one trust domain; paths such as ``/orders``."""
    issuer = authority or TestAuthority("example.org")
    directory = Path(tempfile.mkdtemp(prefix="vw", dir="/tmp"))
    made = [Endpoint(directory / f"{number}.sock", issuer, each) for number, each in enumerate(who)]
    try:
        for each in made:
            await each.start()
        yield made
    finally:
        for each in made:
            await each.stop()
        shutil.rmtree(directory, ignore_errors=True)
