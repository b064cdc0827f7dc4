"""What answers of an app mean: a table of thresholds; and how apps are asked."""

from __future__ import annotations

import asyncio

import pytest

from vestibule.agent.sidecars import AppHealth, Checks, Target, Verdict
from vestibule.records import Address, CheckView, Health, Keeper

CHECK = CheckView(kind="tcp", port="http", every=0.001, unhealthy=3, healthy=2)
APP = Address.parse("127.0.0.1:7002")
KEEPER = Keeper(uid=0, pid=1)


@pytest.mark.parametrize(
    ("first", "answers", "last"),
    [
        (Health.STARTING, "+", Health.HEALTHY),
        (Health.STARTING, "-", Health.STARTING),
        (Health.STARTING, "---", Health.UNHEALTHY),
        (Health.STARTING, "--+", Health.HEALTHY),
        (Health.HEALTHY, "--+--", Health.HEALTHY),
        (Health.HEALTHY, "---", Health.UNHEALTHY),
        (Health.UNHEALTHY, "+", Health.UNHEALTHY),
        (Health.UNHEALTHY, "+-+", Health.UNHEALTHY),
        (Health.UNHEALTHY, "++", Health.HEALTHY),
        (Health.UNKNOWN, "+", Health.UNKNOWN),
        (Health.UNKNOWN, "++", Health.HEALTHY),
        (Health.UNKNOWN, "---", Health.UNHEALTHY),
    ],
)
def test_thresholds_count_answers_in_a_row(first: Health, answers: str, last: Health) -> None:
    verdict = Verdict(first)
    for each in answers:
        verdict.take(each == "+", CHECK)
    assert verdict.health is last


async def test_only_so_many_apps_are_asked_at_a_time() -> None:
    asked, most, let_go = 0, 0, asyncio.Event()

    async def ask(check: CheckView, address: Address, protocol: str, keeper: Keeper) -> str | None:
        nonlocal asked, most
        asked, most = asked + 1, max(most, asked + 1)
        await let_go.wait()
        asked -= 1
        return None

    checks = Checks(ask, at_once=2)
    apps = [AppHealth(f"i-{number}", KEEPER, checks, lambda: None) for number in range(5)]
    tasks = [asyncio.create_task(each.run()) for each in apps]
    for each in apps:
        each.expect(Target(CHECK, APP, "http"), reachable=True)
    for _ in range(20):
        await asyncio.sleep(0)
    assert most == 2
    let_go.set()
    async with asyncio.timeout(60):
        while not all(each.health is Health.HEALTHY for each in apps):
            await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_about_an_app_that_moved_meanwhile_counts_for_nothing() -> None:
    asked: list[Address] = []
    app: AppHealth

    async def ask(check: CheckView, address: Address, protocol: str, keeper: Keeper) -> str | None:
        asked.append(address)
        if len(asked) == 1:
            app.expect(Target(CHECK, Address.parse("127.0.0.1:7003"), "http"), reachable=True)
            return None
        assert app.health is Health.STARTING
        return None

    app = AppHealth("i-1", KEEPER, Checks(ask), lambda: None)
    app.expect(Target(CHECK, APP, "http"), reachable=True)
    task = asyncio.create_task(app.run())
    async with asyncio.timeout(60):
        while app.health is not Health.HEALTHY:
            await asyncio.sleep(0)
    assert [each.port for each in asked[:2]] == [7002, 7003]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
