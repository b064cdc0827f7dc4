import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from vestibule.attest.workload.codes import NOT_RUNNING
from vestibule.attest.workload.supervised import SupervisedAttestor, Vouched, is_descendant
from vestibule.errors import VestibuleError
from vestibule.net.peer import ProcessHandle
from vestibule.spiffe import Selector

SLEEP = "import sys; print(flush=True); sys.stdin.read()"
PARENT = (
    "import subprocess,sys; c=subprocess.Popen([sys.executable,'-c','import sys; sys.stdin.read()']);"
    "print(c.pid,flush=True); sys.stdin.readline()"
)
Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(program: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


def word(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def started_at(pid: int) -> int:
    handle = ProcessHandle(pid)
    handle.close()
    return handle.start_time


def supervised(service: str, role: str) -> frozenset[Selector]:
    return frozenset({Selector("supervised", f"service:{service}"), Selector("supervised", f"role:{role}")})


async def attest(vouched: Vouched, pid: int) -> frozenset[Selector]:
    handle = ProcessHandle(pid)
    try:
        return await SupervisedAttestor(vouched).attest(handle)
    finally:
        handle.close()


@pytest.fixture
def vouched() -> Vouched:
    return Vouched(ProcessHandle)


async def test_a_vouched_process_is_its_service_until_withdrawn(vouched: Vouched, start: Start) -> None:
    process = start(SLEEP)
    word(process)
    began = started_at(process.pid)
    assert await attest(vouched, process.pid) == frozenset()
    vouched.vouch("payments", process.pid, began, "envoy")
    assert await attest(vouched, process.pid) == supervised("payments", "envoy")
    vouched.withdraw(process.pid, began)
    assert await attest(vouched, process.pid) == frozenset()


async def test_descendants_inherit_and_the_nearest_vouch_decides(vouched: Vouched, start: Start) -> None:
    parent = start(PARENT)
    child = int(word(parent))
    vouched.vouch("orders", os.getpid(), started_at(os.getpid()), "app")
    assert await attest(vouched, child) == supervised("orders", "app")
    vouched.vouch("payments", parent.pid, started_at(parent.pid), "app")
    assert await attest(vouched, child) == supervised("payments", "app")


async def test_an_orphan_is_nobodys(vouched: Vouched, start: Start) -> None:
    parent = start(PARENT)
    child = int(word(parent))
    orphan = os.pidfd_open(child)
    handle = ProcessHandle(child)
    vouched.vouch("payments", parent.pid, started_at(parent.pid), "app")
    assert vouched.find(handle) is not None
    parent.kill()
    parent.wait()
    assert vouched.find(handle) is None
    handle.close()
    os.close(orphan)


async def test_a_sibling_gets_nothing(vouched: Vouched, start: Start) -> None:
    mine, other = start(SLEEP), start(SLEEP)
    word(mine), word(other)
    vouched.vouch("payments", mine.pid, started_at(mine.pid), "app")
    assert await attest(vouched, other.pid) == frozenset()


def test_vouching_needs_the_right_start_time(vouched: Vouched) -> None:
    with pytest.raises(VestibuleError) as refusal:
        vouched.vouch("payments", os.getpid(), started_at(os.getpid()) + 1, "app")
    assert refusal.value.code is NOT_RUNNING


def test_vouching_needs_a_running_process(vouched: Vouched, start: Start) -> None:
    process = start(SLEEP)
    word(process)
    began = started_at(process.pid)
    process.kill()
    process.wait()
    with pytest.raises(VestibuleError) as refusal:
        vouched.vouch("payments", process.pid, began, "app")
    assert refusal.value.code is NOT_RUNNING


async def test_whoever_gets_the_pid_next_gets_nothing_else(vouched: Vouched) -> None:
    """The vouch names pid *and* start time; a process with the same number and another start is a stranger."""
    real = started_at(os.getpid())
    vouched.vouch("payments", os.getpid(), real, "app")

    class Successor(ProcessHandle):
        def __init__(self, pid: int) -> None:
            super().__init__(pid)
            self.start_time += 1

        def parent_pid(self) -> int:
            return 0

    successor = Successor(os.getpid())
    assert vouched.selectors_for(successor) == frozenset()
    successor.close()


def test_listeners_hear_of_each_change_once(vouched: Vouched) -> None:
    heard: list[int] = []
    vouched.on_change(lambda: heard.append(1))
    me = os.getpid(), started_at(os.getpid())
    vouched.vouch("payments", *me, "app")
    vouched.withdraw(*me)
    vouched.withdraw(*me)
    assert len(heard) == 2


def test_descent_is_strict_and_by_start_time(start: Start) -> None:
    child = start(SLEEP)
    word(child)
    me, it = (os.getpid(), started_at(os.getpid())), (child.pid, started_at(child.pid))
    assert is_descendant(ProcessHandle, it, me)
    assert not is_descendant(ProcessHandle, me, it)
    assert not is_descendant(ProcessHandle, me, me)
    assert not is_descendant(ProcessHandle, (it[0], it[1] + 1), me)
    assert not is_descendant(ProcessHandle, it, (me[0], me[1] + 1))
