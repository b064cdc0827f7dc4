"""Break-glass of a real server: who may open it, what agents report of it, and what a restart keeps."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.component.server_lab import DOMAIN, Agent, Lab, running, short_directory
from tests.component.test_administrators import mint
from tests.component.test_server_mesh import ORDERS, agent_of, write_intent

from vestibule.audit.reading import records
from vestibule.doors.break_glass_api import ADMIN, REPORTS
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2
from vestibule.wire.gen.vestibule.admin.v1 import break_glass_pb2 as wire
from vestibule.wire.gen.vestibule.node.v1 import break_glass_pb2 as node_wire

ADMINISTRATOR = SpiffeId.of(DOMAIN, "/admins/ann")
SETTINGS: dict[str, Any] = {"admin_ids": (ADMINISTRATOR,)}


@pytest.fixture
def directory() -> Any:
    with short_directory() as made:
        write_intent(made / "intent")
        yield made


@pytest.fixture
async def lab(directory: Path) -> AsyncIterator[Lab]:
    async with running(directory, intent=directory / "intent", **SETTINGS) as made:
        yield made


def order(**other: Any) -> wire.OpenRequest:
    told: dict[str, Any] = {
        "caller": "orders",
        "service": "web",
        "method": "POST",
        "reason": "an incident",
        "ticket": "INC-1",
        "approver": "ben",
        "seconds": 600,
    }
    return wire.OpenRequest(**(told | other))


async def opened(lab: Lab, **other: Any) -> wire.Emergency:
    return (await Client(lab.operator.channel, ADMIN).unary("Open", order(**other))).emergency  # type: ignore[no-any-return]


async def listed(lab: Lab) -> list[wire.Emergency]:
    return list(
        (await Client(lab.operator.channel, ADMIN).unary("List", wire.ListEmergenciesRequest())).emergencies
    )


def report(rule: str, batch: str = "b-1", **other: Any) -> node_wire.ReportUsesRequest:
    now = int(time.time() * 1_000_000)
    told: dict[str, Any] = {
        "rule": rule,
        "service": "web",
        "spiffe_id": "spiffe://example.org/ns/prod/sa/web",
        "instance_id": "web-1",
        "caller": ORDERS,
        "port": "http",
        "method": "POST",
        "path": "/x",
        "count": 2,
        "first": now,
        "last": now,
        "request_ids": ["r-1"],
    }
    return node_wire.ReportUsesRequest(batch=batch, uses=[node_wire.EmergencyUse(**(told | other))])


def on_record(lab: Lab, action: str) -> list[dict[str, Any]]:
    found = records(lab.directory / "data" / "audit.jsonl")
    return [each for each in found if each["action"] == f"break-glass.{action}"]


async def refused(agent: Agent, service: Any, method: str, request: Any) -> str:
    with pytest.raises(VestibuleError) as raised:
        await Client(agent.channel, service).unary(method, request)
    return raised.value.code.code


async def test_it_is_opened_on_the_socket_listed_said_by_status_and_closed(lab: Lab) -> None:
    emergency = await opened(lab)
    assert emergency.opener.startswith("local:uid=")
    assert [each.id for each in await listed(lab)] == [emergency.id]
    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    assert any(f"break-glass/{emergency.id} is open" in each for each in status.warnings)
    await Client(lab.operator.channel, ADMIN).unary("Close", wire.CloseRequest(id=emergency.id))
    assert await listed(lab) == []
    assert [each["subject"] for each in on_record(lab, "close")] == [f"break-glass/{emergency.id}"]


async def test_it_outlives_a_restart(directory: Path) -> None:
    settings = {"intent": directory / "intent", **SETTINGS}
    async with running(directory, **settings) as lab:
        emergency = await opened(lab)
    async with running(directory, **settings) as lab:
        assert [each.id for each in await listed(lab)] == [emergency.id]


async def test_an_administrator_opens_it_over_the_port_and_cannot_approve_it(lab: Lab) -> None:
    administrator = await lab.stranger(await mint(lab, ADMINISTRATOR))
    client = Client(administrator.channel, ADMIN)
    assert (await client.unary("Open", order())).emergency.opener == str(ADMINISTRATOR)
    for approver in (str(ADMINISTRATOR), "ann", "Ann"):
        assert await refused(administrator, ADMIN, "Open", order(approver=approver)) == "VST4091"


async def test_agents_and_workloads_open_nothing(lab: Lab) -> None:
    agent = await lab.agent()
    workload = await lab.stranger(await mint(lab, SpiffeId.of(DOMAIN, "/ns/prod/sa/orders")))
    for stranger in (agent, workload):
        assert await refused(stranger, ADMIN, "Open", order()) == "VST2323"
        assert await refused(stranger, ADMIN, "List", wire.ListEmergenciesRequest()) == "VST2323"
    assert await refused(workload, REPORTS, "Report", report("break-glass/x")) == "VST2323"


async def test_what_an_agent_reports_is_on_record_once_and_counted(lab: Lab) -> None:
    emergency = await opened(lab)
    agent = await agent_of(lab, "/ns/prod/sa/web")
    client = Client(agent.channel, REPORTS)
    for _ in range(2):
        await client.unary("Report", report(f"break-glass/{emergency.id}"))
    (found,) = on_record(lab, "use")
    assert (found["actor"], found["outcome"]) == (ORDERS, "ok")
    assert found["details"]["agent"] == str(agent.id)
    assert found["details"]["ticket"] == "INC-1"
    assert [each.uses for each in await listed(lab)] == [2]


async def test_an_agent_that_speaks_of_others_is_on_record_as_that(lab: Lab) -> None:
    emergency = await opened(lab)
    agent = await agent_of(lab, "/ns/prod/sa/orders")
    await Client(agent.channel, REPORTS).unary("Report", report(f"break-glass/{emergency.id}"))
    assert [each["outcome"] for each in on_record(lab, "use")] == ["not an identity of this agent"]


@pytest.mark.parametrize(
    "broken", [{"rule": ""}, {"count": 0}, {"first": 2**62}, {"last": -(2**62)}, {"batch": ""}]
)
async def test_a_report_that_cannot_be_read_is_refused(lab: Lab, broken: dict[str, Any]) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/web")
    told = {"rule": "break-glass/x", **broken}
    assert await refused(agent, REPORTS, "Report", report(**told)) == "VST4095"
    assert on_record(lab, "use") == []


async def test_what_is_reported_cannot_forge_lines_of_the_log(lab: Lab, caplog: Any) -> None:
    emergency = await opened(lab)
    agent = await agent_of(lab, "/ns/prod/sa/web")
    request = report(f"break-glass/{emergency.id}", path="/x\nforged\x1b[2J", request_ids=["y" * 5000])
    await Client(agent.channel, REPORTS).unary("Report", request)
    assert "\nforged" not in caplog.text
    (found,) = on_record(lab, "use")
    assert len(json.dumps(found)) < 2000


async def test_a_server_without_an_intent_has_none() -> None:
    with short_directory() as directory:
        async with running(directory) as lab:
            with pytest.raises(VestibuleError, match="without an intent"):
                await opened(lab)
