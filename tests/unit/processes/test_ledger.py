"""What a kill -9 leaves behind is found and ended, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.processes import Command, Ledger, procfs, sweep

Until = Callable[..., Awaitable[None]]


def _alive(pid: int) -> bool:
    started = procfs.start_time(pid)
    return started is not None and procfs.is_running(pid, started)


async def test_a_sweep_ends_grandchildren_that_left_every_group(run: Path, until: Until) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, pathlib
        from vestibule.processes import Command, Ledger
        async def main():
            ledger = Ledger(pathlib.Path("{run}/s1"))
            ledger.open()
            ledger.start("app", Command(argv=("sh", "-c", "setsid sleep 1000 & echo $! > {run}/p; sleep 1000")))
            await asyncio.sleep(1000)
        asyncio.run(main())
        """
    )
    starter = subprocess.Popen([sys.executable, "-c", program])
    await until(lambda: (run / "p").exists() and (run / "p").read_text().strip().isdigit())
    grandchild = int((run / "p").read_text())
    await until(lambda: procfs.command_line(grandchild) == "sleep 1000")
    assert sweep(run) == [], "a living owner is left alone"
    starter.kill()
    starter.wait()
    assert _alive(grandchild)

    ended = sweep(run)

    assert not _alive(grandchild)
    assert any(f"pid {grandchild}" in words for words in ended)
    assert not (run / "s1").exists()


async def test_a_reused_pid_is_left_alone(run: Path, ledger: Ledger) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        old = run / "old"
        owner = Ledger(old)
        owner.open()
        document = json.loads((old / "ledger.json").read_text())
        started = procfs.start_time(bystander.pid)
        assert started is not None
        document["processes"] = [{"name": "app", "pid": bystander.pid, "start_time": started - 1}]
        owner.close()
        (old / "ledger.json").write_text(json.dumps(document))
        assert sweep(run) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_a_ledger_of_another_boot_ends_nothing(run: Path) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        old = Ledger(run / "old")
        old.open()
        old.close()
        entry = {"name": "app", "pid": bystander.pid, "start_time": procfs.start_time(bystander.pid)}
        (run / "old/ledger.json").write_text(json.dumps({"boot": "x", "mark": "m", "processes": [entry]}))
        assert sweep(run) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"boot": 1}', '{"boot":"b","mark":"","processes":[{"x":1}]}']
)
def test_an_unreadable_ledger_is_cleaned_away(run: Path, text: str) -> None:
    owner = Ledger(run / "old")
    owner.open()
    owner.close()
    (run / "old/ledger.json").write_text(text)
    assert sweep(run) == []
    assert not (run / "old").exists()


def test_a_directory_has_one_owner(ledger: Ledger) -> None:
    with pytest.raises(VestibuleError, match="in use") as caught:
        Ledger(ledger.directory).open()
    assert caught.value.code.code == "VST7004"


def test_directories_are_taken_while_others_sweep(run: Path) -> None:
    """Sidecars that start together each sweep what the others are just making."""
    parent = run / "together"
    done = threading.Event()

    def sweep_on() -> None:
        while not done.is_set():
            sweep(parent)

    def take(taker: int) -> None:
        for turn in range(100):
            ledger = Ledger(parent / f"{taker}-{turn}")
            ledger.open()
            assert (ledger.directory / "ledger.json").exists()
            ledger.close(remove=True)

    with ThreadPoolExecutor(6) as pool:
        sweepers = [pool.submit(sweep_on) for _ in range(3)]
        takers = [pool.submit(take, taker) for taker in range(3)]
        wait(takers)
        done.set()
        for each in takers + sweepers:
            each.result()
    assert list(parent.iterdir()) == []


def test_a_directory_open_to_others_is_refused(run: Path) -> None:
    (run / "open").mkdir(mode=0o755)
    with pytest.raises(VestibuleError, match="open to other users") as caught:
        Ledger(run / "open").open()
    assert caught.value.code.code == "VST7003"


def test_a_symbolic_link_is_refused(run: Path) -> None:
    (run / "real").mkdir(mode=0o700)
    (run / "link").symlink_to(run / "real")
    with pytest.raises(VestibuleError, match="not a directory of its own"):
        Ledger(run / "link").open()


async def test_family_and_strays(ledger: Ledger, run: Path, until: Until) -> None:
    child = ledger.start(
        "app", Command(argv=("sh", "-c", f"setsid sleep 999 & echo $! > {run}/p; sleep 999"))
    )
    other = ledger.start("apple", Command(argv=("sleep", "999")))
    await until(lambda: (run / "p").exists() and (run / "p").read_text().strip().isdigit())
    stray = int((run / "p").read_text())
    assert {child.pid, stray} <= ledger.family("app")
    assert other.pid not in ledger.family("app")
    await child.kill()
    assert _alive(stray)
    await asyncio.to_thread(ledger.end_strays, "app")
    assert not _alive(stray)
    assert other.running
    await other.stop(1)
    assert other.returncode == -signal.SIGTERM


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """As on a full disk; new empty files are still possible."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_ends_nothing_that_runs_and_hides_nothing_from_a_sweep(run: Path) -> None:
    ledger = Ledger(run / "s1")
    ledger.open()
    with no_file_may_grow():
        child = ledger.start("app", Command(argv=("sleep", "1000")))
    assert _alive(child.pid)
    assert child.pid in ledger.family("app")
    # Its owner dies now: the record has no entry for the child, but the child has its mark.
    assert json.loads((run / "s1" / "ledger.json").read_text())["processes"] == []
    assert ledger._lock is not None
    os.close(ledger._lock)
    [ended] = await asyncio.to_thread(sweep, run)
    assert "sleep 1000" in ended
    await child.wait()


def test_a_full_disk_at_the_start_is_explained(run: Path) -> None:
    with no_file_may_grow(), pytest.raises(VestibuleError, match="VST7006"):
        Ledger(run / "s1").open()
    assert not (run / "s1").exists()
