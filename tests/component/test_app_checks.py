"""Asking apps of this host whether they are well, on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from vestibule.calls.app_checks import ask
from vestibule.doors.grpc_health import HealthDoor
from vestibule.net.grpc_server import GrpcServer
from vestibule.records import Address, CheckView, Keeper

OWN = Keeper(uid=os.getuid(), pid=os.getpid())


def check(kind: str = "http", **more: Any) -> CheckView:
    return CheckView(kind=kind, port="http", path="/healthz", timeout=more.pop("timeout", 5.0), **more)


@asynccontextmanager
async def http_app(status: int, seen: list[bytes], unix: bool = False) -> AsyncIterator[Address]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d Done\r\nContent-Length: 2\r\n\r\nok" % status)
        await writer.drain()
        writer.close()

    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as directory:
        if unix:
            path = str(Path(directory) / "app.sock")
            server = await asyncio.start_unix_server(answer, path)
            address = Address(path=path)
        else:
            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        async with server:
            yield address


@pytest.mark.parametrize("unix", [False, True])
@pytest.mark.parametrize(("status", "well"), [(200, True), (302, True), (404, False), (503, False)])
async def test_an_http_app_is_well_by_its_status(status: int, well: bool, unix: bool) -> None:
    seen: list[bytes] = []
    async with http_app(status, seen, unix) as address:
        problem = await ask(check(), address, "http", OWN)
    assert (problem is None) is well, problem
    assert seen[0].startswith(b"GET /healthz HTTP/1.1\r\n")
    assert well or str(status) in str(problem)


async def test_an_app_that_is_silent_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address(host="127.0.0.1", port=silent.getsockname()[1])
        assert "within 0.1 s" in str(await ask(check(timeout=0.1), address, "http", OWN))
        assert "0.1 s" in str(await ask(check("grpc", timeout=0.1), address, "grpc", OWN))
        assert await ask(check("tcp"), address, "tcp", OWN) is None
    assert "Connect call failed" in str(await ask(check("tcp"), address, "tcp", OWN))


async def test_a_grpc_app_is_asked_by_grpc_health() -> None:
    wrong: list[str] = []

    async def look() -> str | None:
        return wrong[0] if wrong else None

    server, sock = GrpcServer([HealthDoor(look).servable()]), socket.create_server(("127.0.0.1", 0))
    await server.listen(sock)
    try:
        address = Address(host="127.0.0.1", port=sock.getsockname()[1])
        assert await ask(check("grpc"), address, "grpc", OWN) is None
        wrong.append("full")
        assert await ask(check("grpc"), address, "grpc", OWN) == "it says NOT_SERVING"
        assert "per-service" in str(await ask(check("grpc", grpc_service="shop.Cart"), address, "grpc", OWN))
    finally:
        await server.close()


async def test_an_app_that_speaks_http2_alone_is_asked_in_it() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        http.initiate_connection()
        while data := await reader.read(4096):
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    http.send_headers(1, [(":status", "204")], end_stream=True)
            writer.write(http.data_to_send())
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        address = Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        assert await ask(check(), address, "http2", OWN) is None
    async with http_app(200, []) as address:
        assert await ask(check(), address, "http2", OWN) is not None


async def test_only_what_the_instances_own_user_listens_on_is_asked() -> None:
    seen: list[bytes] = []
    async with http_app(200, seen, unix=True) as address:
        assert "not the instance's own" in str(
            await ask(check(), address, "http", Keeper(uid=os.getuid() + 4711, pid=os.getpid()))
        )
    assert not seen
    elsewhere = Address(host="192.0.2.1", port=80)
    assert "loopback" in str(await ask(check(), elsewhere, "http", OWN))


APP = """
import fcntl, http.server, socket, struct
with socket.socket() as sock:  # loopback is down in a new namespace
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
server = http.server.HTTPServer(("127.0.0.1", 8), http.server.SimpleHTTPRequestHandler)
print("listens", flush=True)
server.serve_forever()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes and enters network namespaces")
async def test_an_app_in_a_network_of_its_own_is_asked_there(tmp_path: Path) -> None:
    words = ["unshare", "--net", sys.executable, "-c", APP]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as app:
        try:
            assert app.stdout is not None
            if not await asyncio.to_thread(app.stdout.readline):
                pytest.skip("no network namespaces here")
            there, address = Keeper(uid=0, pid=app.pid), Address(host="127.0.0.1", port=8)
            assert await ask(check("tcp"), address, "tcp", there) is None
            assert "404" in str(await ask(check(), address, "http", there))
            assert await ask(check("tcp"), address, "tcp", OWN) is not None
        finally:
            app.kill()
