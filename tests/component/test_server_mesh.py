"""A server with an intent: who may describe, register and follow what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from grpclib.const import Status
from tests.component.server_lab import Agent, Lab, grpc_error, running, short_directory

from vestibule.calls.ads import PROXY_INSTANCE_ID, PROXY_SPIFFE_ID, SERVICE
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2
from vestibule.wire.gen.vestibule.node.v1 import node_pb2
from vestibule.xds.resources import LISTENER

WEB, ORDERS = "spiffe://example.org/ns/prod/sa/web", "spiffe://example.org/ns/prod/sa/orders"
MESH = """
mesh: shop
trust_domain: example.org
environment: prod
identity: /ns/{environment}/sa/{service}
"""
SERVICES = {
    "web": "service: web\nowner: team-web\nports: {http: {protocol: http}}\n",
    "orders": "service: orders\nowner: team-orders\nports: {http: {protocol: http}}\n"
    "allow: [{id: web-reads, from: [web], methods: [GET], paths: [/**]}]\n",
}


def write_intent(directory: Path, services: dict[str, str] = SERVICES) -> Path:
    (directory / "services").mkdir(parents=True, exist_ok=True)
    (directory / "mesh.yaml").write_text(MESH)
    for name, text in services.items():
        (directory / "services" / f"{name}.yaml").write_text(text)
    return directory


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory, intent=write_intent(directory / "intent")) as made:
            yield made


async def agent_of(lab: Lab, *paths: str) -> Agent:
    agent = await lab.agent()
    for path in paths:
        await lab.entry(path, agent.id)
    return agent


def instance(spiffe_id: str = ORDERS, port: int = 20001, **fields: object) -> node_pb2.Instance:
    values = {
        "id": "orders-1",
        "service": "orders",
        "spiffe_id": spiffe_id,
        "ingress": {"http": f"127.0.0.1:{port}"},
        "apps": {"http": f"127.0.0.1:{port + 1}"},
        "egress": f"127.0.0.1:{port + 2}",
    }
    return node_pb2.Instance(**(values | fields))  # type: ignore[arg-type]


async def refusal(agent: Agent, method: str, request: object) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        await agent.node.unary(method, request)  # type: ignore[arg-type]
    return caught.value


async def test_a_service_is_described_to_the_agent_it_belongs_to(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/web", "/ns/prod/sa/nothing")
    answer = await agent.node.unary("DescribeService", node_pb2.DescribeServiceRequest(spiffe_id=WEB))
    assert answer.service.service == "web"
    assert [each.name for each in answer.service.upstreams] == ["orders"]
    nothing = node_pb2.DescribeServiceRequest(spiffe_id="spiffe://example.org/ns/prod/sa/nothing")
    assert not (await agent.node.unary("DescribeService", nothing)).HasField("service")
    for foreign, expected in ((ORDERS, "VST1302"), ("nonsense", "VST1400")):
        request = node_pb2.DescribeServiceRequest(spiffe_id=foreign)
        assert (await refusal(agent, "DescribeService", request)).code.code == expected


async def test_an_instance_is_registered_for_an_identity_of_the_agent_only(lab: Lab) -> None:
    agent, other = await agent_of(lab, "/ns/prod/sa/orders"), await agent_of(lab, "/ns/prod/sa/web")
    request = node_pb2.RegisterInstanceRequest(instance=instance())
    assert (await agent.node.unary("RegisterInstance", request)).lease_seconds > 0
    assert (await refusal(other, "RegisterInstance", request)).code.code == "VST1302"

    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    [proxy] = status.proxies
    assert (proxy.service, proxy.agent_id, proxy.connected) == ("orders", str(agent.id), False)
    assert status.intent.services == ["orders", "web"]

    # Another agent's word for its end counts for nothing.
    gone = node_pb2.DeregisterInstanceRequest(instance_id="orders-1", spiffe_id=ORDERS)
    await other.node.unary("DeregisterInstance", gone)
    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    assert len(status.proxies) == 1
    await agent.node.unary("DeregisterInstance", gone)
    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    assert len(status.proxies) == 0


async def test_leases_are_renewed_together_for_identities_of_the_agent_only(lab: Lab) -> None:
    agent, other = await agent_of(lab, "/ns/prod/sa/orders"), await agent_of(lab, "/ns/prod/sa/web")
    await agent.node.unary(
        "RegisterInstance", node_pb2.RegisterInstanceRequest(instance=instance(), state=b"1")
    )
    ours = node_pb2.RenewInstancesRequest.Lease(instance_id="orders-1", spiffe_id=ORDERS, state=b"1")
    bad = node_pb2.RenewInstancesRequest.Lease(instance_id="bad", spiffe_id="nonsense", state=b"1")
    request = node_pb2.RenewInstancesRequest(leases=[ours, bad])
    answer = await agent.node.unary("RenewInstances", request)
    assert answer.lease_seconds > 0
    assert list(answer.not_renewed) == ["bad"]
    assert set((await other.node.unary("RenewInstances", request)).not_renewed) == {"orders-1", "bad"}


async def ads(agent: Agent, spiffe_id: str, instance_id: str) -> int:
    """How many listeners a proxy is sent."""
    metadata = {PROXY_SPIFFE_ID: spiffe_id, PROXY_INSTANCE_ID: instance_id}
    client = Client(agent.channel, SERVICE)
    async with asyncio.timeout(60), client.stream("DeltaAggregatedResources", metadata=metadata) as stream:
        request = discovery.DeltaDiscoveryRequest(type_url=LISTENER)
        request.node.id = instance_id
        await stream.send_message(request)
        answer = await stream.recv_message()
        assert answer is not None
        return len(answer.resources)


async def test_a_registered_proxy_follows_its_configuration_through_its_agent(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/orders")
    await agent.node.unary("RegisterInstance", node_pb2.RegisterInstanceRequest(instance=instance()))
    assert await ads(agent, ORDERS, "orders-1") > 0
    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    [listeners] = [each for each in status.proxies[0].types if each.type_url == LISTENER]
    assert listeners.version_sent


async def test_an_agent_follows_no_proxy_of_another_agents_identity(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/web")
    with pytest.raises(VestibuleError) as caught:
        await ads(agent, ORDERS, "orders-1")
    assert grpc_error(caught.value).status is Status.PERMISSION_DENIED


async def test_neither_strangers_nor_the_operator_reach_the_mesh(lab: Lab) -> None:
    stranger = await lab.stranger()
    request = node_pb2.DescribeServiceRequest(spiffe_id=WEB)
    assert (await refusal(stranger, "DescribeService", request)).code.code == "VST2323"
    with pytest.raises(VestibuleError, match="VST2323"):
        await ads(stranger, ORDERS, "orders-1")


async def test_a_changed_intent_is_told_and_a_broken_one_changes_nothing(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/web")
    intent = lab.directory / "intent"
    async with asyncio.timeout(60), agent.node.stream("Watch") as stream:
        await stream.send_message(node_pb2.WatchRequest(), end=True)
        before = await stream.recv_message()
        (intent / "services" / "orders.yaml").write_text(SERVICES["orders"].replace("[web]", "[]"))
        while True:
            status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
            errors = [each for each in status.intent.problems if each.severity == "error"]
            if errors:
                break
            await asyncio.sleep(0.05)
        assert errors[0].where.startswith("services/orders.yaml:")
        assert status.intent.version
        write_intent(intent, {"orders": "service: orders\nowner: x\nports: {http: {protocol: http}}\n"})
        after = await stream.recv_message()
    assert before is not None
    assert after is not None
    assert after.intent_revision != before.intent_revision
    assert after.entries_revision == before.entries_revision
    request = node_pb2.DescribeServiceRequest(spiffe_id=WEB)
    assert not (await agent.node.unary("DescribeService", request)).service.upstreams


async def test_a_server_without_an_intent_says_so() -> None:
    with short_directory() as directory:
        async with running(directory) as lab:
            agent = await agent_of(lab, "/ns/prod/sa/orders")
            request = node_pb2.RegisterInstanceRequest(instance=instance())
            assert (await refusal(agent, "RegisterInstance", request)).code.code == "VST9113"
