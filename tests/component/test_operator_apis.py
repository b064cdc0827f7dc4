"""Logger, debug and health of a running server and agent, as SPIRE's clients call them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from tests.component.server_lab import Lab, grpc_error, running, short_directory
from tests.component.test_agent import Field, a_world

from vestibule.calls.unix import unix_channel
from vestibule.doors.reflection import NAME
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.wire.gen.grpc import health_pb2, reflection_v1_pb2
from vestibule.wire.gen.spire import (
    agent_debug_pb2,
    agent_logger_pb2,
    debug_pb2,
    logger_pb2,
)
from vestibule.wire.gen.spire.logger_types_pb2 import DEBUG, ERROR, UNSPECIFIED, LogLevel

SERVER_LOGGER = logger_pb2.DESCRIPTOR.services_by_name["Logger"]
SERVER_DEBUG = debug_pb2.DESCRIPTOR.services_by_name["Debug"]
AGENT_LOGGER = agent_logger_pb2.DESCRIPTOR.services_by_name["Logger"]
AGENT_DEBUG = agent_debug_pb2.DESCRIPTOR.services_by_name["Debug"]
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(autouse=True)
def launch_level() -> Iterator[int]:
    """What the logger was at before goes on after."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    yield before
    root.setLevel(before)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory) as made:
            yield made


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@asynccontextmanager
async def calls(path: Path, service: Any) -> AsyncIterator[Client]:
    channel = unix_channel(path)
    try:
        yield Client(channel, service)
    finally:
        channel.close()


def audited(lab: Lab, action: str) -> list[dict[str, Any]]:
    lines = (lab.directory / "data" / "audit.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line.get("action") == action]


async def test_the_server_s_log_level_is_changed_and_set_back_and_both_are_on_record(lab: Lab) -> None:
    logger = Client(lab.operator.channel, SERVER_LOGGER)
    now = await logger.unary("GetLogger", logger_pb2.GetLoggerRequest())
    assert (now.current_level, now.launch_level) == (LogLevel.Value("INFO"), LogLevel.Value("INFO"))
    now = await logger.unary("SetLogLevel", logger_pb2.SetLogLevelRequest(new_level=DEBUG))
    assert (now.current_level, now.launch_level) == (DEBUG, LogLevel.Value("INFO"))
    assert logging.getLogger("vestibule.any").isEnabledFor(logging.DEBUG)
    now = await logger.unary("ResetLogLevel", logger_pb2.ResetLogLevelRequest())
    assert now.current_level == LogLevel.Value("INFO")
    assert not logging.getLogger("vestibule.any").isEnabledFor(logging.DEBUG)
    assert [each["details"]["level"] for each in audited(lab, "logger.set")] == ["debug"]
    [reset] = audited(lab, "logger.reset")
    assert reset["actor"].startswith("local:uid=")


async def test_a_level_that_does_not_exist_changes_nothing(lab: Lab) -> None:
    logger = Client(lab.operator.channel, SERVER_LOGGER)
    for level in (UNSPECIFIED, 99):
        request = logger_pb2.SetLogLevelRequest.FromString(bytes([8, level]))
        with pytest.raises(VestibuleError, match="VST2203"):
            await logger.unary("SetLogLevel", request)
    assert logging.getLogger().level == logging.INFO
    assert audited(lab, "logger.set") == []


async def test_the_server_counts_what_it_keeps_and_shows_its_chain(lab: Lab) -> None:
    debug = Client(lab.operator.channel, SERVER_DEBUG)
    agent = await lab.agent()
    await lab.entry("/ns/a/sa/b", agent.id)
    info = await debug.unary("GetInfo", debug_pb2.GetInfoRequest())
    assert (info.agents_count, info.federated_bundles_count) == (1, 1), (
        "as SPIRE counts, our own is one of them"
    )
    assert info.entries_count >= 1
    assert 0 <= info.uptime < 120
    assert [each.id.path for each in info.svid_chain] == ["/spire/server", ""]
    assert all(each.expires_at for each in info.svid_chain)
    assert "CN=" in info.svid_chain[-1].subject or "O=" in info.svid_chain[-1].subject


async def test_the_server_s_health_is_told_at_once_and_for_the_whole_of_it_only(lab: Lab) -> None:
    health = Client(lab.operator.channel, HEALTH)
    assert (await health.unary("Check", health_pb2.HealthCheckRequest())).status == SERVING
    listed = await health.unary("List", health_pb2.HealthListRequest())
    assert {name: each.status for name, each in listed.statuses.items()} == {"": SERVING}
    with pytest.raises(VestibuleError) as caught:
        await health.unary("Check", health_pb2.HealthCheckRequest(service="spire.api.server.svid.v1.SVID"))
    assert grpc_error(caught.value).status is Status.INVALID_ARGUMENT
    async with asyncio.timeout(60), health.stream("Watch") as stream:
        await stream.send_message(health_pb2.HealthCheckRequest(), end=True)
        assert (await stream.recv_message()).status == SERVING
    async with asyncio.timeout(60), health.stream("Watch") as stream:
        await stream.send_message(health_pb2.HealthCheckRequest(service="x"), end=True)
        assert (await stream.recv_message()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.mark.parametrize(
    ("service", "method", "request_of"),
    [
        (SERVER_LOGGER, "GetLogger", logger_pb2.GetLoggerRequest),
        (SERVER_LOGGER, "SetLogLevel", logger_pb2.SetLogLevelRequest),
        (SERVER_LOGGER, "ResetLogLevel", logger_pb2.ResetLogLevelRequest),
        (SERVER_DEBUG, "GetInfo", debug_pb2.GetInfoRequest),
        (HEALTH, "Check", health_pb2.HealthCheckRequest),
        (HEALTH, "List", health_pb2.HealthListRequest),
    ],
)
async def test_nobody_but_the_operator_may_have_them(
    lab: Lab, service: Any, method: str, request_of: Any
) -> None:
    for caller in (await lab.stranger(), await lab.agent()):
        with pytest.raises(VestibuleError) as caught:
            await Client(caller.channel, service).unary(method, request_of())
        assert grpc_error(caught.value).status is Status.PERMISSION_DENIED


async def test_the_agent_s_log_level_and_counts_are_on_its_private_socket_only(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/app", "unix:uid:123456")
    async with calls(agent.settings.admin_socket_path, AGENT_LOGGER) as logger:
        request = agent_logger_pb2.SetLogLevelRequest(new_level=ERROR)
        assert (await logger.unary("SetLogLevel", request)).current_level == ERROR
        assert logging.getLogger().level == logging.ERROR
        answer = await logger.unary("ResetLogLevel", agent_logger_pb2.ResetLogLevelRequest())
        assert answer.current_level == answer.launch_level == LogLevel.Value("INFO")
    async with calls(agent.settings.admin_socket_path, AGENT_DEBUG) as debug, asyncio.timeout(60):
        info = await debug.unary("GetInfo", agent_debug_pb2.GetInfoRequest())
        while info.cached_x509_svids_count < 1:
            await asyncio.sleep(0.05)
            info = await debug.unary("GetInfo", agent_debug_pb2.GetInfoRequest())
    assert f"spiffe://{info.svid_chain[0].id.trust_domain}{info.svid_chain[0].id.path}" == str(agent.id)
    assert len(info.svid_chain) == 2
    assert info.svids_count == info.cached_x509_svids_count
    assert info.last_sync_success > 0
    for service, method, empty in (
        (AGENT_LOGGER, "GetLogger", agent_logger_pb2.GetLoggerRequest()),
        (AGENT_DEBUG, "GetInfo", agent_debug_pb2.GetInfoRequest()),
    ):
        async with calls(agent.settings.socket_path, service) as public:
            with pytest.raises(VestibuleError) as caught:
                await public.unary(method, empty)
        assert grpc_error(caught.value).status is Status.UNIMPLEMENTED


async def test_anybody_may_ask_the_agent_for_its_health_and_for_what_it_serves(world: Field) -> None:
    agent = await world.agent()
    async with calls(agent.settings.socket_path, HEALTH) as health:
        assert (await health.unary("Check", health_pb2.HealthCheckRequest())).status == SERVING
    service = reflection_v1_pb2.DESCRIPTOR.services_by_name[NAME]
    async with (
        calls(agent.settings.socket_path, service) as client,
        asyncio.timeout(60),
        client.stream("ServerReflectionInfo") as stream,
    ):
        question = reflection_v1_pb2.ServerReflectionRequest(list_services="*")
        await stream.send_message(question, end=True)
        answer = await stream.recv_message()
    served = [each.name for each in answer.list_services_response.service]
    assert "SpiffeWorkloadAPI" in served
    assert "envoy.service.secret.v3.SecretDiscoveryService" in served
    assert "grpc.health.v1.Health" in served
    assert "grpc.reflection.v1alpha.ServerReflection" in served
    assert not [name for name in served if "Debug" in name or "Logger" in name or "Admin" in name]
