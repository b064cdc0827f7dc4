"""Configuration without a sidecar: workloads with SVIDs at the server, and processes at the agent's socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from grpclib.const import Status
from tests.component.server_lab import Agent, Lab, grpc_error, running, short_directory, svid_of
from tests.component.test_server_mesh import MESH, ORDERS, WEB, agent_of, instance, write_intent
from tests.component.xds_peers import CLOCK, PROXY, Server, until
from tests.component.xds_peers import WEB as PEER
from tests.component.xds_peers import agent_of as relaying
from tests.unit.xds.conversation import world

from vestibule.calls.ads import SERVICE
from vestibule.doors.ads import AgentAdsDoor
from vestibule.doors.rollout_api import SERVICE as ROLLOUTS
from vestibule.doors.xds_services import SERVICES
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.net.grpc_server import GrpcServer
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import entry_pb2, svid_pb2
from vestibule.wire.gen.vestibule.admin.v1 import rollout_pb2
from vestibule.wire.gen.vestibule.node.v1 import node_pb2
from vestibule.xds.clients import ClientKind, client_key, client_kind
from vestibule.xds.codes import PROXY_NOT_ALLOWED
from vestibule.xds.ledger import Ledger
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES

INTENT = {
    "web": "service: web\nports: {http: {protocol: http}}\n",
    "orders": "service: orders\nports: {http: {protocol: http}}\n"
    "allow: [{id: web-reads, from: [web], methods: [GET], paths: [/**]}]\n",
    "stock": "service: stock\nports: {grpc: {protocol: grpc}}\nallow: [{id: web-asks, from: [web]}]\n",
}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    assert MESH
    with short_directory() as directory:
        async with running(directory, intent=write_intent(directory / "intent", INTENT)) as made:
            yield made


async def workload(lab: Lab, spiffe_id: str) -> Agent:
    """A client with an SVID, as an operator would mint it."""
    key = generate_key()
    request = svid_pb2.MintX509SVIDRequest(csr=make_csr(key, SpiffeId.parse(spiffe_id)), ttl=600)
    answer = await lab.operator.svids.unary("MintX509SVID", request)
    return await lab.stranger(svid_of(answer.svid.cert_chain, key))


async def registered(lab: Lab) -> None:
    """Entries for web and orders, and an instance of orders."""
    agent = await agent_of(lab, "/ns/prod/sa/orders", "/ns/prod/sa/web")
    await agent.node.unary("RegisterInstance", node_pb2.RegisterInstanceRequest(instance=instance()))


async def everything(
    caller: Any, node: str, url: str, *, user_agent: str = "envoy", names: tuple[str, ...] = ()
) -> dict[str, bytes]:
    """All of a type that a client is told in its first response, over ADS."""
    client = Client(caller, SERVICE)
    async with asyncio.timeout(60), client.stream("DeltaAggregatedResources") as stream:
        request = discovery.DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=names)
        request.node.id = node
        request.node.user_agent_name = user_agent
        await stream.send_message(request)
        answer = await stream.recv_message()
        assert answer is not None
        return {each.name: each.resource.value for each in answer.resources}


async def answer(caller: Any, service: Any, method: str, request: Any) -> Any:
    """The first response to a request."""
    async with asyncio.timeout(60), Client(caller, service).stream(method) as stream:
        await stream.send_message(request)
        return await stream.recv_message()


async def test_a_workload_gets_what_its_own_service_may_call_and_nothing_else(lab: Lab) -> None:
    await registered(lab)
    web, orders = await workload(lab, WEB), await workload(lab, ORDERS)
    assert set(await everything(web.channel, "mine", CLUSTER)) == {"orders/http", "stock/grpc"}
    assert set(await everything(web.channel, "mine", ROUTES, names=("egress", "ingress/http"))) == {"egress"}
    assert await everything(orders.channel, "mine", CLUSTER) == {}
    assert await everything(web.channel, "mine", LISTENER) == {}


async def test_the_proxy_of_a_registered_instance_may_come_itself(lab: Lab) -> None:
    await registered(lab)
    orders = await workload(lab, ORDERS)
    assert "ingress/http" in await everything(orders.channel, "orders-1", LISTENER)


async def test_a_workload_has_no_say_in_rollouts_under_the_name_of_its_own_instance(lab: Lab) -> None:
    """Else whoever has got hold of an SVID could refuse what is to stop him, in the place of the real proxy."""
    await registered(lab)
    orders = await workload(lab, ORDERS)
    async with (
        asyncio.timeout(60),
        Client(orders.channel, SERVICE).stream("DeltaAggregatedResources") as stream,
    ):
        request = discovery.DeltaDiscoveryRequest(type_url=LISTENER)
        request.node.id = "orders-1"
        await stream.send_message(request)
        first = await stream.recv_message()
        refusal = discovery.DeltaDiscoveryRequest(type_url=LISTENER, response_nonce=first.nonce)
        refusal.error_detail.code, refusal.error_detail.message = 3, "no"
        await stream.send_message(refusal)
        await stream.send_message(discovery.DeltaDiscoveryRequest(type_url=CLUSTER))
        await stream.recv_message()
        found = await Client(lab.operator.channel, ROLLOUTS).unary("Get", rollout_pb2.GetRolloutRequest())
        assert [each.why for each in found.behind] == ["has not connected since the server started"]


async def test_t25_a_node_id_that_is_not_the_svids_is_refused(lab: Lab) -> None:
    """Neither another service's instance nor an identity that no entry gives."""
    await registered(lab)
    for spiffe_id, node in ((WEB, "orders-1"), ("spiffe://example.org/ns/prod/sa/nobody", "mine")):
        caller = await workload(lab, spiffe_id)
        with pytest.raises(VestibuleError, match="VST3107") as raised:
            await everything(caller.channel, node, LISTENER)
        assert grpc_error(raised.value).status is Status.PERMISSION_DENIED
    caller = await workload(lab, WEB)
    with pytest.raises(VestibuleError, match="VST3100"):
        await everything(caller.channel, "", CLUSTER)


async def test_t26_a_stream_ends_when_the_entry_goes(lab: Lab) -> None:
    agent = await lab.agent()
    entry = await lab.entry("/ns/prod/sa/web", agent.id)
    web = await workload(lab, WEB)
    told = []

    async def follow() -> None:
        async with Client(web.channel, SERVICE).stream("StreamAggregatedResources") as stream:
            request = discovery.DiscoveryRequest(type_url=CLUSTER)
            request.node.id = "mine"
            await stream.send_message(request)
            while (message := await stream.recv_message()) is not None:
                told.append(message)

    following = asyncio.create_task(follow())
    await until(lambda: told)
    assert len(told[0].resources) == 2
    await lab.operator.entries.unary("BatchDeleteEntry", entry_pb2.BatchDeleteEntryRequest(ids=[entry]))
    with pytest.raises(VestibuleError, match="VST3107"):
        await asyncio.wait_for(following, 60)


async def test_each_type_has_a_service_of_its_own_in_both_variants_and_for_single_requests(lab: Lab) -> None:
    await registered(lab)
    web = await workload(lab, WEB)
    nouns = {CLUSTER: "Clusters", ENDPOINTS: "Endpoints", ROUTES: "Routes"}
    expected = {CLUSTER: {"orders/http", "stock/grpc"}, ENDPOINTS: {"orders/http"}, ROUTES: {"egress"}}
    for url, noun in nouns.items():
        client = Client(web.channel, SERVICES[url])
        wanted = tuple(expected[url]) if url != CLUSTER else ()
        delta = discovery.DeltaDiscoveryRequest(resource_names_subscribe=wanted)
        whole = discovery.DiscoveryRequest(resource_names=wanted)
        delta.node.id = whole.node.id = "mine"
        for kind, request in (("Delta", delta), ("Stream", whole)):
            async with asyncio.timeout(60), client.stream(f"{kind}{noun}") as stream:
                await stream.send_message(request)
                assert len((await stream.recv_message()).resources) == len(expected[url])
        fetched = await client.unary(f"Fetch{noun}", whole)
        assert {each.type_url for each in fetched.resources} == {url}
    assert SERVICES.keys() == {CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION}


async def test_a_service_of_one_type_serves_no_other(lab: Lab) -> None:
    await registered(lab)
    web = await workload(lab, WEB)
    request = discovery.DeltaDiscoveryRequest(type_url=ROUTES)
    request.node.id = "mine"
    with pytest.raises(VestibuleError, match="VST3103"):
        await answer(web.channel, SERVICES[CLUSTER], "DeltaClusters", request)


async def test_agents_come_with_a_proxys_name_and_over_ads_alone(lab: Lab) -> None:
    agent = await agent_of(lab, "/ns/prod/sa/web")
    with pytest.raises(VestibuleError, match="VST2323"):
        await Client(agent.channel, SERVICES[CLUSTER]).unary("FetchClusters", discovery.DiscoveryRequest())


async def test_a_grpc_client_gets_api_listeners_of_what_speaks_grpc(lab: Lab) -> None:
    await registered(lab)
    web = await workload(lab, WEB)
    told = await everything(web.channel, "mine", LISTENER, user_agent="gRPC C-core linux", names=("stock",))
    assert set(told) == {"stock"}
    assert listener_pb2.Listener.FromString(told["stock"]).HasField("api_listener")
    clusters = await everything(web.channel, "mine", CLUSTER, user_agent="grpc-go")
    assert set(clusters) == {"stock/grpc"}
    cluster = cluster_pb2.Cluster.FromString(clusters["stock/grpc"])
    assert cluster.eds_cluster_config.service_name == "stock/grpc"


# At the agent -----------------------------------------------------------------------------------------------


class Strangers:
    """No sidecar has vouched for anybody; processes are who they are attested to be."""

    def __init__(self) -> None:
        self.identity = PEER

    def proxy_of(self, _stream: Any) -> Any:
        raise PROXY_NOT_ALLOWED.error("no sidecar has vouched for it")

    async def client_of(self, _stream: Any) -> SpiffeId:
        return self.identity


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def at_the_agent(server: Server, tmp_path: Path) -> AsyncIterator[Any]:
    """A channel to an agent that nobody's sidecar has talked to."""
    strangers = Strangers()
    with short_directory() as directory:
        async with relaying(directory, server) as agent:
            door = AgentAdsDoor(strangers.proxy_of, agent.relay, Ledger(), CLOCK, strangers.client_of)
            await agent.grpc.close()
            agent.grpc = GrpcServer(door.servables())
            path = directory / "agent.sock"
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(str(path))
            sock.listen()
            await agent.grpc.listen(sock)
            yield agent.channel()


async def test_a_process_without_a_sidecar_is_its_identitys_client(server: Server, at_the_agent: Any) -> None:
    key = client_key(PEER, ClientKind.ENVOY)
    server.shelf.put(world("1", cds="a", eds="a", rds="r"), key)
    assert set(await everything(at_the_agent, "mine", CLUSTER)) == {"a"}
    await until(lambda: not any(state.proxy == key for state in server.ledger.proxies()))


async def test_what_clients_call_themselves_makes_no_more_proxies_of_them(
    server: Server, at_the_agent: Any
) -> None:
    """Each would cost the agent a stream and a file."""
    server.shelf.put(world("1", cds="a", eds="a", rds="r"), client_key(PEER, ClientKind.ENVOY))
    for number in range(3):
        assert set(await everything(at_the_agent, f"mine-{number}", CLUSTER)) == {"a"}


async def test_a_sidecars_own_envoy_is_never_taken_for_somebody_elses(at_the_agent: Any) -> None:
    """Before the sidecar has vouched for it, it would get less than it needs, and keep it."""
    request = discovery.DeltaDiscoveryRequest(type_url=CLUSTER)
    request.node.id = PROXY.instance_id
    request.node.metadata["vestibule_sidecar"] = True
    with pytest.raises(VestibuleError, match="no sidecar has vouched"):
        await answer(at_the_agent, SERVICE, "DeltaAggregatedResources", request)


async def test_routes_alone_can_be_had_though_nobody_takes_their_clusters(
    server: Server, at_the_agent: Any
) -> None:
    """The agent takes everything upstream, where routes wait for clusters to be confirmed."""
    server.shelf.put(world("1", cds="a", eds="a", rds="r"), client_key(PEER, ClientKind.ENVOY))
    client = Client(at_the_agent, SERVICES[ROUTES])
    async with asyncio.timeout(60), client.stream("StreamRoutes") as stream:
        request = discovery.DiscoveryRequest(resource_names=["r"])
        request.node.id = "mine"
        await stream.send_message(request)
        assert len((await stream.recv_message()).resources) == 1
    fetched = await client.unary("FetchRoutes", request)
    assert len(fetched.resources) == 1


def test_a_client_is_named_by_what_it_is_and_no_instance_can_have_its_name() -> None:
    assert client_key(PEER, ClientKind.of("gRPC C-core linux")).instance_id == "grpc:client"
    assert client_key(PEER, ClientKind.of("envoy")).instance_id == "envoy:client"
    assert client_kind(client_key(PEER, ClientKind.GRPC)) is ClientKind.GRPC
    assert client_kind(PROXY) is None
