"""An Envoy that somebody configured for SPIRE, against our agent: certificates, rotation, mutual TLS, nothing lost."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from tests.component.server_lab import Lab, running, short_directory
from tests.ports import free_port

from vestibule.agent.bootstrap import FirstTrust
from vestibule.app.agent import AgentSettings, run_agent
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import to_pem
from vestibule.processes.signals import Shutdown
from vestibule.proxy.binary import find_envoy
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import bundle_pb2, entry_pb2, types_pb2

CONFIG = Path(__file__).with_name("envoy_of_the_walk_through.yaml")
DOMAIN = TrustDomain.parse("genie.example")
ID = SpiffeId.parse("spiffe://genie.example/ns/prod/sa/kyc-orchestrator")
LIFE = timedelta(seconds=12)
"""Of a certificate here: its successor comes after half of that."""
PATIENCE = 60.0


@dataclass
class Stage:
    """A server, an agent whose workloads we and the Envoy are, and that Envoy."""

    directory: Path
    agent_socket: Path
    tls_port: int = 0
    plain_port: int = 0
    envoy: asyncio.subprocess.Process | None = None
    ports: list[socket.socket] = field(default_factory=list)

    async def start_envoy(self, **places: str) -> None:
        self.tls_port, self.plain_port = free_port(), free_port()
        text = CONFIG.read_text(encoding="utf-8")
        all_places = {
            "ADMIN_SOCKET": str(self.directory / "envoy-admin.sock"),
            "AGENT_SOCKET": str(self.agent_socket),
            "TLS_PORT": str(self.tls_port),
            "PLAIN_PORT": str(self.plain_port),
            **places,
        }
        for place, what in all_places.items():
            text = text.replace(place, what)
        path = self.directory / "envoy.yaml"
        path.write_text(text, encoding="utf-8")
        with (self.directory / "envoy.log").open("ab") as log:
            self.envoy = await asyncio.create_subprocess_exec(
                str(find_envoy()),
                *("-c", str(path), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"),
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> None:
        if self.envoy is not None:
            self.envoy.kill()
            await self.envoy.wait()

    async def admin(self, path: str) -> Any:
        transport = httpx.AsyncHTTPTransport(uds=str(self.directory / "envoy-admin.sock"))
        async with httpx.AsyncClient(transport=transport, timeout=45) as client:
            return (await client.get(f"http://envoy{path}")).text

    async def get(self) -> int:
        """Through the way out, which speaks mutual TLS to the way in; 0 where nobody answers."""
        try:
            async with httpx.AsyncClient(timeout=45) as client:
                return (await client.get(f"http://127.0.0.1:{self.plain_port}/")).status_code
        except httpx.TransportError:
            return 0

    async def answers(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.get() != 200:
                assert self.envoy is not None
                assert self.envoy.returncode is None, (self.directory / "envoy.log").read_text()
                await asyncio.sleep(0.05)

    async def identities(self) -> X509Context:
        """Ours, which are the Envoy's: both are processes of this user."""
        channel = unix_channel(self.agent_socket)
        try:
            async with asyncio.timeout(PATIENCE):
                while True:
                    try:
                        return await WorkloadApi(channel).fetch()
                    except VestibuleError:
                        await asyncio.sleep(0.05)
        finally:
            channel.close()

    async def connect(self, *, with_certificate: bool = True) -> tuple[Any, Any]:
        """A connection to the way in, over TLS that only looks at signatures."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        ours = await self.identities()
        roots = "".join(map(ssl.DER_cert_to_PEM_cert, ours.bundles[0].x509_authorities))
        context.load_verify_locations(cadata=roots)
        if with_certificate:
            svid = ours.svids[0]
            key, chain = self.directory / "key.pem", self.directory / "chain.pem"
            key.touch(0o600)
            key.write_text(ssl.DER_cert_to_PEM_cert(svid.key).replace("CERTIFICATE", "PRIVATE KEY"))
            chain.write_text("".join(map(ssl.DER_cert_to_PEM_cert, svid.chain)))
            context.load_cert_chain(chain, key)
        return await asyncio.wait_for(
            asyncio.open_connection("127.0.0.1", self.tls_port, ssl=context), PATIENCE
        )


async def ask(reader: Any, writer: Any) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nhost: kyc\r\n\r\n")
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
    assert b" 200 " in head.splitlines()[0], head
    length = next(int(each.split(b":")[1]) for each in head.splitlines() if b"content-length" in each)
    return bytes(await asyncio.wait_for(reader.readexactly(length), PATIENCE))


def shown_by(writer: Any) -> x509.Certificate:
    return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True))


async def register(lab: Lab, parent: SpiffeId) -> None:
    entry = types_pb2.Entry(
        spiffe_id=types_pb2.SPIFFEID(trust_domain=DOMAIN.name, path=ID.path),
        parent_id=types_pb2.SPIFFEID(trust_domain=DOMAIN.name, path=parent.path),
        selectors=[types_pb2.Selector(type="unix", value=f"uid:{os.geteuid()}")],
        x509_svid_ttl=int(LIFE.total_seconds()),
    )
    answer = await lab.operator.entries.unary(
        "BatchCreateEntry", entry_pb2.BatchCreateEntryRequest(entries=[entry])
    )
    assert answer.results[0].status.code == 0, answer.results[0].status.message


@asynccontextmanager
async def agent_of(lab: Lab, directory: Path) -> AsyncIterator[Path]:
    """An agent for which this user's processes are the one of the walk-through; its public socket."""
    answer = await lab.operator.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
    authorities = tuple(each.asn1 for each in answer.x509_authorities)
    bundle, token = directory / "bundle.pem", directory / "token"
    bundle.write_bytes(to_pem(TrustBundle(trust_domain=DOMAIN, x509_authorities=authorities)))
    token.touch(0o600)
    token.write_text(await lab.token())
    settings = AgentSettings(
        trust_domain=DOMAIN,
        server=Address.parse(lab.ready.grpc),
        data_dir=directory / "agent",
        socket_path=directory / "agent.sock",
        admin_socket_path=directory / "agent-admin.sock",
        first_trust=FirstTrust(bundle_file=bundle),
        join_token_file=token,
    )
    ready: asyncio.Future[SpiffeId] = asyncio.get_running_loop().create_future()
    shutdown = Shutdown()
    serving = asyncio.create_task(run_agent(settings, on_ready=ready.set_result, shutdown=shutdown))
    try:
        async with asyncio.timeout(PATIENCE):
            while not ready.done():
                if serving.done():
                    await serving
                await asyncio.sleep(0.02)
        await register(lab, ready.result())
        yield settings.socket_path
    finally:
        shutdown.request()
        await asyncio.wait_for(serving, PATIENCE)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    with short_directory() as directory:
        async with running(directory, trust_domain=DOMAIN) as lab, agent_of(lab, directory) as agent_socket:
            stage = Stage(directory, agent_socket)
            try:
                yield stage
            finally:
                await stage.stop()


VARIANTS = [
    pytest.param({"API_TYPE": "GRPC", "NODE_METADATA": "{}", "UPSTREAM_BUNDLE": "ALL"}, id="as published"),
    pytest.param(
        {
            "API_TYPE": "DELTA_GRPC",
            "NODE_METADATA": '{ disable_spiffe_cert_validation: "true" }',
            "UPSTREAM_BUNDLE": "ROOTCA",
        },
        id="delta, plain authorities",
    ),
]


@pytest.mark.timeout(150)
@pytest.mark.parametrize("places", VARIANTS)
async def test_the_envoy_of_a_walk_through_has_certificates_and_renews_them_unnoticed(
    stage: Stage, places: dict[str, str]
) -> None:
    await stage.identities()
    await stage.start_envoy(**places)
    await stage.answers()

    reader, writer = await stage.connect()
    first = shown_by(writer)
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(ID)]
    assert await ask(reader, writer) == b"come in"

    # New certificates, while requests go on and the first connection stays open.
    asked = 0
    async with asyncio.timeout(PATIENCE):
        while True:
            assert await stage.get() == 200
            asked += 1
            _, other = await stage.connect()
            newest = shown_by(other)
            other.close()
            if newest.not_valid_after_utc - first.not_valid_after_utc > LIFE * 0.9:
                break
            await asyncio.sleep(0.1)
    assert asked > 1
    assert newest.serial_number != first.serial_number
    assert await ask(reader, writer) == b"come in"
    writer.close()

    # Who shows no certificate is not let in.
    with pytest.raises((OSError, asyncio.IncompleteReadError)):
        await ask(*await stage.connect(with_certificate=False))

    assert str(ID) in await stage.admin("/certs")
    secrets = await stage.admin("/stats?filter=sds.*update_rejected")
    assert all(line.endswith(": 0") for line in secrets.splitlines()), secrets
