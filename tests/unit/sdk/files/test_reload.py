"""Telling the readers of files."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk.files.codes import BAD_LAYOUT, NOT_TOLD
from vestibule.sdk.files.reload import Reload, read_command


async def problem_of(reload: Reload) -> str:
    reload.check()
    with pytest.raises(VestibuleError) as raised:
        async with asyncio.timeout(60):
            await reload.tell()
    assert raised.value.code is NOT_TOLD
    return raised.value.message


async def until_there(path: Path) -> str:
    async with asyncio.timeout(60):
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0.01)
    return path.read_text()


@asynccontextmanager
async def http(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    asked: list[bytes] = []

    done: list[asyncio.Event] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done.append(asyncio.Event())
        try:
            with suppress(OSError):
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer)
                await writer.drain()
                if not answer:
                    await reader.read()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            done[-1].set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/reload?now", asked
    finally:
        server.close()
        async with asyncio.timeout(60):
            for each in done:
                await each.wait()


async def test_a_signal_goes_to_the_process_of_the_file_and_a_command_is_run(tmp_path: Path) -> None:
    pid_file, done = tmp_path / "pid", tmp_path / "a b"
    pid_file.write_text(f"{os.getpid()}\nmore of it\n")
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, heard.set)
    try:
        reload = Reload(signal_name="SIGHUP", pid_file=pid_file, command=read_command(f"touch '{done}'"))
        reload.check()
        async with asyncio.timeout(60):
            await reload.tell()
            await heard.wait()
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
    assert done.exists()


@pytest.mark.parametrize("pid", ["", "0", "-1", "1", "x"])
async def test_no_more_than_one_process_is_ever_signalled(tmp_path: Path, pid: str) -> None:
    pid_file = tmp_path / "pid"
    pid_file.write_text(pid)
    assert "cannot send SIGTERM" in await problem_of(Reload(signal_name="SIGTERM", pid_file=pid_file))


async def test_what_cannot_be_told_is_said_all_of_it(tmp_path: Path) -> None:
    assert "ended with 1" in await problem_of(Reload(command=("false",)))
    assert "No such file" in await problem_of(Reload(command=("/no/such/program",)))
    both = Reload(signal_name="SIGHUP", pid_file=tmp_path / "none", command=("false",))
    assert {"SIGHUP", "'false'"} <= set((await problem_of(both)).split())


async def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    reload = Reload(command=("sh", "-c", script), patience=5)
    assert "within 5 s" in await problem_of(reload)
    for pid in pids.read_text().split():
        async with asyncio.timeout(60):
            while runs(int(pid)):
                await asyncio.sleep(0.01)


def runs(pid: int) -> bool:
    """A child whose parent was killed may wait, dead, for somebody to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_a_server_is_told_by_a_post() -> None:
    async with http(b"HTTP/1.1 204 No Content\r\n\r\n") as (url, asked):
        reload = Reload(url=url)
        reload.check()
        async with asyncio.timeout(60):
            await reload.tell()
    assert asked[0].startswith(b"POST /reload?now HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", "answered 302"),
        (b"SSH-2.0-x\r\n", "nothing of HTTP"),
        (b"x" * 100_000, "reload"),
        (b"", "within 3 s"),
    ],
)
async def test_a_server_that_does_not_agree_was_not_told(answer: bytes, said: str) -> None:
    async with http(answer) as (url, _):
        assert said in await problem_of(Reload(url=url, patience=3 if not answer else 60))


async def test_a_process_of_ours_is_started_then_signalled_and_ended_with_us(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    script = f"trap 'echo renewed >> {marks}' USR1; echo started > {marks}; while :; do sleep 0.05; done"
    reload = Reload(signal_name="SIGUSR1", process=("sh", "-c", script))
    reload.check()
    async with asyncio.timeout(60):
        await reload.tell()
        assert await until_there(marks) == "started\n"
        await reload.tell()
        while marks.read_text() != "started\nrenewed\n":
            await asyncio.sleep(0.01)
        await reload.close()


@pytest.mark.parametrize(
    "wrong",
    [
        Reload(pid_file=Path("pid")),
        Reload(signal_name="SIGHUP"),
        Reload(signal_name="HANGUP", pid_file=Path("pid")),
        Reload(url="ftp://example.org/"),
        Reload(url="http://user@example.org/"),
        Reload(url="http://example.org:x/"),
        Reload(url="http://example.org/a b"),
        Reload(command=("true",), patience=0),
    ],
)
def test_what_can_never_be_done_is_refused(wrong: Reload) -> None:
    with pytest.raises(VestibuleError) as raised:
        wrong.check()
    assert raised.value.code is BAD_LAYOUT


def test_a_command_that_is_none_is_refused() -> None:
    with pytest.raises(VestibuleError):
        read_command("echo 'a")
