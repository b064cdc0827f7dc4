import asyncio
import gc
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vestibule.attest.workload import Process
from vestibule.attest.workload.unix import UnixAttestor
from vestibule.net.codes import PEER_GONE
from vestibule.net.peer import ProcessHandle
from vestibule.spiffe import Selector


@pytest.fixture
def this_process() -> Iterator[ProcessHandle]:
    handle = ProcessHandle(os.getpid())
    yield handle
    handle.close()


class Foreign:
    """A process of another user, as the kernel shows it to us."""

    pid = 4711
    start_time = 1

    def check(self) -> None: ...
    def close(self) -> None: ...
    def parent_pid(self) -> int:
        return 1

    def status(self) -> dict[str, list[str]]:
        return {
            "Uid": ["10", "4000001", "12", "13"],
            "Gid": ["20", "4000002", "22", "23"],
            "Groups": ["4000003", "0"],
        }

    def read(self, name: str, limit: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    def link(self, name: str) -> str:
        raise PermissionError(13, "Permission denied")

    def open_executable(self) -> Any:
        raise PermissionError(13, "Permission denied")

    def executable_facts(self) -> tuple[int, int, int, int, int] | None:
        raise PermissionError(13, "Permission denied")


def selectors(*texts: str) -> frozenset[Selector]:
    return frozenset(Selector.parse(f"unix:{text}") for text in texts)


async def test_a_process_is_known_by_user_group_path_and_digest(this_process: ProcessHandle) -> None:
    program = Path(sys.executable).resolve()
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    found = await UnixAttestor().attest(this_process)
    wanted = selectors(f"uid:{os.geteuid()}", f"gid:{os.getegid()}", f"path:{program}", f"sha256:{digest}")
    assert wanted <= found


async def test_effective_ids_count_and_nameless_ones_give_no_name() -> None:
    found = await UnixAttestor().attest(Foreign())
    assert found == selectors(
        "uid:4000001",
        "gid:4000002",
        "supplementary_gid:4000003",
        "supplementary_gid:0",
        "supplementary_group:root",
    )


async def test_a_program_that_may_not_be_read_costs_only_its_own_selectors() -> None:
    found = await UnixAttestor().attest(Foreign())
    assert not [selector for selector in found if selector.value.startswith(("path:", "sha256:"))]


async def test_executables_can_be_left_out(this_process: ProcessHandle) -> None:
    found = await UnixAttestor(executables=False).attest(this_process)
    assert not [selector for selector in found if selector.value.startswith(("path:", "sha256:"))]


async def test_a_digest_is_computed_once_per_file(
    this_process: ProcessHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    attestor = UnixAttestor()
    first = await attestor.attest(this_process)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert await attestor.attest(this_process) == first


async def test_a_huge_program_gets_no_digest(
    this_process: ProcessHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.attest.workload.unix.MAX_EXECUTABLE_BYTES", 1)
    found = await UnixAttestor().attest(this_process)
    assert [selector for selector in found if selector.value.startswith("path:")]
    assert not [selector for selector in found if selector.value.startswith("sha256:")]


class Disguised(Foreign):
    """A process whose program has a path of its own choice, in a view of the file system of its own."""

    def __init__(self, path: str) -> None:
        self._path = path

    def link(self, name: str) -> str:
        return self._path

    def open_executable(self) -> Any:
        return Path(sys.executable).open("rb")

    def executable_facts(self) -> tuple[int, int, int, int, int] | None:
        return None


@pytest.mark.parametrize("path", ["/bin/sh", "/nowhere/payments", f"{sys.executable} (deleted)"])
async def test_a_path_that_is_another_file_for_us_is_left_out(path: str) -> None:
    found = await UnixAttestor().attest(Disguised(path))
    assert not [selector for selector in found if selector.value.startswith("path:")]
    assert [selector for selector in found if selector.value.startswith("sha256:")]


async def test_one_user_keeps_one_thread_busy_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    real, running, most = hashlib.file_digest, 0, 0

    def slow(*given: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        try:
            return real(*given)
        finally:
            running -= 1

    monkeypatch.setattr(hashlib, "file_digest", slow)
    attestor = UnixAttestor()
    monkeypatch.setattr(attestor, "_digests", Forgetful())
    impatient = asyncio.create_task(attestor.attest(Disguised("/a")))
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.gather(*(attestor.attest(Disguised("/a")) for _ in range(4)))
    assert most == 1


class Looks(UnixAttestor):
    """Counts the looks that took a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def _look(self, process: Process) -> frozenset[Selector]:
        self.looks += 1
        return super()._look(process)


async def test_a_program_that_was_looked_at_a_moment_ago_takes_no_thread(this_process: ProcessHandle) -> None:
    attestor = Looks()
    first = await attestor.attest(this_process)
    assert await attestor.attest(this_process) == first
    assert attestor.looks == 1


async def test_where_a_program_lies_is_looked_at_again_after_a_while(
    this_process: ProcessHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.attest.workload.unix.KNOWN_SECONDS", 0.0)
    attestor = Looks()
    assert await attestor.attest(this_process) == await attestor.attest(this_process)
    assert attestor.looks == 2


@contextmanager
def running(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], ProcessHandle]]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    handle = ProcessHandle(process.pid)
    try:
        yield process, handle
    finally:
        handle.close()
        process.kill()
        process.communicate()


def programs(found: frozenset[Selector]) -> set[str]:
    return {each.value for each in found if each.value.startswith(("path:", "sha256:"))}


def program(path: Path) -> set[str]:
    return {f"path:{path}", f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"}


async def test_a_process_that_executes_another_program_is_that_program_at_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path, original in ((first, "sh"), (second, "cat")):
        shutil.copyfile(str(shutil.which(original)), path)
        path.chmod(0o755)
    attestor = UnixAttestor()
    with running(str(second)) as (_, handle):
        assert programs(await attestor.attest(handle)) == program(second)
    with running(str(first), "-c", f"read line; exec {second}") as (process, handle):
        assert programs(await attestor.attest(handle)) == program(first)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while handle.link("exe") != str(second) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        assert programs(await attestor.attest(handle)) == program(second)


async def test_another_program_at_the_same_place_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    path, fresh = tmp_path / "program", tmp_path / "fresh"
    attestor = UnixAttestor()
    for original in ("cat", "tee"):
        shutil.copyfile(str(shutil.which(original)), fresh)
        fresh.chmod(0o755)
        fresh.rename(path)
        with running(str(path)) as (_, handle):
            assert programs(await attestor.attest(handle)) == program(path)


async def test_a_program_whose_file_was_replaced_meanwhile_has_a_digest_and_no_path(tmp_path: Path) -> None:
    path, fresh = tmp_path / "program", tmp_path / "fresh"
    for each, original in ((path, "cat"), (fresh, "tee")):
        shutil.copyfile(str(shutil.which(original)), each)
        each.chmod(0o755)
    digest = program(path) - {f"path:{path}"}
    attestor = UnixAttestor()
    with running(str(path)) as (_, handle):
        await attestor.attest(handle)
        fresh.rename(path)
        assert programs(await attestor.attest(handle)) == digest


class Forgetful(OrderedDict[Any, str]):
    """Remembers nothing, as if every program were a new one."""

    def get(self, key: Any, default: Any = None) -> Any:
        return default


async def test_a_look_that_nobody_waits_for_any_more_may_fail_without_a_word() -> None:
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    looking, goes_on = threading.Event(), threading.Event()

    class Ending(Foreign):
        def link(self, name: str) -> str:
            looking.set()
            goes_on.wait(60)
            raise PEER_GONE.error("it has ended")

        def executable_facts(self) -> tuple[int, int, int, int, int] | None:
            return None

    attesting = asyncio.create_task(UnixAttestor().attest(Ending()))
    await asyncio.to_thread(looking.wait, 10)
    attesting.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.wait([attesting])
    assert attesting.cancelled()
    del attesting  # and with it the last that knows of the look
    gc.collect()
    assert said == []
