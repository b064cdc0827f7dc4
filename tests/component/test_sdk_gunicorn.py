"""gunicorn with library mTLS: its master, its workers, and real clients."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.component.mtls_lab import DEADLINE, Pair, pair, until
from tests.ports import free_port

from vestibule.sdk import SpiffeId, authorize_ids, client_context

APPS = """
import os
import time

from vestibule.sdk import asgi, wsgi


def plain(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("busy", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    forged = environ.get("HTTP_VESTIBULE_SPIFFE_ID", "")
    start_response("200 OK", [("content-type", "text/plain")])
    return [f"{wsgi.caller(environ)} {os.getpid()} {environ['wsgi.url_scheme']} {forged}".encode()]


async def asynchronous(scope, receive, send):
    if scope["type"] == "http":
        body = f"{asgi.caller(scope)} {os.getpid()} {scope['scheme']} ".encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})
"""
SETTINGS = """
from vestibule.sdk import Lifetimes, authorize_ids
from vestibule.sdk.gunicorn import asgi_worker, worker

worker_class = {kind}(authorize_ids("{caller}"){options})
workers = 2
threads = 4
keepalive = 60
control_socket_disable = True
"""


class Gunicorn:
    """A master with two workers."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.address = f"https://127.0.0.1:{port}"
        self.said: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().rstrip())

    def has_said(self, text: str) -> bool:
        return any(text in line for line in self.said)

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), DEADLINE)
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()
            await self._reading


@pytest.fixture
async def two() -> AsyncIterator[Pair]:
    async with pair() as made:
        yield made


@asynccontextmanager
async def served(
    two: Pair, directory: Path, kind: str = "worker", options: str = "", caller: SpiffeId | None = None
) -> AsyncIterator[Gunicorn]:
    (directory / "apps.py").write_text(APPS)
    settings = SETTINGS.format(kind=kind, options=options, caller=caller or two.caller)
    (directory / "gunicorn.conf.py").write_text(settings)
    port, app = free_port(), "apps:plain" if kind == "worker" else "apps:asynchronous"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", app),
        cwd=directory,
        env={**os.environ, "SPIFFE_ENDPOINT_SOCKET": two.serving.address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    running = Gunicorn(process, port)
    try:
        await until(lambda: running.has_said("Booting worker") or process.returncode is not None)
        yield running
    finally:
        await running.stop()


async def answer(client: httpx.AsyncClient, server: Gunicorn, **headers: str) -> httpx.Response:
    """Once a worker is up; until then, connections wait in the backlog."""
    return await client.get(server.address, headers=headers)


@pytest.mark.parametrize("kind", ["worker", "asgi_worker"])
async def test_each_worker_knows_who_calls(two: Pair, tmp_path: Path, kind: str) -> None:
    async with served(two, tmp_path, kind) as server, two.client() as client:
        told = (await answer(client, server, **{"vestibule-spiffe-id": "forged"})).text.split(" ")
        assert told[0] == str(two.caller)
        assert told[2] == "https"
        workers = {told[1]}

        async def both_answered() -> bool:
            async with two.client() as another:
                workers.add((await answer(another, server)).text.split(" ")[1])
            return len(workers) == 2

        await until(both_answered)
    assert server.process.returncode == 0


async def test_a_stranger_gets_no_word_and_the_log_says_why(two: Pair, tmp_path: Path) -> None:
    stranger = SpiffeId.parse("spiffe://example.org/somebody-else")
    async with served(two, tmp_path, caller=stranger) as server, two.client() as client:
        with pytest.raises(httpx.TransportError) as raised:
            await answer(client, server)
        assert "somebody-else" not in str(raised.value)
        await until(lambda: server.has_said("VST2404"))


async def test_a_retired_connection_is_closed_by_its_next_answer(two: Pair, tmp_path: Path) -> None:
    options = ", lifetimes=Lifetimes(share=1e-6, jitter=0)"
    async with served(two, tmp_path, options=options) as server, two.client() as client:

        async def said_goodbye() -> bool:
            return (await answer(client, server)).headers["connection"] == "close"

        await until(said_goodbye)
        assert (await answer(client, server)).status_code == 200


async def test_when_the_identity_is_withdrawn_what_runs_is_cut(two: Pair, tmp_path: Path) -> None:
    async with served(two, tmp_path) as server, two.client() as client:
        running = asyncio.create_task(client.get(f"{server.address}/slow"))
        await until(lambda: server.has_said("busy"))
        two.serving.withdraw()
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(running, DEADLINE)
        (tmp_path / "go").touch()


async def test_who_does_not_finish_the_handshake_does_not_keep_a_thread(two: Pair, tmp_path: Path) -> None:
    async with served(two, tmp_path, options=", patience=3") as server, two.client() as client:
        port = int(server.address.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port), DEADLINE) for _ in range(8)]
        for each in silent:
            # The beginning of a record of TLS, which never ends.
            each.sendall(b"\x16\x03\x01")
        try:
            assert (await answer(client, server)).status_code == 200
        finally:
            for each in silent:
                each.close()


async def test_a_new_certificate_is_shown_by_all_workers(two: Pair, tmp_path: Path) -> None:
    async with served(two, tmp_path) as server:
        context = client_context(two.orders, authorize_ids(two.serving.spiffe_id))
        seen: set[str] = set()

        async def shown() -> bool:
            port = int(server.address.rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
            seen.add(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"])
            writer.close()
            two.serving.issue()
            return len(seen) >= 3

        await until(shown)
