"""The agent's decision log towards a collector that speaks HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.observe.test_decisions import ordinary

from vestibule.app.agent_decisions import Decisions
from vestibule.observe import decision_push
from vestibule.observe.decision_settings import DecisionLogSettings


class Collector:
    """A small HTTP server that remembers what it was sent."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.taken: list[Any] = []
        self.url = ""

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head.splitlines())
        }
        body = await reader.readexactly(int(headers["content-length"]))
        self.heads.append(head)
        self.taken += json.loads(gzip.decompress(body))
        writer.write(b"HTTP/1.1 204 Taken\r\n\r\n")
        await writer.drain()
        writer.close()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/logs?node=a"
        async with server:
            yield


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_push, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(decision_push, "RETRY_SECONDS", 0.01)


@asynccontextmanager
async def running(decisions: Decisions) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work(), name=name) for name, work in decisions.work()]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_collector_gets_what_the_file_gets(tmp_path: Path) -> None:
    collector = Collector()
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    async with collector.serving():
        settings = DecisionLogSettings(url=collector.url, bearer_token_file=token)
        decisions = Decisions(settings, tmp_path, lambda version: f"commit of {version}")
        async with running(decisions):
            decisions.log.append([ordinary("/a", intent_version="v1"), ordinary("/b", verdict="denied")])
            await until(lambda: len(collector.taken) == 2)
    assert collector.heads[0].startswith("POST /logs?node=a HTTP/1.1\r\n")
    assert "content-encoding: gzip" in collector.heads[0].lower()
    assert "authorization: bearer s3cret" in collector.heads[0].lower()
    assert {each["path"]: each["intent_commit"] for each in collector.taken}["/a"] == "commit of v1"
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    assert sorted(each["id"] for each in map(json.loads, lines)) == sorted(
        each["id"] for each in collector.taken
    )
    assert (tmp_path / "decisions.jsonl").stat().st_mode & 0o777 == 0o600


async def test_decisions_wait_for_a_token_that_others_cannot_read(tmp_path: Path) -> None:
    collector = Collector()
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o644)
    async with collector.serving():
        settings = DecisionLogSettings(file=None, url=collector.url, bearer_token_file=token)
        decisions = Decisions(settings, tmp_path, lambda _: "")
        async with running(decisions):
            decisions.log.append([ordinary("/a")])
            await asyncio.sleep(0.1)
            assert (decisions.waiting, collector.taken) == (1, [])
            token.chmod(0o600)
            await until(lambda: len(collector.taken) == 1)
    assert not (tmp_path / "decisions.jsonl").exists()
