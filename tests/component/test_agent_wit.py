"""WIT-SVIDs from a server through an agent to a workload: over the Workload API, behind the flags of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from grpclib.const import Status
from tests.component.server_lab import grpc_error
from tests.component.test_agent import ME, TD, Field, Running, a_world

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import HEADER, SERVICE
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.bundles import from_jwt_jwks
from vestibule.pki.jwk import key_of_jwk
from vestibule.pki.keys import public_key_der
from vestibule.pki.wit import verify_wit_svid
from vestibule.spiffe import TrustBundle, WitSvid
from vestibule.wire.gen.spiffe import workload_pb2 as wire
from vestibule.wire.gen.spire import localauthority_pb2

LOCAL = localauthority_pb2.DESCRIPTOR.services_by_name["LocalAuthority"]
BOTH = ["spiffe://example.org/one", "spiffe://example.org/two"]


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world(experimental_wit_svids=True) as made:
        yield made


async def an_agent(world: Field) -> Running:
    return await world.agent(await world.first_settings(experimental_wit_svids=True))


@asynccontextmanager
async def calling(agent: Running) -> AsyncIterator[Client]:
    channel = unix_channel(agent.settings.socket_path)
    try:
        async with asyncio.timeout(60):
            yield Client(channel, SERVICE)
    finally:
        channel.close()


@asynccontextmanager
async def watching(client: Client, spiffe_id: str = "") -> AsyncIterator[Any]:
    async with client.stream("FetchWITSVID", metadata=HEADER) as stream:
        await stream.send_message(wire.WITSVIDRequest(spiffe_id=spiffe_id), end=True)
        yield stream


async def bundle(client: Client) -> TrustBundle:
    async with client.stream("FetchWITBundles", metadata=HEADER) as stream:
        await stream.send_message(wire.WITBundlesRequest(), end=True)
        bundles = dict((await stream.recv_message()).bundles)
    document = bundles.pop("spiffe://example.org")
    assert bundles == {}
    assert set(json.loads(document)) == {"keys"}
    keys = from_jwt_jwks(TD, document.encode()).jwt_authorities
    return TrustBundle(trust_domain=TD, x509_authorities=(), wit_authorities=keys)


async def verified(client: Client, message: Any) -> WitSvid:
    """A token that holds, and a private key that is the one it names."""
    trust = {TD: await bundle(client)}
    svid = verify_wit_svid(message.wit_svid, trust.get, datetime.now(UTC))
    jwk = json.loads(message.wit_svid_key)
    assert jwk["d"]
    assert public_key_der(key_of_jwk(jwk)) == svid.public_key
    assert jwk["alg"] == svid.algorithm
    assert str(svid.spiffe_id) == message.spiffe_id
    return svid


async def status_of(awaitable: Any) -> Status:
    with pytest.raises(VestibuleError) as caught:
        await awaitable
    return grpc_error(caught.value).status


async def first(client: Client, spiffe_id: str = "") -> Any:
    async with watching(client, spiffe_id) as stream:
        return await stream.recv_message()


async def test_a_workload_has_a_token_and_a_key_of_each_identity_and_keeps_hearing(world: Field) -> None:
    agent = await an_agent(world)
    for path in ("/one", "/two"):
        await world.server.entry(agent.id, path, ME, hint="same", ttl=12)
    await agent.until(lambda found: len(found.svids) == 2)
    async with calling(agent) as client:
        async with watching(client) as stream:
            answer = await stream.recv_message()
            assert sorted(each.spiffe_id for each in answer.svids) == BOTH
            assert [each.hint for each in answer.svids] == ["same", ""]
            before = {str((await verified(client, each)).spiffe_id): each.wit_svid for each in answer.svids}
            # Half of their life later there are others, bound to other keys.
            seen = before
            while any(seen[name] == before[name] for name in BOTH):
                answer = await stream.recv_message()
                seen = {each.spiffe_id: each.wit_svid for each in answer.svids}
                assert sorted(seen) == BOTH
        one = await first(client, BOTH[0])
        assert [each.spiffe_id for each in one.svids] == BOTH[:1]
        assert await status_of(first(client, "spiffe://example.org/other")) is Status.PERMISSION_DENIED
        assert await status_of(first(client, "nonsense")) is Status.INVALID_ARGUMENT


async def test_losing_the_last_identity_ends_the_stream_and_a_new_one_is_told(world: Field) -> None:
    agent = await an_agent(world)
    async with calling(agent) as client:
        assert await status_of(first(client)) is Status.PERMISSION_DENIED
        entry = await world.server.entry(agent.id, "/one", ME)
        await agent.until(lambda found: True)

        async def follow() -> None:
            async with watching(client) as stream:
                assert len((await stream.recv_message()).svids) == 1
                other = await world.server.entry(agent.id, "/two", ME)
                while len((await stream.recv_message()).svids) < 2:
                    continue
                await world.server.delete_entry(entry)
                while len((await stream.recv_message()).svids) > 1:
                    continue
                await world.server.delete_entry(other)
                while await stream.recv_message() is not None:
                    continue

        assert await status_of(follow()) is Status.PERMISSION_DENIED


async def test_a_tainted_authority_s_tokens_are_replaced_at_once(world: Field) -> None:
    agent = await an_agent(world)
    await world.server.entry(agent.id, "/one", ME)
    await agent.until(lambda found: True)

    async def step(name: str, **fields: Any) -> Any:
        request = getattr(localauthority_pb2, f"{name}WITAuthorityRequest")(**fields)
        return await world.server.call(LOCAL, f"{name}WITAuthority", request)

    async with calling(agent) as client, watching(client) as stream:
        [message] = (await stream.recv_message()).svids
        old = (await verified(client, message)).key_id
        new = (await step("Prepare")).prepared_authority.authority_id
        await step("Activate", authority_id=new)
        await step("Taint", authority_id=old)
        svid = await verified(client, message)
        while svid.key_id == old:
            [message] = (await stream.recv_message()).svids
            svid = await verified(client, message)
        assert svid.key_id == new


async def test_the_calls_need_the_header_and_a_server_that_issues_them() -> None:
    async with a_world() as world:
        agent = await an_agent(world)
        await world.server.entry(agent.id, "/one", ME)
        await agent.until(lambda found: True)
        async with calling(agent) as client:
            assert await status_of(first(client)) is Status.UNIMPLEMENTED
            assert (await bundle(client)).wit_authorities == ()

            async def headless() -> None:
                async with client.stream("FetchWITSVID") as stream:
                    await stream.send_message(wire.WITSVIDRequest(), end=True)
                    await stream.recv_message()

            assert await status_of(headless()) is Status.INVALID_ARGUMENT
