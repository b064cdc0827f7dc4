"""A lone sidecar beside an agent that knows nothing of Vestibule, beside none, and in somebody else's Envoy."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from envoy.service.secret.v3 import sds_pb2
from tests.component.server_lab import short_directory
from tests.e2e.lone_lab import Sidecar, identity, ports
from tests.e2e.mesh_lab import Wire, client_tls

from vestibule.doors.xds_serving import serve_sotw
from vestibule.envoy.tls_secrets import certificate_secret, validation_secret
from vestibule.net.grpc import Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.proxy.binary import find_envoy
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.testing import TestAuthority
from vestibule.xds.resources import SECRET, Resource, Snapshot

pytestmark = pytest.mark.timeout(180)
LEDGER = SpiffeId.parse(identity("ledger"))

APP = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = b"the app"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Spire:
    """An agent as SPIRE's is: SDS by whole states only, under SPIFFE IDs, and nothing of ours."""

    def __init__(self, authority: TestAuthority) -> None:
        self._secrets = Snapshot.of(
            "1",
            [
                Resource.of(SECRET, str(LEDGER), certificate_secret(str(LEDGER), authority.svid(LEDGER))),
                Resource.of(
                    SECRET,
                    "spiffe://example.org",
                    validation_secret("spiffe://example.org", [authority.bundle]),
                ),
            ],
        )

    async def stream_secrets(self, stream: Stream) -> None:
        await serve_sotw(stream, self._follow(), types=(SECRET,))

    async def _follow(self) -> AsyncIterator[Snapshot]:
        yield self._secrets
        await asyncio.Event().wait()

    def servable(self) -> Any:
        return serve(sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"], self)


def ledger(ingress: int, more: str = "") -> str:
    return f"""
service: ledger
identity: {LEDGER}
ports: {{http: {{protocol: http, listen: {ingress}{more}}}}}
callers: {{orders: '{identity("orders")}'}}
allow: [{{id: read, from: [orders], paths: ['/v1/**']}}]
"""


async def started(directory: Path, *words: str) -> Sidecar:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vestibule", "sidecar", "--run-dir", str(directory / "run"), *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    sidecar = Sidecar(process)
    sidecar.reading = asyncio.create_task(sidecar.read())
    return sidecar


async def test_an_agent_that_is_spires_gives_it_its_certificate_and_the_app_is_started() -> None:
    authority = TestAuthority(TrustDomain.parse("example.org"))
    [ingress, way_out] = ports(2)
    with short_directory() as directory:
        agent = socket.socket(socket.AF_UNIX)
        agent.bind(str(directory / "agent.sock"))
        agent.listen()
        server = GrpcServer([Spire(authority).servable()])
        await server.listen(agent)
        file = directory / "ledger.yaml"
        file.write_text(ledger(ingress) + f"egress_port: {way_out}\n")
        sidecar = await started(
            directory,
            *("--static", str(file), "--agent-socket", str(directory / "agent.sock"), "--drain", "1"),
            *("--", sys.executable, "-c", APP),
        )
        try:
            await sidecar.ready()
            await sidecar.says("does not tell what is revoked")
            orders = client_tls(authority.svid(SpiffeId.parse(identity("orders"))), directory)
            wire = await Wire.open(Address(host="127.0.0.1", port=ingress), orders)
            assert (await wire.ask("GET", "/v1/lines")).body == b"the app"
            assert (await wire.ask("GET", "/other")).status == 403
            await wire.close()

            # The agent goes away; what it gave holds.
            await server.drain(0)
            await server.close()
            wire = await Wire.open(Address(host="127.0.0.1", port=ingress), orders)
            assert (await wire.ask("GET", "/v1/lines")).body == b"the app"
            await wire.close()
        finally:
            status = await sidecar.stop()
            await server.close()
        assert status == 0
        assert not list((directory / "run" / "sc").iterdir())


async def test_without_an_agent_it_says_so_and_ends() -> None:
    with short_directory() as directory:
        file = directory / "ledger.yaml"
        [ingress] = ports(1)
        file.write_text(ledger(ingress, ", app: 1"))
        words = ("--static", str(file), "--agent-socket", str(directory / "agent.sock"))
        sidecar = await started(directory, *words, "--attach-within", "0.1")
        async with asyncio.timeout(90):
            assert await sidecar.process.wait() == 3
        assert sidecar.reading is not None
        await sidecar.reading
        assert "VST7330" in sidecar.text
        assert str(directory / "agent.sock") in sidecar.text


EVERYTHING = f"""
service: ledger
identity: {LEDGER}
ports:
  http: {{app: 8080, protocol: http, listen: 18443}}
  raw: {{app: 8081, protocol: tcp, listen: 18444}}
  mcp: {{app: 8082, protocol: mcp, listen: 18445}}
callers: {{orders: '{identity("orders")}'}}
allow:
  - {{id: read, port: http, from: [orders], paths: ['/v1/**']}}
  - {{id: raw, port: raw, from: [orders], expires: '2099-01-01T00:00:00Z'}}
  - {{id: find, port: mcp, from: [orders], tools: [find]}}
deny:
  - id: closed
    port: http
    from: [orders]
    when: 'request.time > timestamp("2026-01-01T00:00:00Z")'
deny_detail: caller
limits: [{{requests: 5/s, per: caller}}]
upstreams:
  books: {{addresses: ['books.example.org:8443', '10.0.0.5:8443'], identity: '{identity("books")}', protocol: grpc}}
  tools:
    addresses: ['[::1]:8443']
    identity: {identity("tools")}
    protocol: mcp
    circuit_limits: {{connections: 5}}
    outlier_detection: {{}}
  rows: {{addresses: ['rows:5432'], identity: '{identity("rows")}', protocol: tcp, listen: 15432}}
egress:
  partner:
    hosts: ['a.example.com:443', 'b.example.com:8443']
    credential: {{header: x-key, file: /etc/hostname}}
    limits: [{{requests: 5/s}}]
    allow: [{{id: ask, methods: [GET], expires: '2099-01-01T00:00:00Z'}}]
  plain: {{hosts: ['10.9.9.9:25'], protocol: tcp, tls: none, allow: [{{id: all}}]}}
"""


async def test_what_is_printed_is_a_configuration_that_envoy_takes(tmp_path: Path) -> None:
    file = tmp_path / "ledger.yaml"
    file.write_text(EVERYTHING)
    bundle = tmp_path / "public.pem"
    authorities = TestAuthority(TrustDomain.parse("a.b")).bundle.x509_authorities
    bundle.write_text("".join(map(ssl.DER_cert_to_PEM_cert, authorities)))
    words = ("--static", str(file), "--agent-socket", "/run/agent.sock", "--ca-bundle", str(bundle))
    printing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vestibule", "sidecar", *words, "--print"), stdout=subprocess.PIPE
    )
    async with asyncio.timeout(90):
        out, _ = await printing.communicate()
    assert printing.returncode == 0
    bootstrap = tmp_path / "envoy.yaml"
    bootstrap.write_bytes(out)
    checking = await asyncio.create_subprocess_exec(
        *(str(find_envoy()), "--mode", "validate", "-c", str(bootstrap), "--disable-hot-restart"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(90):
        said, _ = await checking.communicate()
    assert checking.returncode == 0, said.decode()
    assert b"PRIVATE KEY" not in out
