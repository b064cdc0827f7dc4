"""Who the agent talks to: the trust domain's server, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vestibule.calls.channel import ServerChannel, UnverifiedChannel
from vestibule.calls.codes import BAD_ANSWER, BANNED, MUST_ATTEST, OTHER_TRUST_DOMAIN
from vestibule.calls.identity_api import IdentityApi
from vestibule.clock import SystemClock
from vestibule.errors import Fault, Kind, VestibuleError
from vestibule.net.codes import REMOTE_REFUSED, SERVER_NOT_TRUSTED, UNREACHABLE
from vestibule.net.grpc import Servable, refuse, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.peer_chains import peer_chain
from vestibule.net.tls import ServerTls
from vestibule.pki.chains import leaf_facts
from vestibule.records import Address, Entry
from vestibule.spiffe import Selector, SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spire import agent_pb2, bundle_pb2, entry_pb2, svid_pb2, types_pb2

TD = TrustDomain.parse("example.org")
OURS = TestAuthority(TD)
SERVER = OURS.svid("/spire/server")
DENIED = types_pb2.PermissionDeniedDetails
Handle = Callable[[Any], Any]


class Bundles:
    """Answers with the bundle, and counts who connected how."""

    def __init__(self) -> None:
        self.callers: list[str] = []

    async def get_bundle(self, stream: Any) -> None:
        await stream.recv_message()
        chain = peer_chain(stream.peer._transport.get_extra_info("ssl_object"))
        self.callers.append(leaf_facts(chain[0]).serial if chain else "anonymous")
        authorities = [types_pb2.X509Certificate(asn1=each) for each in OURS.bundle.x509_authorities]
        bundle = types_pb2.Bundle(trust_domain="example.org", x509_authorities=authorities, sequence_number=7)
        await stream.send_message(bundle)


@asynccontextmanager
async def serving(svid: X509Svid, *services: Servable) -> AsyncIterator[Address]:
    server = GrpcServer(services)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await server.listen(sock, tls=ServerTls(svid, OURS.bundle).context)
    try:
        yield Address(host="127.0.0.1", port=port)
    finally:
        await server.close()


def bundles(implementation: object) -> Servable:
    return serve(bundle_pb2.DESCRIPTOR.services_by_name["Bundle"], implementation)


def channel_to(
    address: Address, bundle: TrustBundle | None = OURS.bundle, svid: X509Svid | None = None
) -> ServerChannel:
    return ServerChannel(address, bundle=lambda: bundle, svid=lambda: svid, clock=SystemClock())


async def outcome(address: Address, bundle: TrustBundle | None = OURS.bundle) -> VestibuleError | TrustBundle:
    channel = channel_to(address, bundle)
    try:
        return await IdentityApi(channel, TD).bundle()
    except VestibuleError as error:
        return error
    finally:
        channel.close()


async def test_the_server_is_known_by_its_spiffe_id() -> None:
    async with serving(SERVER, bundles(Bundles())) as address:
        found = await outcome(address)
    assert isinstance(found, TrustBundle)
    assert found.x509_authorities == OURS.bundle.x509_authorities
    assert found.sequence == 7


@pytest.mark.parametrize(
    "impostor",
    [
        OURS.svid("/ns/prod/sa/web"),
        OURS.svid("/spire/agent/join_token/x"),
        TestAuthority("example.org").svid("/spire/server"),
        TestAuthority("partner.org").svid("/spire/server"),
        OURS.svid("/spire/server", now=datetime.now(UTC) - timedelta(hours=2)),
    ],
    ids=["a workload", "an agent", "a foreign authority", "another trust domain", "an expired certificate"],
)
async def test_nobody_else_gets_a_single_call(impostor: X509Svid) -> None:
    seen = Bundles()
    async with serving(impostor, bundles(seen)) as address:
        found = await outcome(address)
    assert isinstance(found, VestibuleError)
    assert found.code is SERVER_NOT_TRUSTED
    assert seen.callers == []


async def test_a_server_is_not_called_before_there_is_a_bundle() -> None:
    async with serving(SERVER, bundles(Bundles())) as address:
        found = await outcome(address, None)
    assert isinstance(found, VestibuleError)
    assert found.code is SERVER_NOT_TRUSTED


async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    found = await outcome(Address(host="127.0.0.1", port=port))
    assert isinstance(found, VestibuleError)
    assert found.code is UNREACHABLE


async def test_something_that_speaks_no_tls_is_unreachable() -> None:
    async def chatter(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp.example.org ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(chatter, "127.0.0.1", 0)
    found = await outcome(Address(host="127.0.0.1", port=server.sockets[0].getsockname()[1]))
    server.close()
    assert isinstance(found, VestibuleError)
    assert found.code is UNREACHABLE


async def test_a_renewed_certificate_is_shown_from_the_next_call_on() -> None:
    seen = Bundles()
    shown: list[X509Svid | None] = [None]
    async with serving(SERVER, bundles(seen)) as address:
        channel = ServerChannel(
            address, bundle=lambda: OURS.bundle, svid=lambda: shown[-1], clock=SystemClock()
        )
        api = IdentityApi(channel, TD)
        await api.bundle()
        for _ in range(2):
            shown.append(OURS.svid("/spire/agent/join_token/x"))
            await api.bundle()
            channel.renew()
            await api.bundle()
        channel.close()
    serials = [str(svid.serial) if svid else "anonymous" for svid in shown]
    assert seen.callers == [serials[0], serials[0], serials[1], serials[1], serials[2]]


async def test_a_bundle_can_be_fetched_unverified_on_purpose() -> None:
    async with serving(TestAuthority(TD).svid("/whoever"), bundles(Bundles())) as address:
        channel = UnverifiedChannel(address, SystemClock())
        assert (await IdentityApi(channel, TD).bundle()).sequence == 7
        channel.close()


async def test_a_server_of_another_trust_domain_is_named() -> None:
    async with serving(SERVER, bundles(Bundles())) as address:
        channel = channel_to(address)
        with pytest.raises(VestibuleError) as refusal:
            await IdentityApi(channel, TrustDomain.parse("other.org")).bundle()
        channel.close()
    assert refusal.value.code is OTHER_TRUST_DOMAIN


# ------------------------------------------------------------------- what the server's words mean


@dataclass
class Refusing:
    """Refuses a renewal with SPIRE's details, as SPIRE and our server do."""

    reason: Any

    async def renew_agent(self, stream: Any) -> None:
        await stream.recv_message()
        error = REMOTE_REFUSED.error("refused")
        denied = type(error.code)(
            code="VST9999", name="x", kind=Kind.DENIED, fault=Fault.CALLER, meaning="", advice="none"
        )
        await refuse(stream, denied.error("refused"), [DENIED(reason=self.reason)])


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (DENIED.AGENT_BANNED, BANNED.code),
        (DENIED.AGENT_NOT_ATTESTED, MUST_ATTEST.code),
        (DENIED.AGENT_EXPIRED, MUST_ATTEST.code),
        (DENIED.AGENT_NOT_ACTIVE, MUST_ATTEST.code),
        (DENIED.AGENT_MUST_REATTEST, MUST_ATTEST.code),
        (DENIED.UNKNOWN, "VST9999"),
    ],
)
async def test_an_agents_standing_is_read_from_the_status_details(reason: Any, code: str) -> None:
    agents = serve(agent_pb2.DESCRIPTOR.services_by_name["Agent"], Refusing(reason))
    async with serving(SERVER, agents) as address:
        channel = channel_to(address)
        with pytest.raises(VestibuleError) as refusal:
            await IdentityApi(channel, TD).renew(b"csr")
        channel.close()
    assert refusal.value.code.code == code


class Entries:
    """SyncAuthorizedEntries as SPIRE serves it, with small pages."""

    def __init__(self, entries: Sequence[types_pb2.Entry], page: int) -> None:
        self.entries = {entry.id: entry for entry in entries}
        self.page = page
        self.asked: list[str] = []

    async def sync_authorized_entries(self, stream: Any) -> None:
        await stream.recv_message()
        answer = entry_pb2.SyncAuthorizedEntriesResponse
        if len(self.entries) <= self.page:
            await stream.send_message(answer(entries=self.entries.values()))
            return
        revisions = [
            entry_pb2.EntryRevision(
                id=each.id, revision_number=each.revision_number, created_at=each.created_at
            )
            for each in self.entries.values()
        ]
        for start in range(0, len(revisions), self.page):
            more = start + self.page < len(revisions)
            await stream.send_message(answer(entry_revisions=revisions[start : start + self.page], more=more))
        async for request in stream:
            self.asked += request.ids
            found = [self.entries[each] for each in request.ids]
            for start in range(0, len(found), self.page):
                more = start + self.page < len(found)
                await stream.send_message(answer(entries=found[start : start + self.page], more=more))


def wire_entry(name: str, revision: int = 0, created: int = 1) -> types_pb2.Entry:
    return types_pb2.Entry(
        id=name,
        spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path=f"/{name}"),
        parent_id=types_pb2.SPIFFEID(trust_domain="example.org", path="/spire/agent/a"),
        selectors=[types_pb2.Selector(type="unix", value="uid:1")],
        x509_svid_ttl=60,
        revision_number=revision,
        created_at=created,
    )


async def synchronise(server: Entries, known: dict[str, Entry]) -> dict[str, Entry]:
    service = serve(entry_pb2.DESCRIPTOR.services_by_name["Entry"], server)
    async with serving(SERVER, service) as address:
        channel = channel_to(address)
        try:
            return await IdentityApi(channel, TD).authorized_entries(known)
        finally:
            channel.close()


async def test_few_entries_come_whole() -> None:
    found = await synchronise(Entries([wire_entry("a"), wire_entry("b")], page=5), {})
    assert set(found) == {"a", "b"}
    assert found["a"].spiffe_id == SpiffeId.of(TD, "/a")
    assert found["a"].selectors == {Selector("unix", "uid:1")}
    assert found["a"].x509_svid_ttl == timedelta(seconds=60)


async def test_no_entries_are_no_entries() -> None:
    assert await synchronise(Entries([], page=5), {}) == {}


async def test_of_many_entries_only_news_are_transferred() -> None:
    server = Entries([wire_entry(f"e{number}") for number in range(7)], page=3)
    known = await synchronise(server, {})
    assert len(known) == 7
    assert len(server.asked) == 7
    changed = Entries(
        [wire_entry("e0", revision=1), wire_entry("e1", created=2), *map(wire_entry, ("e2", "e3", "new"))],
        page=3,
    )
    found = await synchronise(changed, known)
    assert set(found) == {"e0", "e1", "e2", "e3", "new"}
    assert sorted(changed.asked) == ["e0", "e1", "new"], "a reused ID is told by its time of creation"


class Signs:
    def __init__(self, count: int) -> None:
        self.count = count

    async def batch_new_x509_svid(self, stream: Any) -> None:
        request = await stream.recv_message()
        result = svid_pb2.BatchNewX509SVIDResponse.Result
        good = result(status=types_pb2.Status(code=0), svid=types_pb2.X509SVID(cert_chain=[b"leaf"]))
        bad = result(status=types_pb2.Status(code=5, message="no such entry"))
        results = [bad if each.entry_id == "bad" else good for each in request.params][: self.count]
        await stream.send_message(svid_pb2.BatchNewX509SVIDResponse(results=results))


async def test_single_svids_may_be_refused_but_an_answer_of_another_length_is_no_answer() -> None:
    service = svid_pb2.DESCRIPTOR.services_by_name["SVID"]
    async with serving(SERVER, serve(service, Signs(2))) as address:
        channel = channel_to(address)
        found = await IdentityApi(channel, TD).new_svids({"good": b"1", "bad": b"2"})
        assert found["good"] == (b"leaf",)
        assert isinstance(found["bad"], VestibuleError)
        with pytest.raises(VestibuleError) as refusal:
            await IdentityApi(channel, TD).new_svids({"a": b"1", "b": b"2", "c": b"3"})
        channel.close()
    assert refusal.value.code is BAD_ANSWER


def test_the_client_context_speaks_tls_1_3_without_host_names() -> None:
    from vestibule.net.tls import client_context

    context = client_context(SERVER, OURS.bundle)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert not context.check_hostname
