"""Rollouts of a real server: what operators see and do, what agents may report, and what a restart keeps."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.component.server_lab import Lab, running, short_directory
from tests.component.test_server_mesh import (
    ORDERS,
    SERVICES,
    agent_of,
    instance,
    write_intent,
)

from vestibule.app.main import cli
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2
from vestibule.wire.gen.vestibule.admin.v1 import rollout_pb2 as wire
from vestibule.wire.gen.vestibule.node.v1 import node_pb2, traffic_pb2

ADMIN = wire.DESCRIPTOR.services_by_name["RolloutAdmin"]
REPORTS = traffic_pb2.DESCRIPTOR.services_by_name["TrafficReports"]
NEWER = SERVICES["orders"].replace("[GET]", "[GET, PUT]")


@pytest.fixture
def directory() -> Any:
    with short_directory() as made:
        write_intent(made / "intent")
        yield made


@pytest.fixture
async def lab(directory: Path) -> AsyncIterator[Lab]:
    async with running(directory, intent=directory / "intent") as made:
        yield made


def operator(lab: Lab) -> Client:
    return Client(lab.operator.channel, ADMIN)


async def until(lab: Lab, phase: str) -> wire.Rollout:
    async with asyncio.timeout(60):
        while True:
            found: wire.Rollout = await operator(lab).unary("Get", wire.GetRolloutRequest())
            if found.phase == phase:
                return found
            await asyncio.sleep(0.02)


async def rolled(lab: Lab) -> tuple[str, str]:
    """A second intent that counts as good; both versions."""
    old = (await until(lab, "steady")).good
    write_intent(lab.directory / "intent", {"orders": NEWER})
    new = (await until(lab, "all")).trial
    await operator(lab).unary("Promote", wire.SteerRolloutRequest(reason="tested elsewhere"))
    assert (await until(lab, "steady")).good == new
    return old, new


async def test_an_operator_rolls_back_and_on_again_and_all_of_it_is_on_record(lab: Lab) -> None:
    old, new = await rolled(lab)
    request = wire.RollBackRequest(reason="orders are slow")
    back = await operator(lab).unary("RollBack", request)
    assert (back.phase, back.good, back.failed, back.reason) == ("pinned", old, new, "orders are slow")
    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    assert status.intent.version == old
    assert any("orders are slow" in each for each in status.warnings)
    again = await operator(lab).unary("Resume", wire.SteerRolloutRequest())
    assert (again.phase, again.trial) == ("all", new)
    history = await operator(lab).unary("GetHistory", wire.GetRolloutHistoryRequest())
    assert [(each.version, each.outcome) for each in history.intents] == [(new, "trying"), (old, "good")]
    records = (lab.directory / "data" / "audit.jsonl").read_text().splitlines()
    actions = [json.loads(each)["action"] for each in records]
    expected = ["intent.accept", "intent.try", "intent.accept", "intent.rollback", "intent.try"]
    assert [each for each in actions if each.startswith("intent.")] == expected


async def test_what_cannot_be_done_is_refused_with_its_reason(lab: Lab) -> None:
    await until(lab, "steady")
    for method, request, code in (
        ("Resume", wire.SteerRolloutRequest(), "VST3240"),
        ("Promote", wire.SteerRolloutRequest(), "VST3240"),
        ("RollBack", wire.RollBackRequest(), "VST3241"),
        ("RollBack", wire.RollBackRequest(version="0123456789ab"), "VST3241"),
    ):
        with pytest.raises(VestibuleError, match=code):
            await operator(lab).unary(method, request)


async def test_a_proxy_that_is_behind_is_named(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/orders")
    await agent.node.unary("RegisterInstance", node_pb2.RegisterInstanceRequest(instance=instance()))
    found = await until(lab, "steady")
    assert (found.proxies, found.acknowledged) == (1, 0)
    [behind] = found.behind
    assert (behind.instance_id, behind.why) == ("orders-1", "has not connected since the server started")
    assert any("orders-1" in each for each in found.warnings)


async def test_a_restarted_server_goes_on_with_the_last_good_of_a_broken_directory(directory: Path) -> None:
    async with running(directory, intent=directory / "intent") as lab:
        old, _ = await rolled(lab)
        await operator(lab).unary("RollBack", wire.RollBackRequest(reason="slow"))
    (directory / "intent" / "mesh.yaml").write_text("mesh: [")
    async with running(directory, intent=directory / "intent") as lab:
        found = await until(lab, "pinned")
        assert found.good == old
        status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
        assert status.intent.version == old
        assert any("cannot be read" in each for each in status.warnings)
        agent = await agent_of(lab, "/ns/prod/sa/orders")
        request = node_pb2.RegisterInstanceRequest(instance=instance())
        assert (await agent.node.unary("RegisterInstance", request)).lease_seconds > 0
    shutil.rmtree(directory / "intent")
    async with running(directory, intent=directory / "intent") as lab:
        assert (await until(lab, "pinned")).good == old


async def test_an_agent_reports_of_its_own_instances_only(lab: Lab) -> None:
    agent, other = await agent_of(lab, "/ns/prod/sa/orders"), await agent_of(lab, "/ns/prod/sa/web")
    await agent.node.unary("RegisterInstance", node_pb2.RegisterInstanceRequest(instance=instance()))
    write_intent(lab.directory / "intent", {"orders": NEWER})
    await until(lab, "all")

    async def report(who: Any, requests: int, spiffe_id: str = ORDERS, count: int = 1) -> None:
        counted = traffic_pb2.Traffic(inbound=traffic_pb2.Requests(requests=requests))
        line = traffic_pb2.ReportTrafficRequest.Proxy(
            spiffe_id=spiffe_id, instance_id="orders-1", traffic=counted
        )
        request = traffic_pb2.ReportTrafficRequest(proxies=[line] * count)
        await Client(who.channel, REPORTS).unary("Report", request)

    await report(agent, 1)
    await report(other, 1_000_000)
    await report(other, 1_000_000, spiffe_id="nonsense")
    await report(agent, 2)
    with pytest.raises(VestibuleError, match="VST3244"):
        await report(agent, 3, count=1001)
    with pytest.raises(VestibuleError, match="VST2323"):
        await report(await lab.stranger(), 1)


async def test_a_server_without_an_intent_has_no_rollout() -> None:
    with short_directory() as place:
        async with running(place) as lab:
            with pytest.raises(VestibuleError, match="VST3203"):
                await operator(lab).unary("Get", wire.GetRolloutRequest())


def command(lab: Lab, *words: str) -> int:
    """Exit status of a command."""
    try:
        cli.main([*words, "--server-socket", str(lab.ready.socket)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


async def test_the_commands_say_and_do_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = await rolled(lab)
    for words, expected, what in (
        (("rollout",), 0, f"{new}  in force"),
        (("rollback", "--reason", "slow"), 0, f"{old}  rolled back"),
        (("rollout", "--output", "json"), 0, f'"failed": "{new}"'),
        (("rollout", "history"), 0, "rolled-back"),
        (("rollout", "resume"), 0, f"{new}  with all proxies"),
        (("rollout", "pause", "--reason", "lunch"), 0, "lunch"),
        (("rollout", "promote", "--reason", "now"), 0, f"{new}  in force"),
        (("rollout", "promote"), 4, "VST3240"),
    ):
        status = await asyncio.to_thread(command, lab, *words)
        text = "".join(capsys.readouterr())
        assert (status, what in text) == (expected, True), (words, text)


async def test_a_stranger_may_not_steer(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/web")
    for who in (agent, await lab.stranger()):
        with pytest.raises(VestibuleError):
            await Client(who.channel, ADMIN).unary("Get", wire.GetRolloutRequest())
