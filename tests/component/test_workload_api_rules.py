"""Rules of SPIFFE_Workload_Endpoint.md and SPIFFE_Workload_API.md that nothing else holds, on a real agent's socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpclib.client
import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError
from tests.component.server_lab import grpc_error
from tests.component.test_agent import ME, Field, Running, a_world

from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import HEADER
from vestibule.calls.workload_api import SERVICE as WORKLOAD
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.wire.gen.spiffe import workload_pb2 as wire
from vestibule.wire.gen.spire import entry_pb2, types_pb2

STREAMS = [
    ("FetchX509SVID", wire.X509SVIDRequest()),
    ("FetchX509Bundles", wire.X509BundlesRequest()),
    ("FetchJWTBundles", wire.JWTBundlesRequest()),
]


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


@asynccontextmanager
async def endpoint(agent: Running) -> AsyncIterator[Any]:
    channel = unix_channel(agent.settings.socket_path)
    try:
        async with asyncio.timeout(60):
            yield channel
    finally:
        channel.close()


async def raw(channel: grpclib.client.Channel, path: str, metadata: Sequence[tuple[str, str]]) -> Status:
    """How a call ends whose message is empty, whatever it should be."""
    try:
        async with channel.request(
            path, Cardinality.UNARY_STREAM, Empty, Empty, metadata=list(metadata)
        ) as stream:
            await stream.send_message(Empty(), end=True)
            await stream.recv_message()
            await stream.cancel()
    except GRPCError as error:
        return error.status
    return Status.OK


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("workload.spiffe.io", "TRUE"),),
        (("workload.spiffe.io", "1"),),
        (("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")),
        (("workload.spiffe.io", "true,false"),),
        (("x-workload.spiffe.io", "true"),),
    ],
)
async def test_e2_anything_but_the_exact_header_is_invalid_for_every_call(
    world: Field, metadata: Sequence[tuple[str, str]]
) -> None:
    agent = await world.agent()
    async with endpoint(agent) as channel:
        for method in WORKLOAD.methods:
            status = await raw(channel, f"/{WORKLOAD.full_name}/{method.name}", metadata)
            expected = Status.UNIMPLEMENTED if "WIT" in method.name else Status.INVALID_ARGUMENT
            assert status is expected, method.name


async def test_e4_what_is_not_served_is_unimplemented_and_who_has_no_identity_is_denied(
    world: Field,
) -> None:
    agent = await world.agent()
    header = [("workload.spiffe.io", "true")]
    async with endpoint(agent) as channel:
        for name in ("FetchNothing", "FetchWITSVID", "FetchWITBundles"):
            assert await raw(channel, f"/SpiffeWorkloadAPI/{name}", header) is Status.UNIMPLEMENTED
        for name, _ in STREAMS:
            assert await raw(channel, f"/SpiffeWorkloadAPI/{name}", header) is Status.PERMISSION_DENIED


async def test_w2_each_message_is_all_there_is_so_that_what_is_left_out_is_withdrawn(world: Field) -> None:
    agent = await world.agent()
    first = await world.server.entry(agent.id, "/first", ME)
    await world.server.entry(agent.id, "/second", ME)
    await agent.until(lambda found: len(found.svids) == 2)
    async with endpoint(agent) as channel:
        client = Client(channel, WORKLOAD)
        async with client.stream("FetchX509SVID", metadata=HEADER) as stream:
            await stream.send_message(wire.X509SVIDRequest(), end=True)
            assert len((await stream.recv_message()).svids) == 2
            await world.server.delete_entry(first)
            assert [each.spiffe_id for each in (await stream.recv_message()).svids] == [
                "spiffe://example.org/second"
            ]


async def test_w5_losing_all_identities_ends_every_stream_with_a_denial(world: Field) -> None:
    agent = await world.agent()
    entry = await world.server.entry(agent.id, "/only", ME)
    await agent.until(lambda found: True)
    async with endpoint(agent) as channel:
        client = Client(channel, WORKLOAD)
        heard = [asyncio.Event() for _ in STREAMS]

        async def follow(name: str, request: Any, first: asyncio.Event) -> None:
            async with client.stream(name, metadata=HEADER) as stream:
                await stream.send_message(request, end=True)
                while await stream.recv_message() is not None:
                    first.set()

        following = [
            asyncio.create_task(follow(name, request, first))
            for (name, request), first in zip(STREAMS, heard, strict=True)
        ]
        for first in heard:
            await first.wait()
        await world.server.delete_entry(entry)
        for ended in await asyncio.gather(*following, return_exceptions=True):
            assert isinstance(ended, VestibuleError)
            assert grpc_error(ended).status is Status.PERMISSION_DENIED


async def test_w4_and_w9_hints_are_unique_and_the_first_entry_is_the_default(world: Field) -> None:
    agent = await world.agent()
    ids = {}
    for path, hint in (("/a", "db"), ("/b", "db"), ("/c", "é" * 512)):
        ids[await world.server.entry(agent.id, path, ME, hint=hint)] = (path, hint)
    await agent.until(lambda found: len(found.svids) == 3)
    by_id = [ids[each] for each in sorted(ids)]
    async with endpoint(agent) as channel:
        client = Client(channel, WORKLOAD)
        async with client.stream("FetchX509SVID", metadata=HEADER) as stream:
            await stream.send_message(wire.X509SVIDRequest(), end=True)
            answer = await stream.recv_message()
        tokens = await client.unary("FetchJWTSVID", wire.JWTSVIDRequest(audience=["x"]), metadata=HEADER)
    for svids in (answer.svids, tokens.svids):
        assert [each.spiffe_id for each in svids] == [f"spiffe://example.org{path}" for path, _ in by_id]
        hints = [each.hint for each in svids if each.hint]
        assert len(hints) == len(set(hints)) == 2
        first_with_it = next(path for path, hint in by_id if hint == "db")
        assert [each.spiffe_id for each in svids if each.hint == "db"] == [
            f"spiffe://example.org{first_with_it}"
        ]


@pytest.mark.parametrize("hint", ["x" * 1025, "é" * 513])
async def test_w4_a_hint_over_1024_bytes_is_not_taken(world: Field, hint: str) -> None:
    agent = await world.agent()
    entry = types_pb2.Entry(
        spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path="/a"),
        parent_id=types_pb2.SPIFFEID(trust_domain="example.org", path=agent.id.path),
        selectors=[types_pb2.Selector(type="unix", value="uid:1")],
        hint=hint,
    )
    service = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
    request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
    answer = await world.server.call(service, "BatchCreateEntry", request)
    assert answer.results[0].status.code == Status.INVALID_ARGUMENT.value


async def test_w6_bundles_are_by_trust_domain_and_key_sets_have_no_keys_of_other_uses(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/a", ME)
    await agent.until(lambda found: True)
    async with endpoint(agent) as channel:
        client = Client(channel, WORKLOAD)
        found = {}
        for name, request in STREAMS[1:]:
            async with client.stream(name, metadata=HEADER) as stream:
                await stream.send_message(request, end=True)
                found[name] = dict((await stream.recv_message()).bundles)
    assert all("spiffe://example.org" in bundles for bundles in found.values())
    document = json.loads(found["FetchJWTBundles"]["spiffe://example.org"])
    assert set(document) == {"keys"}, "no sequence and no hint, which are not RFC 7517's"
    assert document["keys"]
    assert all("x5c" not in key and key["kid"] for key in document["keys"])


async def test_a_certificate_that_is_not_kept_ready_comes_when_it_is_asked_for(world: Field) -> None:
    agent = await world.agent()
    entry = types_pb2.Entry(
        spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path="/lazy"),
        parent_id=types_pb2.SPIFFEID(trust_domain="example.org", path=agent.id.path),
        selectors=[types_pb2.Selector(type="unix", value=ME.partition(":")[2])],
    )
    entry.additional_attributes.disable_x509_svid_prefetch = True
    service = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
    request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
    answer = await world.server.call(service, "BatchCreateEntry", request)
    assert answer.results[0].status.code == 0
    found = await agent.until(lambda found: True)
    assert [each.spiffe_id.path for each in found.svids] == ["/lazy"]
