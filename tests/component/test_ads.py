"""ADS between processes' ends: server, agent with its relay, and proxies, over real sockets."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3 import discovery_pb2
from grpclib.client import Channel
from tests.component.xds_peers import AGENT, PROXY, WEB, Server, agent_of, small_proxy, until
from tests.unit.xds.conversation import TYPES, world

from vestibule.calls.ads import PROXY_INSTANCE_ID, PROXY_SPIFFE_ID, SERVICE, AdsCalls
from vestibule.doors.xds_serving import answer_once
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.ledger import Ledger
from vestibule.xds.ledger import Status as Sync
from vestibule.xds.messages import DeltaRequest
from vestibule.xds.patches import ACCEPTED, PATCH, PatchReader
from vestibule.xds.protobuf import delta_request_to
from vestibule.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    ProxyKey,
    Resource,
    Snapshot,
)

FULL: Final = world("v1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[Channel]:
    made = Channel("127.0.0.1", server.port)
    yield made
    made.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vst-") as name:
        yield Path(name)


# The server's door ----------------------------------------------------------------------------------------


async def test_a_proxy_gets_its_configuration_and_every_change(server: Server, channel: Channel) -> None:
    server.shelf.put(FULL)
    async with small_proxy(channel) as proxy:
        await until(lambda: server.version() == "v1")
        assert proxy.has[CLUSTER] == {"a": "a=", "b": "b="}
        server.shelf.put(world("v2", cds="a c", eds="a c", lds="in", rds="out=c", ecds="rbac"))
        await until(lambda: server.version() == "v2")
        assert proxy.has[CLUSTER] == {"a": "a=", "c": "c="}
    await until(lambda: not server.ledger.proxies()[0].connected)


async def test_a_refusal_reaches_the_ledger_with_the_proxys_words(server: Server, channel: Channel) -> None:
    server.shelf.put(FULL)
    async with small_proxy(channel) as proxy:
        await until(lambda: server.version() == "v1")
        server.shelf.put(world("v2", cds="a b", eds="a b", lds="in=bad", rds="out", ecds="rbac"))
        await until(lambda: server.row("lds").status is Sync.ERROR)
        assert server.row("lds").error == "in: unknown field in in"
        assert proxy.has[LISTENER] == {"in": "in="}
        server.shelf.put(world("v3", cds="a b", eds="a b", lds="in=good", rds="out", ecds="rbac"))
        await until(lambda: server.version() == "v3")
        assert (server.row("lds").status, server.row("lds").error) == (Sync.SYNCED, None)


@pytest.mark.parametrize(("accepts", "sent"), [("1", PATCH), ("0", ROUTES)])
async def test_who_understands_patches_is_sent_what_differs_of_large_routes(
    server: Server, channel: Channel, accepts: str, sent: str
) -> None:
    one, other = (_large_routes(first) for first in ("one", "other"))
    metadata = {
        PROXY_SPIFFE_ID: str(PROXY.spiffe_id),
        PROXY_INSTANCE_ID: PROXY.instance_id,
        ACCEPTED: accepts,
    }
    server.shelf.put(Snapshot.of("v1", [one]))
    async with (
        Client(channel, SERVICE).stream("DeltaAggregatedResources", metadata=metadata) as raw,
        AdsCalls(channel).open(PROXY) as stream,
    ):
        reader = PatchReader()
        await raw.send_message(delta_request_to(_everything(ROUTES)))
        await stream.send(_everything(ROUTES))
        for expected, form in ((one, ROUTES), (other, sent)):
            server.shelf.put(Snapshot.of(expected.version, [expected]))
            message, response = await raw.recv_message(), await stream.receive()
            assert [each.resource.type_url for each in message.resources] == [form]
            assert response is not None
            assert response.resources == reader.read(message).resources == (expected,)


def _large_routes(first: str) -> Resource:
    hosts = [VirtualHost(name="first", domains=[first]), VirtualHost(name="rest", domains=["x" * 5000])]
    body = RouteConfiguration(name="egress", virtual_hosts=hosts).SerializeToString()
    return Resource.of(ROUTES, "egress", body)


async def refusal(channel: Channel, metadata: dict[str, str], node_id: str = "any") -> str:
    """The code with which a stream with this metadata ends."""

    async def call() -> None:
        async with Client(channel, SERVICE).stream("DeltaAggregatedResources", metadata=metadata) as stream:
            node = {"id": node_id} if node_id else None
            await stream.send_message(discovery_pb2.DeltaDiscoveryRequest(type_url=CLUSTER, node=node))
            await stream.recv_message()

    return await code_of(call())


async def code_of(call: Coroutine[Any, Any, None]) -> str:
    with pytest.raises(VestibuleError) as caught:
        await call
    return caught.value.code.code


async def ends_after(channel: Channel, action: Callable[[], Any]) -> str:
    """The code with which an open stream ends because of what was done."""

    async def call() -> None:
        async with AdsCalls(channel).open(PROXY) as stream, asyncio.timeout(60):
            await stream.send(_everything(CLUSTER))
            assert await stream.receive() is not None
            if (doing := action()) is not None:
                await doing
            while await stream.receive() is not None:
                pass

    return await code_of(call())


async def test_an_agent_must_name_a_proxy_whose_identity_it_was_given(
    server: Server, channel: Channel
) -> None:
    server.shelf.put(FULL)
    assert await refusal(channel, {}) == "VST3106"
    assert await refusal(channel, {PROXY_SPIFFE_ID: str(WEB)}) == "VST3106"
    assert await refusal(channel, {PROXY_SPIFFE_ID: "web", PROXY_INSTANCE_ID: "web-1"}) == "VST3106"
    other = {PROXY_SPIFFE_ID: "spiffe://example.org/ns/prod/sa/payments", PROXY_INSTANCE_ID: "web-1"}
    assert await refusal(channel, other) == "VST3107"
    assert server.ledger.proxies() == ()


async def test_the_instance_of_another_agent_or_service_is_refused(server: Server, channel: Channel) -> None:
    other_agent = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/two")
    mine = Instance(id="web-1", service="web", spiffe_id=WEB, agent_id=AGENT)
    named = {PROXY_SPIFFE_ID: str(WEB), PROXY_INSTANCE_ID: "web-1"}
    server.register.instances["web-1"] = replace(mine, agent_id=other_agent)
    assert await refusal(channel, named) == "VST3107"
    server.register.instances["web-1"] = replace(mine, spiffe_id=replace(WEB, path="/ns/prod/sa/payments"))
    assert await refusal(channel, named) == "VST3107"
    server.register.instances["web-1"] = mine
    server.shelf.put(FULL)
    async with small_proxy(channel):
        await until(lambda: server.version() == "v1")


async def test_a_stream_ends_the_moment_its_entry_is_gone(server: Server, channel: Channel) -> None:
    server.shelf.put(FULL)
    assert await ends_after(channel, lambda: server.register.revoke(WEB)) == "VST3107"


async def test_streams_end_unavailable_when_the_server_stops(server: Server, channel: Channel) -> None:
    server.shelf.put(FULL)
    assert await ends_after(channel, server.stop) == "VST9001"


async def test_state_of_the_world_is_served_by_the_same_door(server: Server, channel: Channel) -> None:
    server.shelf.put(FULL)
    named = {PROXY_SPIFFE_ID: str(WEB), PROXY_INSTANCE_ID: "web-1"}
    async with Client(channel, SERVICE).stream("StreamAggregatedResources", metadata=named) as stream:
        await stream.send_message(discovery_pb2.DiscoveryRequest(type_url=CLUSTER, node={"id": "any"}))
        response = await stream.recv_message()
        assert [each.value for each in response.resources] == [b"a=", b"b="]
        await stream.send_message(
            discovery_pb2.DiscoveryRequest(
                type_url=CLUSTER, version_info=response.version_info, response_nonce=response.nonce
            )
        )
        await until(lambda: server.row("cds").status is Sync.SYNCED)


def test_a_single_fetch_is_answered_without_a_stream() -> None:
    snapshot = Snapshot.of("1", [Resource.of(SECRET, name, b"x") for name in ("default", "ROOTCA")])
    request = discovery_pb2.DiscoveryRequest(resource_names=["default"])
    assert len(answer_once(request, snapshot, types=[SECRET]).resources) == 1
    request = discovery_pb2.DiscoveryRequest(resource_names=["unknown"])
    assert len(answer_once(request, snapshot, types=[SECRET]).resources) == 0


async def test_a_malformed_stream_is_refused_and_disturbs_nobody(server: Server, channel: Channel) -> None:
    server.shelf.put(FULL)
    named = {PROXY_SPIFFE_ID: str(WEB), PROXY_INSTANCE_ID: "web-1"}
    assert await refusal(channel, named, node_id="") == "VST3100"
    async with small_proxy(channel):
        await until(lambda: server.version() == "v1")


# Through the relay ----------------------------------------------------------------------------------------


async def test_the_relay_hands_on_changes_and_the_proxys_answers(server: Server, directory: Path) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: server.version() == "v1")
        assert proxy.has == {
            url: {n: r.body.decode() for n, r in FULL.of_type(url).items()} for url in proxy.has
        }
        bad = world("v2", cds="a b c", eds="a b c", lds="in", rds="out=bad", ecds="rbac=bad")
        server.shelf.put(bad)
        await until(lambda: server.row("ecds").status is server.row("rds").status is Sync.ERROR)
        assert server.row("ecds").error == "rbac: unknown field in rbac"
        assert proxy.has[EXTENSION] == {"rbac": "rbac="}
        server.shelf.put(world("v3", cds="a c", eds="a c", lds="in", rds="out=c", ecds="rbac=3"))
        await until(lambda: server.version() == "v3")
        assert proxy.has[CLUSTER].keys() == {"a", "c"}


async def test_nothing_is_acknowledged_upstream_that_the_proxy_has_not_answered(
    server: Server, directory: Path
) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent, AdsCalls(agent.channel()).open(PROXY) as stream:
        await stream.send(_everything(CLUSTER))
        response = await stream.receive()
        assert response is not None
        # It keeps silent: what follows its clusters must not even be sent.
        await until(lambda: server.row("cds").status is Sync.STALE)
        assert server.row("lds").status is Sync.NOT_SENT
        await stream.send(DeltaRequest(type_url=CLUSTER, nonce=response.nonce))
        await until(lambda: server.row("cds").status is Sync.SYNCED)


async def test_an_outage_is_survived_even_if_agent_and_proxy_start_during_it(
    server: Server, directory: Path
) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: server.version() == "v1")
        had = proxy.versions
        await until(lambda: list((directory / "kept").glob("*.sealed")))
        # What it refuses must not be what it gets after the outage.
        server.shelf.put(world("v2", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=bad"))
        await until(lambda: server.row("ecds").status is Sync.ERROR)
    await server.stop()
    sealed = next((directory / "kept").glob("*.sealed"))
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert b"rbac" not in sealed.read_bytes()
    async with agent_of(directory, server) as agent:
        async with small_proxy(agent.channel()) as proxy:
            await until(lambda: proxy.is_complete)
            assert proxy.has[EXTENSION] == {"rbac": "rbac="}
        async with small_proxy(agent.channel(), versions=had) as proxy:
            # The server comes back: nothing that is there already is sent again, changes go on.
            server.shelf.put(world("v3", cds="a b", eds="a b", lds="in", rds="out=3", ecds="rbac"))
            await server.start()
            await until(lambda: server.version() == "v3")
            came = [(c.type_url, list(c.resources)) for c in proxy.changes if c.resources]
            assert came == [(TYPES["rds"], ["out"])]


async def test_an_agents_cache_holds_the_last_good_across_a_rollback(server: Server, directory: Path) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: server.version() == "v1")
        # One resource is refused, the others are taken: the agent knows what the proxy really has.
        server.shelf.put(world("v2", cds="a=bad b", eds="a b", lds="in=2", rds="out=2", ecds="rbac"))
        await until(lambda: server.row("cds").error)
        server.shelf.put(FULL)
        await until(lambda: server.version() == "v1")
        assert server.row("cds").status is Sync.SYNCED
        assert proxy.has[LISTENER] == {"in": "in="}
    await server.stop()
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: proxy.is_complete)
        assert proxy.has[CLUSTER] == {"a": "a=", "b": "b="}
        assert proxy.has[LISTENER] == {"in": "in="}


async def test_what_was_refused_and_taken_back_is_tried_again_when_it_is_wanted_again(
    server: Server, directory: Path
) -> None:
    server.shelf.put(FULL)
    newer = world("v2", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=bad")
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: server.version() == "v1")
        server.shelf.put(newer)
        await until(lambda: server.row("ecds").status is Sync.ERROR)
        server.shelf.put(FULL)
        await until(lambda: server.version() == "v1")
        proxy.is_choosy = False
        server.shelf.put(newer)
        await until(lambda: server.version() == "v2")
        assert proxy.has[EXTENSION] == {"rbac": "rbac=bad"}


async def test_an_envoy_in_the_place_of_another_is_asked_for_what_that_one_refused(
    server: Server, directory: Path
) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent:
        async with small_proxy(agent.channel()):
            await until(lambda: server.version() == "v1")
            server.shelf.put(world("v2", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=bad"))
            await until(lambda: server.row("ecds").status is Sync.ERROR)
            # Both are there for a while, as when one takes over from the other.
            beside = small_proxy(agent.channel())
            proxy = await beside.__aenter__()
            proxy.is_choosy = False
            await until(lambda: proxy.is_complete)
            assert proxy.has[EXTENSION] == {"rbac": "rbac="}
        try:
            await until(lambda: server.version() == "v2")
            assert proxy.has[EXTENSION] == {"rbac": "rbac=bad"}
            assert server.row("ecds").status is Sync.SYNCED
        finally:
            await beside.__aexit__(None, None, None)
        # And one that is started anew.
        server.shelf.put(world("v3", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=bad3"))
        async with small_proxy(agent.channel()):
            await until(lambda: server.row("ecds").status is Sync.ERROR)
        async with small_proxy(agent.channel()) as proxy:
            proxy.is_choosy = False
            await until(lambda: server.version() == "v3")


async def test_what_was_deleted_during_an_outage_is_deleted_after_it(server: Server, directory: Path) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: server.version() == "v1")
        await server.stop()
        server.shelf.put(world("v2", cds="a", eds="a", lds="in", rds="out=a", ecds="rbac"))
        await server.start()
        await until(lambda: proxy.has[ENDPOINTS].keys() == {"a"})
        order = [change.type_url for change in proxy.changes]
        assert order[-3:] == [TYPES["rds"], TYPES["cds"], TYPES["eds"]]


async def test_a_refusal_is_told_again_to_a_server_that_was_restarted(
    server: Server, directory: Path
) -> None:
    server.shelf.put(world("v1", cds="a", eds="a", lds="in", rds="out", ecds="rbac=bad"))
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()):
        await until(lambda: server.row("ecds").status is Sync.ERROR)
        await server.stop()
        server.ledger = Ledger()
        await server.start()
        await until(lambda: server.row("ecds").status is Sync.ERROR)


async def test_a_damaged_file_is_set_aside_and_written_anew(server: Server, directory: Path) -> None:
    server.shelf.put(FULL)
    kept = directory / "kept"
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()):
        await until(lambda: list(kept.glob("*.sealed")))
        await until(lambda: server.version() == "v1")
    (sealed,) = kept.glob("*.sealed")
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: proxy.is_complete)
        await until(sealed.exists)
    assert sealed.with_suffix(".unreadable").exists()


async def test_what_could_not_be_kept_is_kept_as_soon_as_there_is_room(
    server: Server, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vestibule.agent.keeping_snapshots.SAVE_AGAIN", 0.05)
    server.shelf.put(FULL)
    kept = directory / "kept"
    kept.write_text("no directory can be made here")
    async with agent_of(directory, server) as agent, small_proxy(agent.channel()) as proxy:
        await until(lambda: proxy.is_complete)
        await until(lambda: "VST2107" in caplog.text)
        kept.unlink()
        await until(lambda: list(kept.glob("*.sealed")))
    assert caplog.text.count("VST2107") == 1


async def test_the_stream_upstream_ends_when_the_proxy_has_left(server: Server, directory: Path) -> None:
    server.shelf.put(FULL)
    async with agent_of(directory, server) as agent:
        async with small_proxy(agent.channel()):
            await until(lambda: server.version() == "v1")
        await until(lambda: not server.ledger.proxies()[0].connected)
        agent.relay.forget(PROXY)
        assert list((directory / "kept").glob("*.sealed")) == []


# Many, and slow ones --------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_holds_up_nobody(server: Server) -> None:
    """T23: the slow one has filled its flow-control window; others, also on its connection, go on."""
    slow = ProxyKey(WEB, "slow")
    big = "x" * 900_000
    async with AsyncExitStack() as stack:
        shared, own = Channel("127.0.0.1", server.port), Channel("127.0.0.1", server.port)
        stack.callback(shared.close)
        stack.callback(own.close)
        server.shelf.put(Snapshot.of("0", [Resource.of(CLUSTER, "c", b"0")]), slow)
        stream = await stack.enter_async_context(AdsCalls(own).open(slow))
        await stream.send(_everything(CLUSTER))
        own_transport = own._protocol.connection._transport  # type: ignore[union-attr]
        own_transport.pause_reading()
        for n in range(1, 40):
            server.shelf.put(Snapshot.of(str(n), [Resource.of(CLUSTER, "c", f"{n}{big}".encode())]), slow)
            await asyncio.sleep(0)
        server.shelf.put(FULL)
        began = time.monotonic()
        proxy = await stack.enter_async_context(small_proxy(shared))
        await until(lambda: server.row("rds").status is Sync.SYNCED, 45)
        assert time.monotonic() - began < 30, "half of the time after which the slow one is given up"
        assert proxy.has[LISTENER] == {"in": "in="}
        own_transport.resume_reading()
        responses = 0
        async with asyncio.timeout(60):
            while (response := await stream.receive()) is not None:
                responses += 1
                await stream.send(DeltaRequest(type_url=CLUSTER, nonce=response.nonce))
                if response.version == "39":
                    break
        assert responses < 20


async def test_a_thousand_streams_follow_one_change_quickly(server: Server) -> None:
    """T24: bounded time and no more responses than streams; generous, since test machines differ."""
    keys = [ProxyKey(WEB, f"web-{n}") for n in range(1_000)]
    first = Snapshot.of("1", [Resource.of(CLUSTER, f"c{n}", b"x" * 500) for n in range(10)])
    second = Snapshot.of("2", [*first.of_type(CLUSTER).values(), Resource.of(CLUSTER, "new", b"y" * 5_000)])
    async with AsyncExitStack() as stack:
        channels = [Channel("127.0.0.1", server.port) for _ in range(50)]
        for channel in channels:
            stack.callback(channel.close)
        streams = []
        for n, key in enumerate(keys):
            server.shelf.put(first, key)
            stream = await stack.enter_async_context(AdsCalls(channels[n % 50]).open(key))
            await stream.send(_everything(CLUSTER))
            streams.append(stream)
        for stream in streams:
            response = await stream.receive()
            assert response is not None
            await stream.send(DeltaRequest(type_url=CLUSTER, nonce=response.nonce))
        began = time.monotonic()
        for key in keys:
            server.shelf.put(second, key)
        for stream in streams:
            response = await stream.receive()
            assert response is not None
            assert [resource.name for resource in response.resources] == ["new"]
            await stream.send(DeltaRequest(type_url=CLUSTER, nonce=response.nonce))
        await until(lambda: all(server.is_synced(key, CLUSTER) for key in keys), 60)
        assert time.monotonic() - began < 45


def _everything(type_url: str) -> DeltaRequest:
    return DeltaRequest(type_url=type_url, node_id="any", subscribe=("*",))
