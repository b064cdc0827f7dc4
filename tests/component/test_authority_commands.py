"""``vestibule authority``, run as people and programs run it, against a server in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
from tests.component.test_agent import Field, a_world

from vestibule.app.main import cli


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@dataclass(frozen=True)
class Answer:
    returncode: int
    stdout: str


async def authority(world: Field, *words: str) -> Answer:
    """Run in this process: starting an interpreter for each command costs more than all that is tested."""
    return await asyncio.to_thread(_run, ["authority", *words, "--server-socket", str(world.server.socket)])


def _run(words: list[str]) -> Answer:
    with redirect_stdout(StringIO()) as output, pytest.raises(SystemExit) as ended:
        cli.main(words)
    return Answer(int(ended.value.code or 0), output.getvalue())


async def data(world: Field, *words: str) -> Any:
    answer = await authority(world, *words, "--output", "json")
    assert answer.returncode == 0, answer.stdout
    return json.loads(answer.stdout)["data"]


@pytest.mark.parametrize("kind", ["x509", "jwt"])
async def test_the_whole_life_by_command(world: Field, kind: str) -> None:
    first = (await data(world, kind, "show"))["active"]["authority_id"]
    prepared = await data(world, kind, "prepare")
    second = prepared["authority_id"]
    assert (await data(world, kind, "show"))["prepared"] == {**prepared, "tainted": False}
    assert (await data(world, kind, "activate", second))["authority_id"] == second
    tainted = await authority(world, kind, "taint", first)
    assert tainted.returncode == 0
    assert first in tainted.stdout
    assert f"vestibule authority {kind} revoke {first}" in tainted.stdout
    states = await data(world, kind, "show")
    assert states["old"]["authority_id"] == first
    assert states["old"]["tainted"]
    assert not states["active"]["tainted"]
    assert (await data(world, kind, "revoke", first))["authority_id"] == first
    assert (await data(world, kind, "show"))["old"] is None
    log = (world.directory / "server" / "audit.jsonl").read_text().splitlines()
    by_us = [each for each in map(json.loads, log) if each["actor"].startswith("local:")]
    steps = [each["action"].rpartition(".")[2] for each in by_us if "authority" in each["action"]]
    assert steps == ["prepare", "activate", "taint", "revoke"]


async def test_what_is_not_allowed_is_refused_with_its_code_and_exit_status(world: Field) -> None:
    active = (await data(world, "x509", "show"))["active"]["authority_id"]
    for words, code, status in (
        (("x509", "taint", active), "VST1305", 2),
        (("jwt", "activate", "beef"), "VST1304", 2),
        (("upstream", "taint", "beef"), "VST1311", 4),
        (("upstream", "revoke", "beef"), "VST1311", 4),
    ):
        answer = await authority(world, *words, "--output", "json")
        assert answer.returncode == status
        [error] = json.loads(answer.stdout)["errors"]
        assert error["code"] == code
        assert error["advice"]
