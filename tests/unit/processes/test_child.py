"""Starting, ending and outliving."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.processes import Child, Command, ended_how, procfs, secret_descriptor

Until = Callable[..., Awaitable[None]]


def shell(script: str, **more: object) -> Command:
    return Command(argv=("/bin/sh", "-c", script), **more)  # type: ignore[arg-type]


async def test_a_child_tells_its_exit_status() -> None:
    assert await Child.start(shell("exit 7")).wait() == 7


async def test_a_killed_child_tells_the_signal_in_words() -> None:
    child = Child.start(shell("kill -9 $$"))
    assert ended_how(await child.wait()) == "killed by SIGKILL"


async def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(VestibuleError, match="cannot start /no/such: No such file") as caught:
        Child.start(Command(argv=("/no/such",)))
    assert caught.value.code.code == "VST7000"


async def test_stopping_a_stubborn_child_ends_in_sigkill(run: Path, until: Until) -> None:
    child = Child.start(shell(f"trap '' TERM; touch {run}/up; while :; do sleep 1; done"))
    await until((run / "up").exists)
    assert await child.stop(grace=0.3) == -signal.SIGKILL


async def test_the_end_of_a_leader_ends_its_group(run: Path, until: Until) -> None:
    child = Child.start(shell(f"sleep 1000 & echo $! > {run}/pid"))
    await child.wait()
    left = int((run / "pid").read_text())
    await until(lambda: procfs.start_time(left) is None or not _alive(left))


async def test_a_secret_reaches_the_child_by_descriptor_only(run: Path) -> None:
    descriptor = secret_descriptor(b"hush")
    child = Child.start(
        shell(f"cat /proc/self/fd/{descriptor} > {run}/got; cat /proc/$$/cmdline /proc/$$/environ > {run}/seen",
              hand_over=(descriptor,))
    )  # fmt: skip
    assert await child.wait() == 0
    assert (run / "got").read_bytes() == b"hush"
    assert b"hush" not in (run / "seen").read_bytes()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)


async def test_children_die_when_their_starter_is_killed(run: Path, until: Until) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio, pathlib
        from vestibule.processes import Child, Command
        async def main():
            child = Child.start(Command(argv=("sleep", "1000")))
            pathlib.Path("{run}/pid").write_text(str(child.pid))
            await child.wait()
        asyncio.run(main())
        """
    )
    starter = subprocess.Popen([sys.executable, "-c", program])
    await until(lambda: (run / "pid").exists() and (run / "pid").read_text() != "")
    pid = int((run / "pid").read_text())
    assert _alive(pid)
    starter.kill()
    starter.wait()
    await until(lambda: not _alive(pid))


async def test_children_are_started_from_the_main_thread_only() -> None:
    with pytest.raises(RuntimeError, match="main thread"):
        await asyncio.to_thread(Child.start, shell("true"))


def _alive(pid: int) -> bool:
    started = procfs.start_time(pid)
    return started is not None and procfs.is_running(pid, started)
