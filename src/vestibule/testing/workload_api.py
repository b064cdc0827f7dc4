"""A Workload API that says what a test tells it to: SVIDs are replaced at will, instead of running out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from vestibule.agent.cache import Bundles
from vestibule.agent.codes import NO_IDENTITY
from vestibule.agent.workloads import Identities
from vestibule.calls.workload_api import SERVICE
from vestibule.doors.workload_api import jwt_bundles_response, jwt_response, svid_response
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.spiffe import TrustBundle, X509Svid
from vestibule.testing.authority import TestAuthority
from vestibule.wire.gen.spiffe import workload_pb2 as wire

HOUR = timedelta(hours=1)


class ScriptedWorkloadApi:
    """Says the same to everybody; before anything was issued, that there is no identity."""

    def __init__(self, authority: TestAuthority | None = None) -> None:
        self.authority = authority or TestAuthority("example.org")
        self.svids: tuple[X509Svid, ...] = ()
        self.problem: VestibuleError | None = NO_IDENTITY.error("no identity issued")
        self.token_ttl = HOUR
        self.tokens = 0
        self._federated: tuple[TrustBundle, ...] = ()
        self._said: wire.X509SVIDResponse | None = None
        self._news = asyncio.Event()

    def issue(
        self,
        *paths: str,
        ttl: timedelta = HOUR,
        hints: Sequence[str] = (),
        dns_names: Sequence[str] = (),
        federated: Sequence[TrustBundle] = (),
    ) -> X509Svid:
        """New SVIDs, with new keys, in place of what was there; the first of them."""
        made = [self.authority.svid(path, ttl=ttl, dns_names=dns_names) for path in paths]
        hints = [*hints, *[""] * (len(made) - len(hints))]
        self.give(
            *(replace(svid, hint=hint) for svid, hint in zip(made, hints, strict=True)), federated=federated
        )
        return self.svids[0]

    def give(self, *svids: X509Svid, federated: Sequence[TrustBundle] = ()) -> None:
        """These SVIDs."""
        self.svids, self._federated, self.problem = svids, tuple(federated), None
        identities = Identities(svids=svids, bundle=self.authority.bundle, federated=tuple(federated))
        self._said = svid_response(identities)
        self._tell()

    def withdraw(self, problem: VestibuleError | None = None) -> None:
        """Take everything away, or fail otherwise."""
        self.problem = problem or NO_IDENTITY.error("no identity issued")
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def fetch_x509_svid(self, stream: Stream) -> None:
        """``FetchX509SVID``."""
        await stream.recv_message()
        while True:
            news = self._news
            self._refuse()
            assert self._said is not None
            await stream.send_message(self._said)
            await news.wait()

    async def fetch_jwt_svid(self, stream: Stream) -> None:
        """``FetchJWTSVID``."""
        request = await stream.recv_message()
        self._refuse()
        self.tokens += 1
        wanted = [svid for svid in self.svids if request.spiffe_id in ("", str(svid.spiffe_id))]
        tokens = [
            replace(
                self.authority.jwt_svid(svid.spiffe_id, *request.audience, ttl=self.token_ttl), hint=svid.hint
            )
            for svid in wanted
        ]
        await stream.send_message(jwt_response(tokens))

    async def fetch_jwt_bundles(self, stream: Stream) -> None:
        """``FetchJWTBundles``."""
        await stream.recv_message()
        while True:
            news = self._news
            self._refuse()
            bundles = Bundles(own=self.authority.jwt_bundle, federated=self._federated)
            await stream.send_message(jwt_bundles_response(bundles))
            await news.wait()

    def _refuse(self) -> None:
        if self.problem is not None:
            raise self.problem


@asynccontextmanager
async def scripted_workload_api(
    path: Path, authority: TestAuthority | None = None
) -> AsyncIterator[ScriptedWorkloadApi]:
    """It, served on a Unix socket."""
    api = ScriptedWorkloadApi(authority)
    listener = listen_unix(path, PUBLIC)
    server = GrpcServer([serve(SERVICE, api)])
    await server.listen(listener.sock)
    try:
        yield api
    finally:
        await server.drain(0.1)
        await server.close()
        listener.close()
