"""Sidecars without a control plane: a server and an agent that give identities to this user, and files."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from tests.component.server_lab import Lab, running, short_directory
from tests.ports import free_port

from vestibule.agent.bootstrap import FirstTrust
from vestibule.app.agent import AgentSettings, run_agent
from vestibule.net.grpc import Client
from vestibule.pki.bundles import to_pem
from vestibule.processes import procfs
from vestibule.processes.signals import Shutdown
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import bundle_pb2, entry_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2, revocation_pb2

DOMAIN = TrustDomain.parse("example.org")
PATIENCE = 90.0


def identity(name: str) -> str:
    return f"spiffe://{DOMAIN}/ns/prod/sa/{name}"


async def until(condition: Any, what: Any) -> Any:
    """Wait with patience until the condition holds; ``what`` says what went wrong."""
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(what() if callable(what) else what) from None


@dataclass
class Sidecar:
    """One started sidecar, its output line by line."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    reading: asyncio.Task[None] | None = None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def log(self) -> list[dict[str, Any]]:
        """The access log."""
        return [json.loads(each) for each in self.lines if each.startswith('{"access"')]

    @property
    def facts(self) -> dict[str, str]:
        line = next(each for each in self.lines if each.startswith("sidecar ready:"))
        return dict(each.split("=", 1) for each in line.split()[2:])

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip())

    async def ready(self) -> None:
        await until(
            lambda: "sidecar ready:" in self.text or self.process.returncode is not None,
            lambda: self.text,
        )
        assert "sidecar ready:" in self.text, self.text

    async def says(self, text: str) -> None:
        await until(lambda: text in self.text, lambda: f"no {text!r} in:\n{self.text}")

    async def stop(self) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self.process.wait()
        except TimeoutError:
            for pid in procfs.descendants(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        if self.reading is not None:
            await self.reading
        return status


class App:
    """An app in this process: answers with what it saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        self.port = port
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                caller = next(
                    (
                        each
                        for each in head.split("\r\n")
                        if each.lower().startswith("x-forwarded-client-cert")
                    ),
                    "",
                )
                body = f"{self.name} {head.split()[1]} {caller}".encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@dataclass
class Stage:
    """A server, an agent, and the sidecars started in one test."""

    directory: Path
    lab: Lab
    agent_socket: Path
    agent_id: SpiffeId
    started: list[Sidecar] = field(default_factory=list)
    apps: list[App] = field(default_factory=list)

    async def entry(self, name: str, *, ttl: timedelta = timedelta(hours=1)) -> None:
        """This user's processes may be the service."""
        entry = types_pb2.Entry(
            spiffe_id=types_pb2.SPIFFEID(trust_domain=DOMAIN.name, path=f"/ns/prod/sa/{name}"),
            parent_id=types_pb2.SPIFFEID(trust_domain=DOMAIN.name, path=self.agent_id.path),
            selectors=[types_pb2.Selector(type="unix", value=f"uid:{os.geteuid()}")],
            x509_svid_ttl=int(ttl.total_seconds()),
        )
        answer = await self.lab.operator.entries.unary(
            "BatchCreateEntry", entry_pb2.BatchCreateEntryRequest(entries=[entry])
        )
        assert answer.results[0].status.code == 0, answer.results[0].status.message

    async def app(self, name: str, port: int) -> App:
        app = App(name)
        await app.start(port)
        self.apps.append(app)
        return app

    async def start(self, *words: str) -> Sidecar:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "vestibule", "sidecar"),
            *("--agent-socket", str(self.agent_socket), "--run-dir", str(self.directory / "run")),
            *("--drain", "1", *words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "400"},
        )
        sidecar = Sidecar(process)
        sidecar.reading = asyncio.create_task(sidecar.read())
        self.started.append(sidecar)
        return sidecar

    async def lone(self, name: str, text: str, *words: str) -> Sidecar:
        file = self.directory / f"{name}.yaml"
        file.write_text(text, encoding="utf-8")
        return await self.start("--static", str(file), *words)

    async def revoke(self, name: str) -> None:
        """The service's identity, for good."""
        service = revocation_pb2.DESCRIPTOR.services_by_name["RevocationAdmin"]
        request = revocation_pb2.RevokeRequest(identity=identity(name))
        await Client(self.lab.operator.channel, service).unary("Revoke", request, timeout=60)

    async def follow(self, intent: Path) -> None:
        """The server has read this intent, in place of the one that it began with."""
        (self.directory / "mesh").rename(self.directory / "before")
        intent.rename(self.directory / "mesh")

        async def read() -> bool:
            request = admin_pb2.GetServerStatusRequest()
            status = await self.lab.operator.admin.unary("GetStatus", request)
            return list(status.intent.services) == ["ledger", "orders"]

        await until(read, "the server does not follow the intent")

    async def end(self) -> None:
        for each in self.started:
            await each.stop()
        for app in self.apps:
            await app.stop()


async def get(port: int, path: str, host: str, method: str = "GET") -> httpx.Response:
    """As an app calls: in plain text, through the way out of its own sidecar."""
    async with httpx.AsyncClient(timeout=45, trust_env=False) as client:
        return await client.request(method, f"http://127.0.0.1:{port}{path}", headers={"host": host})


@asynccontextmanager
async def agent_of(lab: Lab, directory: Path) -> AsyncIterator[tuple[Path, SpiffeId]]:
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
        yield settings.socket_path, ready.result()
    finally:
        shutdown.request()
        await asyncio.wait_for(serving, PATIENCE)


@asynccontextmanager
async def staged(**settings: Any) -> AsyncIterator[Stage]:
    with short_directory() as directory:
        (directory / "mesh" / "services").mkdir(parents=True)
        (directory / "mesh" / "mesh.yaml").write_text(
            "mesh: m\ntrust_domain: example.org\nenvironment: prod\n"
        )
        (directory / "mesh" / "services" / "other.yaml").write_text("service: other\n")
        async with (
            running(directory, trust_domain=DOMAIN, intent=directory / "mesh", **settings) as lab,
            agent_of(lab, directory) as (socket, agent_id),
        ):
            stage = Stage(directory, lab, socket, agent_id)
            try:
                yield stage
            finally:
                await stage.end()


async def command(*words: str) -> Any:
    """What a command answers in JSON, whatever its exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vestibule", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(PATIENCE):
        out, complaints = await process.communicate()
    assert out, complaints.decode()
    return json.loads(out)


def ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]
