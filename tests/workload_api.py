"""A Workload API whose every word is scripted, in the event loop of a test or in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from vestibule.agent.cache import Bundles
from vestibule.agent.workloads import Identities
from vestibule.calls.workload_api import HEADER, SERVICE
from vestibule.doors.revocation_feed import SERVICE as REVOCATIONS
from vestibule.doors.revocation_feed import to_wire
from vestibule.doors.workload_api import jwt_bundles_response, jwt_response, svid_response
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.sdk.threads import LoopThread
from vestibule.spiffe import Revocation, Revocations, TrustBundle, X509Svid
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spiffe import workload_pb2 as wire
from vestibule.wire.gen.vestibule.node.v1 import revocations_pb2 as revocations_wire

T = TypeVar("T")


class News:
    """Wakes all who wait."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    def waiter(self) -> asyncio.Event:
        return self._event


class WorkloadApi:
    """Says what it is told to, to everybody: responses, or an error that ends the stream."""

    def __init__(self, authority: TestAuthority) -> None:
        self.authority = authority
        self.said: wire.X509SVIDResponse | VestibuleError | None = None
        self.jwt_said: wire.JWTBundlesResponse | VestibuleError | None = None
        self.jwt_id = "/orders"
        self.jwt_ttl = timedelta(minutes=5)
        self.jwt_error: VestibuleError | None = None
        self.jwt_audiences: list[list[str]] = []
        self.calls = 0
        self._news = News()

    def say(self, what: wire.X509SVIDResponse | VestibuleError) -> None:
        self.said = what
        self._news.tell()

    def say_jwt(self, what: wire.JWTBundlesResponse | VestibuleError) -> None:
        self.jwt_said = what
        self._news.tell()

    def issue(
        self,
        *svids: str,
        ttl: timedelta = timedelta(hours=1),
        hint: str = "",
        federated: tuple[TrustBundle, ...] = (),
    ) -> tuple[X509Svid, ...]:
        """Say that the workload has these identities from now on, with certificates that are new."""
        issued = tuple(replace(self.authority.svid(each, ttl=ttl), hint=hint) for each in svids)
        self.show(*issued, federated=federated)
        return issued

    def show(self, *svids: X509Svid, federated: tuple[TrustBundle, ...] = ()) -> None:
        """Say that the workload has these SVIDs."""
        self.say(svid_response(Identities(svids=svids, bundle=self.authority.bundle, federated=federated)))

    def trust_tokens(self, *federated: TrustBundle) -> None:
        """Say with which keys tokens are verified."""
        self.say_jwt(jwt_bundles_response(Bundles(own=self.authority.jwt_bundle, federated=federated)))

    async def fetch_x509_svid(self, stream: Stream) -> None:
        self.calls += 1
        await self._greeted(stream)
        while True:
            news = self._news.waiter()
            if isinstance(self.said, VestibuleError):
                raise self.said
            if self.said is not None:
                await stream.send_message(self.said)
            await news.wait()

    async def fetch_jwt_bundles(self, stream: Stream) -> None:
        await self._greeted(stream)
        while True:
            news = self._news.waiter()
            if isinstance(self.jwt_said, VestibuleError):
                raise self.jwt_said
            if self.jwt_said is not None:
                await stream.send_message(self.jwt_said)
            await news.wait()

    async def fetch_jwt_svid(self, stream: Stream) -> None:
        request = await self._greeted(stream)
        self.jwt_audiences.append(list(request.audience))
        if self.jwt_error is not None:
            raise self.jwt_error
        spiffe_id = request.spiffe_id or self.jwt_id
        svid = self.authority.jwt_svid(spiffe_id, *request.audience, ttl=self.jwt_ttl)
        await stream.send_message(jwt_response([svid]))

    async def _greeted(self, stream: Stream) -> Any:
        assert stream.metadata["workload.spiffe.io"] == HEADER["workload.spiffe.io"]
        return await stream.recv_message()


class RevocationList:
    """What a Vestibule agent tells beside the Workload API."""

    def __init__(self) -> None:
        self.now = Revocations()
        self._news = News()

    def revoke(self, *revocations: Revocation) -> None:
        version = self.now.version + 1
        self.now = Revocations(
            version=version,
            entries=(*self.now.entries, *(replace(each, version=version) for each in revocations)),
        )
        self._news.tell()

    async def watch(self, stream: Stream) -> None:
        await stream.recv_message()
        while True:
            news = self._news.waiter()
            update = revocations_wire.RevocationsUpdate(version=self.now.version)
            update.changes.extend(map(to_wire, self.now.entries))
            await stream.send_message(update)
            await news.wait()


class Endpoint:
    """A Workload API at a socket, which can be stopped and started."""

    def __init__(self, path: Path, authority: TestAuthority, *, revocations: bool = False) -> None:
        self.path = path
        self.address = f"unix://{path}"
        self.api = WorkloadApi(authority)
        self.revocations = RevocationList() if revocations else None
        self._server: GrpcServer | None = None

    async def start(self) -> None:
        self._listener = listen_unix(self.path, PUBLIC)
        services = [serve(SERVICE, self.api)]
        if self.revocations is not None:
            services.append(serve(REVOCATIONS, self.revocations))
        self._server = GrpcServer(services)
        await self._server.listen(self._listener.sock)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.drain(1)
            await self._server.close()
            self._listener.close()
            self._server = None


class Background:
    """An endpoint in a thread of its own, for tests of code that blocks."""

    def __init__(self, endpoint: Endpoint, thread: LoopThread) -> None:
        self.endpoint = endpoint
        self.address = endpoint.address
        self._thread = thread

    def do(self, what: Callable[[WorkloadApi], T]) -> T:
        """Have the Workload API say something."""

        async def done() -> T:
            return what(self.endpoint.api)

        return self._thread.wait(done())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Have something else done in its loop, such as ``endpoint.stop()``."""
        return self._thread.wait(coroutine)


@contextmanager
def in_background(path: Path, authority: TestAuthority, *, revocations: bool = False) -> Iterator[Background]:
    """An endpoint that serves until the block is left."""
    thread = LoopThread("workload-api")
    thread.start()
    endpoint = Endpoint(path, authority, revocations=revocations)
    try:
        thread.wait(endpoint.start())
        try:
            yield Background(endpoint, thread)
        finally:
            thread.wait(endpoint.stop())
    finally:
        thread.stop()
