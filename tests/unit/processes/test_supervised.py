"""Keeping one process running."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.processes import (
    Backoff,
    BoundedFile,
    Child,
    Command,
    Ledger,
    Probe,
    ReadyLine,
    Restart,
    Spec,
    State,
    Supervised,
    stop_in_order,
    wait_ready,
)

Until = Callable[..., Awaitable[None]]
QUICK = Backoff(first=0.01, longest=0.05)


def shell(script: str) -> Callable[[], Command]:
    return lambda: Command(argv=("/bin/sh", "-c", script))


async def test_a_ready_line_makes_it_ready(ledger: Ledger, run: Path) -> None:
    log = BoundedFile(run / "log")
    spec = Spec(
        name="a",
        command=shell("echo warming; echo ready: here; sleep 99"),
        ready=ReadyLine("ready:"),
        log=log,
    )
    one = Supervised(spec, ledger)
    running = asyncio.create_task(one.run())
    await wait_ready(one, running)
    assert one.ready_line == "ready: here"
    await one.stop()
    assert await running == -signal.SIGTERM
    assert (run / "log").read_text() == "warming\nready: here\n"


async def test_a_killed_process_is_started_again_and_its_listener_hears_of_both(ledger: Ledger) -> None:
    heard: list[str] = []
    spec = Spec(name="a", command=shell("sleep 99"), backoff=QUICK)
    one = Supervised(
        spec,
        ledger,
        on_start=lambda child: heard.append("start"),
        on_end=lambda child, status: heard.append(f"end {status}"),
    )
    running = asyncio.create_task(one.run())
    await one.ready.wait()
    assert one.child is not None
    first = one.child.pid
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(60):
        while one.child.pid == first or not one.ready.is_set():
            await asyncio.sleep(0.01)
    await one.stop()
    await running
    assert heard == ["start", "end -9", "start", "end -15"]
    assert one.restarts == 1


async def test_a_process_that_never_gets_ready_is_given_up_with_its_last_words(ledger: Ledger) -> None:
    spec = Spec(name="a", command=shell("echo no config; exit 3"), ready=ReadyLine("ready"), backoff=QUICK)
    one = Supervised(spec, ledger)
    with pytest.raises(VestibuleError, match=r"ended 3 times .*exit status 3.*\nno config") as caught:
        await one.run()
    assert caught.value.code.code == "VST7001"


async def test_a_process_that_is_not_ready_in_time_is_stopped(ledger: Ledger) -> None:
    spec = Spec(name="a", command=shell("sleep 99"), ready=ReadyLine("ready"), ready_within=0.2)
    one = Supervised(spec, ledger)
    with pytest.raises(VestibuleError, match=r"not ready after 0.2 s") as caught:
        await one.run()
    assert caught.value.code.code == "VST7002"
    assert one.child is not None
    assert not one.child.running


async def test_a_probe_decides_readiness_and_its_error_ends_the_process(ledger: Ledger) -> None:
    asked = 0

    async def check(child: Child) -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise LookupError("no")
        return False

    one = Supervised(Spec(name="a", command=shell("sleep 99"), ready=Probe(check)), ledger)
    with pytest.raises(LookupError):
        await one.run()
    assert one.child is not None
    assert not one.child.running


@pytest.mark.parametrize(("restart", "status"), [(Restart.NEVER, 5), (Restart.ON_FAILURE, 0)])
async def test_restart_rules(ledger: Ledger, restart: Restart, status: int) -> None:
    one = Supervised(Spec(name="a", command=shell(f"exit {status}"), restart=restart), ledger)
    assert await one.run() == status
    assert one.state is State.ENDED


async def test_cancelling_leaves_no_process(ledger: Ledger) -> None:
    one = Supervised(Spec(name="a", command=shell("trap '' TERM; while :; do sleep 1; done")), ledger)
    running = asyncio.create_task(one.run())
    await one.ready.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert one.child is not None
    assert not one.child.running


async def test_kill_cuts_a_stop_short(ledger: Ledger) -> None:
    spec = Spec(
        name="a", command=shell("trap '' TERM; echo up; while :; do sleep 1; done"), ready=ReadyLine("up")
    )
    one = Supervised(spec, ledger)
    running = asyncio.create_task(one.run())
    await wait_ready(one, running)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0)
    one.kill()
    async with asyncio.timeout(60):
        await stopping
        assert await running == -signal.SIGKILL


async def test_groups_stop_in_order(ledger: Ledger) -> None:
    ended: list[str] = []

    def note(name: str) -> Callable[[Child, int], None]:
        return lambda child, status: ended.append(name)

    ones = [
        Supervised(Spec(name=name, command=shell("sleep 99")), ledger, on_end=note(name))
        for name in ("a", "b")
    ]
    tasks = [asyncio.create_task(one.run()) for one in ones]
    for one in ones:
        await one.ready.wait()
    await stop_in_order([[ones[1]], [ones[0]]])
    await asyncio.gather(*tasks)
    assert ended == ["b", "a"]


async def test_output_files_are_bounded(ledger: Ledger, run: Path) -> None:
    log = BoundedFile(run / "log", most=1000)
    script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; printf 'the end'"
    one = Supervised(Spec(name="a", command=shell(script), restart=Restart.NEVER, log=log), ledger)
    await one.run()
    sizes = {path.name: path.stat().st_size for path in run.glob("log*")}
    assert set(sizes) == {"log", "log.1"} or sizes["log"] <= 70_000
    assert one.tail.endswith("line 499\nthe end")
    assert (run / "log").stat().st_mode & 0o777 == 0o600
