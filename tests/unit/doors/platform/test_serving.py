"""The private socket behind the platform's Envoy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from vestibule.doors.platform.serving import GuardedHttp

ANSWER = b"HTTP/1.1 204"


class Scene:
    def __init__(self, path: Path, sock: socket.socket) -> None:
        self.path = path
        self.admits = True
        self.asked: list[bytes] = []
        self.http = GuardedHttp(self._app, sock, lambda _peer: self.admits)

    async def _app(self, scope: dict[str, Any], _receive: Any, send: Any) -> None:
        self.asked += [value for name, value in scope["headers"] if name == b"x-forwarded-client-cert"]
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(
                b"GET /v1/x HTTP/1.1\r\nhost: x\r\nx-forwarded-client-cert: URI=spiffe://a/b\r\n\r\n"
            )
            return await reader.read(100)
        finally:
            writer.close()


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        yield path, sock


@pytest.fixture
async def scene(bound: tuple[Path, socket.socket]) -> AsyncIterator[Scene]:
    scene = Scene(*bound)
    task = asyncio.create_task(scene.http.run(), name="http")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    yield scene
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_proxy_in_front_is_answered(scene: Scene) -> None:
    async with asyncio.timeout(60):
        assert (await scene.ask()).startswith(ANSWER)
    assert scene.asked == [b"URI=spiffe://a/b"]


async def test_another_process_of_the_same_user_is_cut_off_whatever_it_says_of_itself(scene: Scene) -> None:
    scene.admits = False
    async with asyncio.timeout(60):
        with suppress(ConnectionError):
            assert await scene.ask() == b""
        while not scene.http.refused:
            await asyncio.sleep(0.01)
    assert scene.asked == []


async def test_many_who_come_at_once_are_let_in(scene: Scene) -> None:
    longest = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with ExitStack() as stack:
        for _ in range(min(400, longest // 2)):  # before the server has had its turn
            each = stack.enter_context(socket.socket(socket.AF_UNIX))
            each.setblocking(False)
            each.connect(str(scene.path))
