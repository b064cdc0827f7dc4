"""Delegated identity over its socket: a real agent, a real caller, SPIRE's messages."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status
from tests.component.server_lab import grpc_error
from tests.component.test_agent import ME, TD, Field, Running, a_world, wire_id

from vestibule.app.codes import INVALID_SETTING
from vestibule.calls.unix import unix_channel
from vestibule.doors.delegated_identity import SERVICE
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.chains import leaf_facts
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import agent_delegatedidentity_pb2 as wire
from vestibule.wire.gen.spire import entry_pb2, types_pb2

DELEGATE = SpiffeId.of(TD, "/delegate")
ONE = types_pb2.Selector(type="k8s", value="ns:one")


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def an_agent(world: Field, *delegates: SpiffeId) -> Running:
    settings = await world.first_settings(
        delegation_socket_path=world.directory / "delegates.sock",
        authorized_delegates=delegates or (DELEGATE,),
    )
    return await world.agent(settings)


@asynccontextmanager
async def delegated(path: Path) -> AsyncIterator[Client]:
    channel = unix_channel(path)
    try:
        yield Client(channel, SERVICE)
    finally:
        channel.close()


async def create(
    world: Field, parent: SpiffeId, path: str, selector: types_pb2.Selector, **more: Any
) -> None:
    entry = types_pb2.Entry(
        spiffe_id=wire_id(SpiffeId.of(TD, path)), parent_id=wire_id(parent), selectors=[selector], **more
    )
    service = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
    answer = await world.server.call(
        service, "BatchCreateEntry", entry_pb2.BatchCreateEntryRequest(entries=[entry])
    )
    assert answer.results[0].status.code == 0, answer.results[0].status.message


async def svids_until(
    client: Client, request: wire.SubscribeToX509SVIDsRequest, *paths: str
) -> wire.SubscribeToX509SVIDsResponse:
    """Follow, again where we are no delegate yet, until just these identities are told."""
    async with asyncio.timeout(60):
        while True:
            try:
                async with client.stream("SubscribeToX509SVIDs") as stream:
                    await stream.send_message(request, end=True)
                    while (answer := await stream.recv_message()) is not None:
                        if sorted(each.x509_svid.id.path for each in answer.x509_svids) == sorted(paths):
                            found: wire.SubscribeToX509SVIDsResponse = answer
                            return found
            except VestibuleError as error:
                if grpc_error(error).status is not Status.PERMISSION_DENIED:
                    raise
            await asyncio.sleep(0.05)


async def status_of(client: Client, method: str, request: Any) -> Status:
    async def first() -> None:
        async with asyncio.timeout(60), client.stream(method) as stream:
            await stream.send_message(request, end=True)
            await stream.recv_message()

    with pytest.raises(VestibuleError) as caught:
        await first()
    return grpc_error(caught.value).status


async def test_a_delegate_gets_certificates_tokens_and_bundles_of_others(world: Field) -> None:
    agent = await an_agent(world)
    me = types_pb2.Selector(type="unix", value=ME.partition(":")[2])
    await create(world, agent.id, "/delegate", me)
    await create(world, agent.id, "/one", ONE, hint="h")
    await create(world, agent.id, "/boss", ONE, admin=True)
    await create(world, agent.id, "/below", ONE, downstream=True)
    path = agent.settings.delegation_socket_path
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o777
    async with delegated(path) as client:
        found = await svids_until(client, wire.SubscribeToX509SVIDsRequest(selectors=[ONE]), "/one")
        [svid] = found.x509_svids
        assert svid.x509_svid.hint == "h"
        assert leaf_facts(svid.x509_svid.cert_chain[0]).spiffe_id == SpiffeId.of(TD, "/one")
        assert svid.x509_svid_key
        # By pid: this process itself, which fits the delegate's own entry.
        mine = wire.SubscribeToX509SVIDsRequest(pid=os.getpid())
        await svids_until(client, mine, "/delegate")

        tokens = await client.unary(
            "FetchJWTSVIDs", wire.FetchJWTSVIDsRequest(selectors=[ONE], audience=["db"])
        )
        assert [(each.id.path, each.hint) for each in tokens.svids] == [("/one", "h")]
        assert tokens.svids[0].expires_at > tokens.svids[0].issued_at

        async with client.stream("SubscribeToX509Bundles") as stream:
            await stream.send_message(wire.SubscribeToX509BundlesRequest(), end=True)
            bundles = await stream.recv_message()
        assert list(bundles.ca_certificates) == ["spiffe://example.org"]
        async with client.stream("SubscribeToJWTBundles") as stream:
            await stream.send_message(wire.SubscribeToJWTBundlesRequest(), end=True)
            keys = await stream.recv_message()
        assert json.loads(keys.bundles["spiffe://example.org"])["keys"]

        # Nothing, both, and what is no selector.
        for request in (
            wire.SubscribeToX509SVIDsRequest(),
            wire.SubscribeToX509SVIDsRequest(selectors=[ONE], pid=os.getpid()),
            wire.SubscribeToX509SVIDsRequest(selectors=[types_pb2.Selector(type="unix")]),
            wire.SubscribeToX509SVIDsRequest(selectors=[types_pb2.Selector(type="a:b", value="c")]),
        ):
            assert await status_of(client, "SubscribeToX509SVIDs", request) is Status.INVALID_ARGUMENT
        no_audience = wire.FetchJWTSVIDsRequest(selectors=[ONE])
        assert await status_of(client, "FetchJWTSVIDs", no_audience) is Status.INVALID_ARGUMENT
        unknown = types_pb2.Selector(type="k8s", value="ns:unknown")
        nobody = wire.FetchJWTSVIDsRequest(selectors=[unknown], audience=["db"])
        assert await status_of(client, "FetchJWTSVIDs", nobody) is Status.PERMISSION_DENIED


async def test_tokens_of_what_administers_are_never_given(world: Field) -> None:
    agent = await an_agent(world)
    me = types_pb2.Selector(type="unix", value=ME.partition(":")[2])
    await create(world, agent.id, "/delegate", me)
    await create(world, agent.id, "/boss", ONE, admin=True)
    await create(world, agent.id, "/below", ONE, downstream=True)
    # A second entry of such an identity would give it away as well.
    await create(world, agent.id, "/boss", types_pb2.Selector(type="k8s", value="ns:two"))
    path = agent.settings.delegation_socket_path
    assert path is not None
    async with delegated(path) as client:
        await svids_until(client, wire.SubscribeToX509SVIDsRequest(pid=os.getpid()), "/delegate")
        request = wire.FetchJWTSVIDsRequest(selectors=[ONE], audience=["db"])
        assert await status_of(client, "FetchJWTSVIDs", request) is Status.PERMISSION_DENIED
        second = types_pb2.Selector(type="k8s", value="ns:two")
        request = wire.FetchJWTSVIDsRequest(selectors=[second], audience=["db"])
        assert await status_of(client, "FetchJWTSVIDs", request) is Status.PERMISSION_DENIED
        await svids_until(client, wire.SubscribeToX509SVIDsRequest(selectors=[ONE]))


async def test_who_is_no_delegate_is_refused_everything(world: Field) -> None:
    agent = await an_agent(world, SpiffeId.of(TD, "/somebody-else"))
    me = types_pb2.Selector(type="unix", value=ME.partition(":")[2])
    await create(world, agent.id, "/delegate", me)
    await agent.until(lambda found: True)
    path = agent.settings.delegation_socket_path
    assert path is not None
    async with delegated(path) as client:
        for method, request in (
            ("SubscribeToX509SVIDs", wire.SubscribeToX509SVIDsRequest(selectors=[ONE])),
            ("SubscribeToX509SVIDs", wire.SubscribeToX509SVIDsRequest(pid=1)),
            ("SubscribeToX509SVIDs", wire.SubscribeToX509SVIDsRequest()),
            ("SubscribeToX509Bundles", wire.SubscribeToX509BundlesRequest()),
            ("FetchJWTSVIDs", wire.FetchJWTSVIDsRequest(selectors=[ONE], audience=["a"])),
            ("SubscribeToJWTBundles", wire.SubscribeToJWTBundlesRequest()),
        ):
            assert await status_of(client, method, request) is Status.PERMISSION_DENIED, method
    for elsewhere in (agent.settings.socket_path, agent.settings.admin_socket_path):
        async with delegated(elsewhere) as client:
            request = wire.SubscribeToX509SVIDsRequest(selectors=[ONE])
            assert await status_of(client, "SubscribeToX509SVIDs", request) is Status.UNIMPLEMENTED


async def test_a_socket_without_delegates_and_delegates_without_a_socket_are_refused(world: Field) -> None:
    plain = await world.settings()
    for changes in (
        {"delegation_socket_path": world.directory / "d.sock"},
        {"authorized_delegates": (DELEGATE,)},
        {
            "delegation_socket_path": world.directory / "d.sock",
            "authorized_delegates": (SpiffeId.parse("spiffe://partner.test/delegate"),),
        },
    ):
        with pytest.raises(VestibuleError) as caught:
            replace(plain, **changes)
        assert caught.value.code is INVALID_SETTING
