"""Break-glass while the server is away, or the agent: it ends on time, and its uses are on record afterwards, once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.test_up import Up, belonging_to, up

from vestibule.audit.reading import records

pytestmark = pytest.mark.timeout(300)


def process_of(running: Up, part: str) -> int:
    """The process of the server or agent that `up` started."""
    return next(pid for pid, words in belonging_to(running.note.runtime).items() if f" {part} run" in words)


def on_record(running: Up, rule: str) -> int:
    """Uses that the server's audit log has."""
    found = records(running.state / "server" / "audit.jsonl")
    return sum(
        each["details"]["count"]
        for each in found
        if each["action"] == "break-glass.use" and each["subject"] == rule
    )


async def vestibule(running: Up, *words: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "vestibule", *words, "--output", "json", "--server-socket", str(running.note.server_socket)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return json.loads(out)["data"]


async def open_it(running: Up, lasts: str) -> Any:
    return await vestibule(
        running,
        *("break-glass", "open", "--from", "reports", "--to", "payments", "--for", lasts),
        *("--reason", "an outage", "--ticket", "INC-9", "--approver", "ann"),
    )


async def until(condition: Callable[[], Any], what: str) -> Any:
    async with asyncio.timeout(60):
        while not (found := condition()):
            await asyncio.sleep(0.05)
        return found
    raise AssertionError(what)


async def test_it_ends_on_time_and_its_uses_are_on_record_when_the_server_is_back(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        proxy = f"http://{running.envelope['data']['egress']['reports']}"
        mounts = {"http://": httpx.AsyncHTTPTransport(proxy=proxy)}
        async with httpx.AsyncClient(mounts=mounts, timeout=60) as caller:

            async def ask() -> int:
                return (await caller.post("http://payments/v1/charges", content="{}")).status_code

            assert await ask() == 403
            used, opened = 0, {"rule": ""}
            # Longer, where the first is too short for the machine.
            for lasts in (6, 18, 54):
                opened = await open_it(running, f"{lasts}s")
                ends = time.monotonic() + lasts
                while (status := await ask()) != 200 and time.monotonic() < ends:
                    await asyncio.sleep(0.02)
                server = process_of(running, "server")
                os.kill(server, signal.SIGSTOP)
                try:
                    async with asyncio.timeout(2 * lasts + 30):
                        while await ask() == 200:
                            used += 1
                            await asyncio.sleep(0.1)
                    assert await ask() == 403
                finally:
                    os.kill(server, signal.SIGCONT)
                if used:
                    # The one before it, too.
                    assert status == 200
                    break
            assert used, "the proxies went on without the server"
        await until(lambda: on_record(running, opened["rule"]) >= used + 1, "every use on record")
        assert on_record(running, opened["rule"]) == used + 1
        running.process.send_signal(signal.SIGINT)
        await running.end()


async def test_uses_while_the_agent_is_away_are_on_record_once(tmp_path: Path) -> None:
    async with up(tmp_path) as running:
        proxy = f"http://{running.envelope['data']['egress']['reports']}"
        mounts = {"http://": httpx.AsyncHTTPTransport(proxy=proxy)}
        async with httpx.AsyncClient(mounts=mounts, timeout=60) as caller:

            async def ask() -> int:
                return (await caller.post("http://payments/v1/charges", content="{}")).status_code

            opened = await open_it(running, "9m")
            async with asyncio.timeout(60):
                while await ask() != 200:
                    await asyncio.sleep(0.02)
            used = 1
            agent = process_of(running, "agent")
            # It hears of these late, by both ways.
            os.kill(agent, signal.SIGSTOP)
            for _ in range(5):
                assert await ask() == 200
                used += 1
            os.kill(agent, signal.SIGCONT)
            await until(lambda: on_record(running, opened["rule"]) >= used, "uses of a slow agent")
            # What it was sent of these ends with it.
            os.kill(agent, signal.SIGSTOP)
            for _ in range(5):
                assert await ask() == 200
                used += 1
            await asyncio.to_thread(kept_on_disk, running.note.runtime)
            os.kill(agent, signal.SIGKILL)
            await until(lambda: on_record(running, opened["rule"]) >= used, "uses that the agent never heard")
            assert await ask() == 200
            used += 1
            await until(lambda: on_record(running, opened["rule"]) >= used, "the next use")
            assert on_record(running, opened["rule"]) == used
        running.process.send_signal(signal.SIGINT)
        await running.end()


def kept_on_disk(runtime: Path) -> None:
    """Wait until a sidecar keeps uses on disk, for nobody else to read."""
    deadline = time.monotonic() + 60
    while not (found := list(runtime.rglob("uses/*.jsonl"))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found[0].stat().st_mode & 0o777 == 0o600
    assert found[0].parent.stat().st_mode & 0o777 == 0o700
