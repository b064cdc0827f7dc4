"""Agent and server of the official MCP SDK, which know nothing of sidecars, through two real ones."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.e2e.mesh_lab import PATIENCE, Lab, intent_of, rule, service
from tests.ports import free_port

from vestibule.intent.model import DenyDetail
from vestibule.policy import McpDemand
from vestibule.records import Address

HERE: Final = Path(__file__).parent / "mcp"
TIMEOUT: Final = 0.3
"""Seconds that the mesh gives a request; MCP's may take longer."""


@asynccontextmanager
async def program(
    *words: str, environment: dict[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One of the SDK's programs; it ends with the test."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        env={**os.environ, **(environment or {})},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def listening(port: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with closing(socket.socket()) as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def mesh(port: int) -> AsyncIterator[str]:
    """Two sidecars; where the agent's takes requests."""
    demand = McpDemand(
        tools=("read_note", "slow", "ask_back", "change"),
        resources=("note:///public/*",),
        prompts=("review",),
    )
    notes = service(
        "notes", replace(rule("notes/agent", "agent"), mcp=demand), detail=DenyDetail.CALLER, mcp="mcp"
    )
    async with Lab(intent_of(notes, replace(service("agent"), ports={}), timeout=TIMEOUT)) as lab:
        await lab.add("notes", apps={"mcp": Address(host="127.0.0.1", port=port)})
        agent = await lab.add("agent")
        await lab.ready()
        assert agent.instance.egress is not None
        yield f"http://127.0.0.1:{agent.instance.egress.port}"


async def test_an_agent_reads_that_its_server_cannot_be_reached() -> None:
    async with mesh(free_port()) as proxy:
        environment = {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
        async with program(str(HERE / "client.py"), "legacy", environment=environment) as client:
            output, _ = await client.communicate()

    assert "MCPError: VST3013: the app of notes cannot be reached" in output.decode()


async def what_came_of_it(mode: str, *options: str) -> dict[str, Any]:
    port = free_port()
    async with program(str(HERE / "server.py"), str(port), *options), mesh(port) as proxy:
        await listening(port)
        environment = {"HTTP_PROXY": proxy, "http_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
        async with (
            program(str(HERE / "client.py"), mode, environment=environment) as client,
            asyncio.timeout(60),
        ):
            output, _ = await client.communicate()
    text = output.decode()
    assert client.returncode == 0, text
    return dict(json.loads(text.splitlines()[-1]))


@pytest.mark.parametrize(
    ("mode", "options", "version"),
    [
        ("legacy", (), "2025-11-25"),
        ("auto", (), "2026-07-28"),
        ("auto", ("stateless", "json"), "2026-07-28"),
    ],
    ids=["sessions", "without sessions", "without sessions and streams"],
)
async def test_an_agent_may_do_what_its_rule_names_and_reads_why_not_more(
    mode: str, options: tuple[str, ...], version: str
) -> None:
    found = await what_came_of_it(mode, *options)

    assert found["version"] == version
    assert found["tools"] == ["ask_back", "change", "delete_note", "read_note", "slow"]
    assert found["allowed"]["structured_content"] == {"result": "the text of a"}
    assert found["refused"]["code"] == -32003
    assert found["refused"]["message"].startswith("VST4001: no rule of notes allows tools/call delete_note ")
    assert found["refused"]["data"]["error"] == "VST4001"
    assert found["slow"]["structured_content"] == {"result": "at last"}
    assert found["public"]["contents"][0]["text"] == "public a"
    assert found["secret"]["data"]["error"] == "VST4001"
    assert found["outside"]["data"]["error"] == "VST3025"
    assert "Review a." in json.dumps(found["prompt"])
    assert found["again"]["structured_content"] == {"result": "the text of b"}
    if mode == "legacy":
        assert found["asked"]["structured_content"] == {"result": "the word is please"}, "a client's reply"
        assert found["told"] == ["notifications/tools/list_changed"], "the stream of GET"
    if "json" not in options:
        assert len(found["steps"]) == 10
