import asyncio
import gc
import hashlib
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
            goes_on.wait(10)
            raise PEER_GONE.error("it has ended")

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
