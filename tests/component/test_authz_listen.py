"""``vestibule authz run`` for machines elsewhere: over mutual TLS, with its intent from a repository."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.auth.v3 import external_auth_pb2 as pb
from grpclib.client import Channel
from tests.component.git_lab import MESH, WEB, Repository, intent_repository, needs
from tests.e2e.mesh_lab import client_tls
from tests.ports import free_port

from vestibule.doors.ext_authz import SERVICE
from vestibule.envoy.tls_secrets import certificate_secret
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.spiffe import SpiffeId
from vestibule.testing import TestAuthority

EDGE = SpiffeId.parse("spiffe://example.org/edge")
OTHER = SpiffeId.parse("spiffe://example.org/other")
READING = WEB.replace("[]", "[{id: read, from: [orders], methods: [GET]}]")
ORDERS = "service: orders\n"


def question(method: str = "GET", caller: str = "orders") -> pb.CheckRequest:
    request = pb.CheckRequest()
    request.attributes.source.principal = f"spiffe://example.org/ns/prod/sa/{caller}"
    request.attributes.request.http.method = method
    request.attributes.request.http.path = "/"
    request.attributes.context_extensions["vestibule.service"] = "web"
    request.attributes.context_extensions["vestibule.port"] = "http"
    return request


@dataclass
class Place:
    """The service, the repository that it follows, and the authority of those who ask."""

    authority: TestAuthority
    directory: Path
    repository: Repository
    port: int
    http: int

    async def ask(self, asker: SpiffeId | None = EDGE, method: str = "GET") -> Any:
        """An answer over a connection of the asker's own."""
        tls = client_tls(self.authority.svid(asker) if asker else None, self.directory)
        tls.set_alpn_protocols(["h2"])
        channel = Channel("127.0.0.1", self.port, ssl=tls)
        try:
            async with asyncio.timeout(60):
                return await Client(channel, SERVICE).unary("Check", question(method))
        finally:
            channel.close()

    async def status(self) -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=60) as client:
            return dict((await client.get(f"http://127.0.0.1:{self.http}/ready")).json())


@asynccontextmanager
async def place(directory: Path) -> AsyncIterator[Place]:
    needs("git")
    repository = intent_repository(directory / "repository")
    repository.commit({"mesh.yaml": MESH, "services/web.yaml": READING, "services/orders.yaml": ORDERS})
    authority = TestAuthority("example.org")
    own = secret_pb2.Secret.FromString(certificate_secret("own", authority.svid(OTHER))).tls_certificate
    (directory / "chain.pem").write_bytes(own.certificate_chain.inline_bytes)
    (directory / "key.pem").write_bytes(own.private_key.inline_bytes)
    roots = "".join(map(ssl.DER_cert_to_PEM_cert, authority.bundle.x509_authorities))
    (directory / "bundle.pem").write_text(roots)
    port, http = free_port(), free_port()
    options = {
        "git": repository.path,
        "data-dir": directory / "data",
        "listen": f"127.0.0.1:{port}",
        "http": f"127.0.0.1:{http}",
        "tls-cert": directory / "chain.pem",
        "tls-key": directory / "key.pem",
        "client-ca": directory / "bundle.pem",
        "asker": EDGE,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "vestibule", "authz", "run", *words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while (line := await process.stdout.readline()) and b"authz ready" not in line:
                pass
        assert line, "it ended"
        yield Place(authority, directory, repository, port, http)
    finally:
        process.terminate()
        async with asyncio.timeout(60):
            await process.communicate()
    assert process.returncode == 0


async def refused(asking: Any) -> bool:
    try:
        await asking
    except (VestibuleError, OSError):
        return True
    return False


async def test_only_named_clients_are_answered_and_by_the_repositorys_newest_policy(tmp_path: Path) -> None:
    async with place(tmp_path) as there:
        assert (await there.ask()).HasField("ok_response")
        assert (await there.ask(method="POST")).denied_response.status.code == 403
        assert await refused(there.ask(OTHER))
        assert await refused(there.ask(None))

        first = await there.status()
        assert (first["commit"], first["is_newest"]) == (there.repository.head, True)
        assert first["not_followed"] == ["break-glass", "revocations"]
        there.repository.commit({"services/web.yaml": READING.replace("GET", "POST")})
        async with asyncio.timeout(90):
            while not (await there.ask(method="POST")).HasField("ok_response"):
                await asyncio.sleep(0.1)
        assert (await there.ask()).denied_response.status.code == 403
        assert (await there.status())["commit"] == there.repository.head
