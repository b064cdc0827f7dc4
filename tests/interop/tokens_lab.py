"""The token service behind the platform's Envoy, and an app beside its sidecar, for clients of other people."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.front_lab import standing
from tests.e2e.mesh_lab import ENVOY, PATIENCE, Lab, client_tls, free_address, intent_of, service
from tests.unit.sdk.test_tls import Holder

from vestibule.agent.workloads import Identities
from vestibule.app.platform_front import Front, FrontPlan, House
from vestibule.calls.workload_api import SERVICE
from vestibule.clock import SystemClock
from vestibule.doors.oauth.app import OAuthApp
from vestibule.doors.oauth.clients import Clients
from vestibule.doors.oauth.metadata import Metadata
from vestibule.doors.oauth.records import Records
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.platform.sds import Credentials
from vestibule.doors.workload_api import svid_response
from vestibule.envoy.platform import OAUTH_REPLIES
from vestibule.mesh.built_in import BuiltIn
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.spiffe import Revocations, SpiffeId, TrustBundle
from vestibule.testing import TestAuthority
from vestibule.testing.tokens import ISSUER, TRUST_DOMAIN, MemoryIssuer, MemoryTokens, spiffe_id
from vestibule.tokens.ports import Verb
from vestibule.wire.gen.spiffe import workload_pb2 as wire

TOKENS = SpiffeId.of(TRUST_DOMAIN, "/vestibule/tokens")
HERE = Path(__file__).parent


@dataclass
class Scene:
    """``sidecar`` is that of web; ``direct`` wants a certificate, ``open`` none."""

    tokens: MemoryTokens
    corp: MemoryIssuer
    authority: TestAuthority
    sidecar: str
    direct: str
    open: str
    files: Path
    workload_api: Path

    def pem(self, name: str) -> Path:
        """Certificates and key of a service, in one file."""
        svid = self.authority.svid(spiffe_id(name))
        client_tls(svid, self.files)
        return self.files / f"{svid.serial}.pem"

    @property
    def bundle(self) -> Path:
        path = self.files / "bundle.pem"
        certificate = x509.load_der_x509_certificate(self.authority.certificate)
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return path

    def source(self, name: str) -> Holder:
        """As a service's own process holds its SVID."""
        return Holder.of(self.authority.svid(spiffe_id(name)), self.authority.bundle)

    def words(self, name: str) -> list[str]:
        """What the programs are told: whom they are, where their files are, and where the service is."""
        return [str(spiffe_id(name)), str(self.pem(name)), str(self.bundle), self.direct]

    async def python(self, program: str, *words: str, **environment: str) -> Any:
        """Run a program of ``oauth/`` to its end; its JSON."""
        return await ran(sys.executable, str(HERE / "oauth" / program), *words, **environment)


async def ran(*command: str, **environment: str) -> Any:
    """Run a program to its end; its JSON."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=PIPE, env={**os.environ, **environment}
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def rules(tokens: MemoryTokens) -> None:
    """web → orders → reports, for whomever corp lets in."""
    access = tokens.access
    access.allow("web", Verb.MINT, "reports", "report:read", "report:write")
    access.allow("web", Verb.ADMIT, "orders", "order:read", "report:read")
    access.allow("orders", Verb.EXCHANGE, "orders", "report:read")
    access.allow("orders", Verb.RECEIVE, "reports", "report:read")
    for name in ("orders", "reports"):
        access.own(name, name)


class Shared:
    """One scene for all tests of a module, in the main thread, from which alone processes are started."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._made = scene()
        self._scene = self._runner.run(self._made.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._made.__aexit__(None, None, None))
        self._runner.close()

    def run(self, story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
        self._runner.run(_within(story(self._scene)))


async def _within(story: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(2 * PATIENCE):
        await story


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    tokens = MemoryTokens()
    corp = tokens.trust(MemoryIssuer("corp", "https://login.corp.example", "shop"))
    rules(tokens)
    await tokens.service.start()
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Lab(intent_of(service("web"))))
        direct, open_ = await stack.enter_async_context(fronted(tokens, mesh.authority))
        with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as files:
            sidecar = await _beside_a_sidecar(mesh, direct)
            api = await stack.enter_async_context(_workload_api(mesh.authority))
            yield Scene(
                tokens=tokens,
                corp=corp,
                authority=mesh.authority,
                sidecar=f"http://{sidecar}",
                direct=f"https://localhost:{direct.port}",
                open=f"https://localhost:{open_.port}",
                files=Path(files),
                workload_api=api,
            )


class _WorkloadApi:
    """Whoever asks is web."""

    def __init__(self, authority: TestAuthority) -> None:
        self._authority = authority

    async def fetch_x509_svid(self, stream: Stream) -> None:
        await stream.recv_message()
        svid = self._authority.svid(spiffe_id("web"))
        identities = Identities(svids=(svid,), bundle=self._authority.bundle)
        await stream.send_message(svid_response(identities))
        await asyncio.Event().wait()

    async def fetch_jwt_svid(self, stream: Stream) -> None:
        asked = await stream.recv_message()
        svid = self._authority.jwt_svid(spiffe_id("web"), *asked.audience)
        told = wire.JWTSVID(spiffe_id=str(svid.spiffe_id), svid=svid.token)
        await stream.send_message(wire.JWTSVIDResponse(svids=[told]))


@asynccontextmanager
async def _workload_api(authority: TestAuthority) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as directory:
        path = Path(directory, "agent.sock")
        listener, server = listen_unix(path, PUBLIC), GrpcServer([serve(SERVICE, _WorkloadApi(authority))])
        await server.listen(listener.sock)
        try:
            yield path
        finally:
            await server.drain(0.1)
            await server.close()
            listener.close()


async def _beside_a_sidecar(mesh: Lab, listen: Any) -> Any:
    built_in = BuiltIn(name="tokens", spiffe_id=TOKENS, address=listen, server_id=TOKENS)
    world = mesh.world
    services = {**world.intent.services, "tokens": built_in.service}
    intent = replace(world.intent, services=services)
    mesh.world = replace(world, intent=intent, instances=(built_in.instance,))
    upstream = free_address()
    await mesh.add("web", upstreams={"tokens": upstream})
    await mesh.ready()
    return upstream


@asynccontextmanager
async def fronted(tokens: MemoryTokens, authority: TestAuthority) -> AsyncIterator[tuple[Any, Any]]:
    """The door behind the platform's Envoy: its address, and that for clients without certificate."""
    app = OAuthApp(
        tokens.service, _clients(tokens, authority), Metadata(ISSUER), Records(tokens.audit, lambda _: "")
    )
    listen, open_listen = free_address(), free_address()
    house = House(name="tokens", listen=listen, app=app, replies=OAUTH_REPLIES, open_listen=open_listen)
    shown = Credentials({"tokens": authority.svid(TOKENS, dns_names=["localhost"])}, authority.bundle, {})

    async def credentials() -> AsyncIterator[Credentials]:
        yield shown
        await asyncio.Event().wait()

    with tempfile.TemporaryDirectory(prefix="vestibule-front-") as directory:
        plan = FrontPlan(
            trust_domain=TRUST_DOMAIN,
            directory=Path(directory, "p"),
            binary=Path(str(ENVOY)),
            log=Path(directory, "envoy.log"),
            svid_seconds=3600,
            drain=0.5,
        )
        async with standing(Front(plan, [house], credentials)):
            yield listen, open_listen


def _clients(tokens: MemoryTokens, authority: TestAuthority) -> Clients:
    bundles: dict[Any, TrustBundle] = {TRUST_DOMAIN: authority.jwt_bundle}
    certificates = Certificates(lambda: authority.bundle, Revocations, SystemClock())
    return Clients(
        certificates.presented, ISSUER, bundles.get, Revocations, tokens.service.once, SystemClock()
    )
