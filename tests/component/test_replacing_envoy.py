"""A new Envoy in the place of one that serves: under load no request fails, and a bad one changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.component.fake_agent import until
from tests.component.test_sidecar import Stage, answers, role, run, stage  # noqa: F401 - fixtures

from vestibule.app.sidecar_control import ask
from vestibule.errors import VestibuleError
from vestibule.proxy.binary import find_envoy
from vestibule.proxy.codes import ENVOY_INCOMPATIBLE, ENVOY_NOT_REPLACED, ENVOY_TOO_OLD, NOT_A_SIDECAR

pytestmark = pytest.mark.timeout(180)

REPLACEMENTS = 2


@asynccontextmanager
async def load(*urls: str) -> AsyncIterator[tuple[list[int], list[str]]]:
    """Clients that keep their connections, as fast as they can: how many each asked, and what failed."""
    asked, failed, going = [0] * len(urls), [], [True]

    async def client(number: int) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=45) as http:
            while going:
                try:
                    response = await http.get(urls[number])
                    if response.status_code != 200:
                        failed.append(f"{response.status_code} {response.text[:80]}")
                except httpx.HTTPError as error:
                    failed.append(repr(error))
                asked[number] += 1

    tasks = [asyncio.create_task(client(number)) for number in range(len(urls))]
    try:
        yield asked, failed
    finally:
        going.clear()
        await asyncio.gather(*tasks)


def binary(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def refusal(stage: Stage, envoy: Path) -> VestibuleError:  # noqa: F811
    with pytest.raises(VestibuleError) as caught:
        await ask(stage.run, "payments", {"do": "replace-envoy", "envoy": str(envoy)})
    return caught.value


async def test_a_loop_of_replacements_under_load_loses_no_request_in_or_out(stage: Stage) -> None:  # noqa: F811
    running = await stage.sidecar("--drain", "1")
    await running.until_ready()
    instance = stage.agent.instance
    assert instance is not None
    ways = (instance.ingress["http"], instance.ingress["http"], instance.upstreams["ledger"], instance.egress)
    other = stage.run / "another-envoy"
    other.symlink_to(find_envoy())

    async with load(*(f"http://{each}/" for each in ways)) as (asked, failed):
        seen, answers_given = {role(stage.agent, "envoy")}, []
        for number in range(REPLACEMENTS):
            before = list(asked)
            (answer,) = await ask(
                stage.run, "payments", {"do": "replace-envoy", "envoy": str(other) if number == 1 else None}
            )
            answers_given.append(answer)
            seen.add(role(stage.agent, "envoy"))
            assert all(now > then for now, then in zip(asked, before, strict=True))
        # systemd's way to ask: `systemctl reload`.
        os.kill(running.pid, signal.SIGHUP)
        await until(lambda: role(stage.agent, "envoy") not in seen, 45)
        await until(lambda: len(stage.agent.vouched) == 2, 45)

    assert failed == []
    assert len(seen) == REPLACEMENTS + 1
    assert all(each["version"].startswith("1.") for each in answers_given)
    assert answers_given[-1]["envoy"] == str(other), "it stays with the binary that it was given"
    assert stat.S_IMODE((stage.run / "sc").stat().st_mode) & 0o077 in (0, 0o055)
    running.process.terminate()
    assert await running.ended() == 0


async def test_an_envoy_that_does_not_become_ready_changes_nothing(stage: Stage) -> None:  # noqa: F811
    running = await stage.sidecar("--drain", "1")
    await running.until_ready()
    instance = stage.agent.instance
    assert instance is not None
    real, tmp = find_envoy(), stage.run
    says = f'case "$1" in --version|--hot-restart-version) exec {real} "$@";; esac'

    async with load(f"http://{instance.ingress['http']}/") as (asked, failed):
        old = role(stage.agent, "envoy")
        dies = binary(tmp / "dies", f"{says}\nsleep 0.3; echo no such feature; exit 1")
        error = await refusal(stage, dies)
        assert error.code is ENVOY_NOT_REPLACED
        assert "no such feature" in error.message
        ancient = binary(tmp / "ancient", "echo 'envoy  version: 0/1.20.0/Clean/RELEASE/BoringSSL'")
        assert (await refusal(stage, ancient)).code is ENVOY_TOO_OLD
        strange = binary(
            tmp / "strange", f'[ "$1" = --hot-restart-version ] && {{ echo 99.1; exit; }}; exec {real} "$@"'
        )
        assert (await refusal(stage, strange)).code is ENVOY_INCOMPATIBLE
        assert role(stage.agent, "envoy") == old
        # It takes new connections as before, and can still be replaced by a good one.
        assert await answers(instance.ingress["http"])
        await ask(stage.run, "payments", {"do": "replace-envoy"})

    assert asked[0] > 0
    assert failed == []


async def test_one_that_gets_as_far_as_the_admin_interface_gives_it_back(stage: Stage) -> None:  # noqa: F811
    running = await stage.sidecar("--drain", "1")
    await running.until_ready()
    instance = stage.agent.instance
    assert instance is not None
    real = find_envoy()
    dies_late = binary(
        stage.run / "late",
        f'case "$1" in --version|--hot-restart-version) exec {real} "$@";; esac\n'
        f'{real} "$@" & child=$!\n'
        "for i in 1 2 3 4 5 6 7 8 9 10; do [ -S admin.sock ] && sleep 0.02; done\n"
        "kill -9 $child; exit 1",
    )
    async with load(f"http://{instance.ingress['http']}/") as (_, failed):
        assert (await refusal(stage, dies_late)).code is ENVOY_NOT_REPLACED
        assert await answers(instance.ingress["http"])
    assert failed == []
    # What drains it at the end is its admin interface.
    running.process.terminate()
    assert await running.ended() == 0
    assert "draining ends early" not in running.text, running.text


async def test_nobody_of_that_name(stage: Stage) -> None:  # noqa: F811
    with pytest.raises(VestibuleError) as caught:
        await ask(stage.run, "payments", {"do": "replace-envoy"})
    assert caught.value.code is NOT_A_SIDECAR
