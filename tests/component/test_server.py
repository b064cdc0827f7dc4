"""The server as its clients meet it: over real TLS and over the operator's socket."""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from grpclib.const import Status
from tests.component.server_lab import (
    DOMAIN,
    Agent,
    Lab,
    denial_reason,
    grpc_error,
    running,
    short_directory,
    svid_of,
    wire_entry,
    wire_id,
)

from vestibule.calls.channel import ServerChannel
from vestibule.clock import SystemClock
from vestibule.errors import Kind, VestibuleError
from vestibule.identity.codes import AGENT_BANNED
from vestibule.net.grpc import Client
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.records import Address
from vestibule.spiffe import SpiffeId
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spire import agent_pb2, bundle_pb2, entry_pb2, svid_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

REASONS = types_pb2.PermissionDeniedDetails


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory) as made:
            yield made


async def refusal(call: Any) -> VestibuleError:
    with pytest.raises(VestibuleError) as caught:
        await call
    return caught.value


async def attest_raw(agent: Agent, request: agent_pb2.AttestAgentRequest) -> None:
    async with agent.agents.stream("AttestAgent", timeout=45) as stream:
        await stream.send_message(request, end=True)
        await stream.recv_message()


async def watch_while(agent: Agent, happens: Callable[[], Awaitable[object]]) -> None:
    """Watch until the stream ends, letting something happen after the first answer."""
    async with asyncio.timeout(60), agent.node.stream("Watch") as stream:
        await stream.send_message(node_pb2.WatchRequest(), end=True)
        await stream.recv_message()
        await happens()
        await stream.recv_message()


async def authorized(agent: Agent) -> list[str]:
    answer = await agent.entries.unary("GetAuthorizedEntries", entry_pb2.GetAuthorizedEntriesRequest())
    return [entry.id for entry in answer.entries]


# ------------------------------------------------------------------------------------------- joining


async def test_an_agent_joins_once_with_its_token(lab: Lab) -> None:
    stranger, token = await lab.stranger(), await lab.token("abc")
    svid = await stranger.attest(token)
    assert svid.spiffe_id == SpiffeId.parse("spiffe://example.org/spire/agent/join_token/abc")
    assert verify_x509_svid(svid.chain, stranger.bundle, datetime.now(UTC)) == svid.spiffe_id
    error = await refusal(stranger.attest(token))
    assert (error.code.code, grpc_error(error).status) == ("VST8021", Status.INVALID_ARGUMENT)
    assert error.advice
    stranger.use(svid)
    assert await authorized(stranger) == []


async def test_of_many_who_come_with_one_token_one_joins(lab: Lab) -> None:
    token = await lab.token()
    strangers = [await lab.stranger() for _ in range(10)]
    outcomes = await asyncio.gather(*(each.attest(token) for each in strangers), return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1
    codes = {each.code.code for each in outcomes if isinstance(each, VestibuleError)}
    assert codes == {"VST8021"}


@pytest.mark.parametrize(
    ("token", "csr", "expected"),
    [
        ("wrong", None, "VST8020"),
        ("a/b", None, "VST2000"),
        ("good", b"nonsense", "VST1000"),
        ("good", make_csr(generate_key(), SpiffeId.of(DOMAIN, "/admin")), "VST1200"),
    ],
)
async def test_bad_evidence_is_refused_with_a_code(
    lab: Lab, token: str, csr: bytes | None, expected: str
) -> None:
    await lab.token("good")
    error = await refusal((await lab.stranger()).attest(token, csr))
    assert error.code.code == expected
    assert grpc_error(error).status is Status.INVALID_ARGUMENT


async def test_an_incomplete_attestation_is_refused_as_spire_refuses_it(lab: Lab) -> None:
    stranger = await lab.stranger()
    for request, words in (
        (agent_pb2.AttestAgentRequest(challenge_response=b"x"), "missing params"),
        (
            agent_pb2.AttestAgentRequest(params=agent_pb2.AttestAgentRequest.Params()),
            "missing attestation data",
        ),
    ):
        with pytest.raises(VestibuleError, match=words):
            await attest_raw(stranger, request)


async def test_a_renewed_certificate_replaces_the_old_one_when_it_is_used(lab: Lab) -> None:
    agent = await lab.agent()
    old, new = agent.svid, await agent.renew()
    assert await authorized(agent) == []
    agent.use(new)
    assert await authorized(agent) == []
    assert old is not None
    agent.use(old)
    assert denial_reason(await refusal(authorized(agent))) == REASONS.AGENT_NOT_ACTIVE


async def test_a_banned_agent_is_told_so_and_its_streams_end(lab: Lab) -> None:
    agent = await lab.agent()
    request = agent_pb2.BanAgentRequest(id=wire_id(agent.id))
    watching = watch_while(agent, lambda: lab.operator.agents.unary("BanAgent", request))
    assert denial_reason(await refusal(watching)) == REASONS.AGENT_BANNED
    assert denial_reason(await refusal(authorized(agent))) == REASONS.AGENT_BANNED
    assert denial_reason(await refusal(agent.renew())) == REASONS.AGENT_BANNED
    known = await lab.operator.agents.unary("GetAgent", agent_pb2.GetAgentRequest(id=wire_id(agent.id)))
    assert (known.banned, known.x509svid_serial_number) == (True, "")


async def test_a_ban_holds_for_a_call_that_was_opened_before_it(lab: Lab) -> None:
    agent = await lab.agent()
    entry_id = await lab.entry("/ns/prod/sa/web", agent.id)
    params = [svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=make_csr(generate_key()))]
    with pytest.raises(VestibuleError) as caught:  # noqa: PT012
        async with agent.svids.stream("BatchNewX509SVID", timeout=45) as stream:
            await stream.send_request()  # the headers alone
            await authorized(agent)  # on the same connection, so that they have arrived
            await lab.operator.agents.unary("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(agent.id)))
            await stream.send_message(svid_pb2.BatchNewX509SVIDRequest(params=params), end=True)
            await stream.recv_message()
    assert caught.value.code is AGENT_BANNED


async def test_nonsense_of_any_size_costs_a_stranger_more_than_the_server(lab: Lab) -> None:
    agent, stranger = await lab.agent(), await lab.stranger()
    entry_id = await lab.entry("/ns/prod/sa/web", agent.id)
    evidence = types_pb2.AttestationData(type="x" * 3_000_000, payload=b"p")
    params = agent_pb2.AttestAgentRequest.Params(
        data=evidence, params=agent_pb2.AgentX509SVIDParams(csr=make_csr(generate_key()))
    )

    async def attack() -> None:
        async with stranger.agents.stream("AttestAgent", timeout=45) as stream:
            await stream.send_message(agent_pb2.AttestAgentRequest(params=params))
            await stream.recv_message()

    async with asyncio.timeout(60):
        attacks = [refusal(attack()) for _ in range(3)]
        *refused, result = await asyncio.gather(*attacks, agent.new_svid(entry_id))
    assert result.status.code == 0
    assert all(len(error.message) < 2000 for error in refused)
    assert max(map(len, (lab.directory / "data" / "audit.jsonl").read_bytes().splitlines())) < 4000


async def test_an_evicted_agent_has_to_attest_again(lab: Lab) -> None:
    agent = await lab.agent()
    await lab.operator.agents.unary("DeleteAgent", agent_pb2.DeleteAgentRequest(id=wire_id(agent.id)))
    assert denial_reason(await refusal(authorized(agent))) == REASONS.AGENT_NOT_ATTESTED
    agent.use(await (await lab.stranger()).attest(await lab.token()))
    assert await authorized(agent) == []


async def test_agents_are_listed_counted_and_masked(lab: Lab) -> None:
    agent, other = await lab.agent(), await lab.agent()
    await agent.agents.unary("PostStatus", agent_pb2.PostStatusRequest(agent_version="1.2.3"))
    await lab.operator.agents.unary("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(other.id)))
    listed = await lab.operator.agents.unary("ListAgents", agent_pb2.ListAgentsRequest())
    assert {each.agent_version for each in listed.agents} == {"1.2.3", ""}
    request = agent_pb2.ListAgentsRequest(output_mask=types_pb2.AgentMask(banned=True))
    request.filter.by_banned.value = True
    [only] = (await lab.operator.agents.unary("ListAgents", request)).agents
    assert only == types_pb2.Agent(id=wire_id(other.id), banned=True)
    count = agent_pb2.CountAgentsRequest()
    count.filter.by_expires_before = "2001-01-02 15:04:05 -0700 -07"
    assert (await lab.operator.agents.unary("CountAgents", count)).count == 0
    count.filter.by_expires_before = "yesterday"
    assert (await refusal(lab.operator.agents.unary("CountAgents", count))).code.code == "VST1203"


# ------------------------------------------------------------------------------------------- entries


async def test_entries_are_created_read_updated_and_deleted(lab: Lab) -> None:
    entries = lab.operator.entries
    [created] = await lab.create(wire_entry("/web", "/node", dns_names=["web.example.org"], hint="h"))
    entry = created.entry
    assert entry.id
    assert entry.created_at
    assert entry == await entries.unary("GetEntry", entry_pb2.GetEntryRequest(id=entry.id))

    update = entry_pb2.BatchUpdateEntryRequest(
        entries=[types_pb2.Entry(id=entry.id, x509_svid_ttl=60, hint="ignored")],
        input_mask=types_pb2.EntryMask(x509_svid_ttl=True),
        output_mask=types_pb2.EntryMask(x509_svid_ttl=True, revision_number=True, hint=True),
    )
    [updated] = (await entries.unary("BatchUpdateEntry", update)).results
    assert updated.entry == types_pb2.Entry(id=entry.id, x509_svid_ttl=60, revision_number=1, hint="h")

    request = entry_pb2.BatchDeleteEntryRequest(ids=[entry.id, "nothing"])
    deleted = (await entries.unary("BatchDeleteEntry", request)).results
    assert [each.status.code for each in deleted] == [0, Status.NOT_FOUND.value]
    error = await refusal(entries.unary("GetEntry", entry_pb2.GetEntryRequest(id=entry.id)))
    assert grpc_error(error).status is Status.NOT_FOUND


async def test_a_similar_entry_is_answered_with_the_one_there_is(lab: Lab) -> None:
    [first] = await lab.create(wire_entry("/web", "/node"))
    [again] = await lab.create(wire_entry("/web", "/node", hint="other"))
    assert again.status.code == Status.ALREADY_EXISTS.value
    assert again.status.message == "similar entry already exists"
    assert again.entry == first.entry


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (types_pb2.Entry(parent_id=wire_id("/node")), "request must specify SPIFFE ID"),
        (wire_entry("/a//b", "/node"), "VST1400"),
        (wire_entry("no-slash", "/node"), "VST1400"),
        (wire_entry("/spire/agent/x", "/node"), "VST1205"),
        (wire_entry("/web", SpiffeId.parse("spiffe://other.org/node")), "VST1204"),
        (wire_entry("/web", ""), "VST1205"),
        (types_pb2.Entry(spiffe_id=wire_id("/web"), parent_id=wire_id("/node")), "selector list is empty"),
        (wire_entry("/web", "/node", expires_at=-(2**62)), "VST1203"),
    ],
)
async def test_a_bad_entry_is_refused_in_its_place(lab: Lab, entry: types_pb2.Entry, words: str) -> None:
    good = wire_entry("/good", "/node")
    refused, accepted = await lab.create(entry, good)
    assert refused.status.code == Status.INVALID_ARGUMENT.value
    assert words in refused.status.message
    assert accepted.status.code == 0


async def test_entries_are_listed_in_pages_and_by_filter(lab: Lab) -> None:
    await lab.create(*(wire_entry(f"/w{number}", "/node") for number in range(7)))
    await lab.create(wire_entry("/other", "/elsewhere", "unix:uid:2"))
    found: list[str] = []
    token = ""
    while True:
        request = entry_pb2.ListEntriesRequest(page_size=3, page_token=token)
        request.filter.by_parent_id.CopyFrom(wire_id("/node"))
        page = await lab.operator.entries.unary("ListEntries", request)
        assert len(page.entries) <= 3
        found += [entry.spiffe_id.path for entry in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert sorted(found) == [f"/w{number}" for number in range(7)]
    count = entry_pb2.CountEntriesRequest()
    count.filter.by_selectors.selectors.add(type="unix", value="uid:2")
    assert (await lab.operator.entries.unary("CountEntries", count)).count == 1
    count.filter.by_selectors.ClearField("selectors")
    assert (await refusal(lab.operator.entries.unary("CountEntries", count))).code.code == "VST1203"


async def test_an_agent_sees_its_entries_and_nobody_elses(lab: Lab) -> None:
    agent, other = await lab.agent(), await lab.agent()
    web = await lab.entry("/web", agent.id)
    job = await lab.entry("/job", "/web")
    await lab.entry("/theirs", other.id)
    assert sorted(await authorized(agent)) == sorted([web, job])


async def test_many_entries_are_synchronised_by_revision(lab: Lab) -> None:
    agent = await lab.agent()
    await lab.create(*(wire_entry(f"/w{number}", agent.id) for number in range(501)))
    async with agent.entries.stream("SyncAuthorizedEntries", timeout=45) as stream:
        await stream.send_message(entry_pb2.SyncAuthorizedEntriesRequest())
        first = await stream.recv_message()
        second = await stream.recv_message()
        assert first is not None
        assert second is not None
        assert (len(first.entry_revisions), first.more) == (500, True)
        assert (len(second.entry_revisions), second.more) == (1, False)
        assert not first.entries
        assert first.entry_revisions[0].created_at
        ids = [each.id for each in first.entry_revisions][:3]
        await stream.send_message(entry_pb2.SyncAuthorizedEntriesRequest(ids=[*ids, "nothing"]))
        asked = await stream.recv_message()
        assert asked is not None
        assert ([entry.id for entry in asked.entries], asked.more) == (sorted(ids), False)
        await stream.end()
        assert await stream.recv_message() is None


async def test_few_entries_are_synchronised_whole(lab: Lab) -> None:
    agent = await lab.agent()
    web = await lab.entry("/web", agent.id)
    async with agent.entries.stream("SyncAuthorizedEntries", timeout=45) as stream:
        mask = types_pb2.EntryMask(revision_number=True, spiffe_id=True)
        await stream.send_message(entry_pb2.SyncAuthorizedEntriesRequest(output_mask=mask), end=True)
        answer = await stream.recv_message()
    assert answer is not None
    assert list(answer.entries) == [types_pb2.Entry(id=web, spiffe_id=wire_id("/web"))]


async def test_a_new_entry_reaches_a_watching_agent_at_once(lab: Lab) -> None:
    agent = await lab.agent()
    async with agent.node.stream("Watch") as stream:
        await stream.send_message(node_pb2.WatchRequest(), end=True)
        before = await stream.recv_message()
        status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
        assert [(each.connected, each.banned) for each in status.agents] == [(True, False)]
        web = await lab.entry("/web", agent.id)
        async with asyncio.timeout(60):
            after = await stream.recv_message()
        assert before is not None
        assert after is not None
        assert after.entries_revision != before.entries_revision
        assert after.bundle_sequence == before.bundle_sequence
        assert (await agent.new_svid(web)).status.code == 0


# --------------------------------------------------------------------------------------------- SVIDs


async def test_an_svid_is_issued_for_an_entry(lab: Lab) -> None:
    agent = await lab.agent()
    web = await lab.entry("/web", agent.id, x509_svid_ttl=120)
    result = await agent.new_svid(web)
    assert result.svid.id == wire_id("/web")
    proven = verify_x509_svid(list(result.svid.cert_chain), agent.bundle, datetime.now(UTC))
    assert proven == SpiffeId.of(DOMAIN, "/web")
    assert abs(result.svid.expires_at - datetime.now(UTC).timestamp() - 120) < 5


async def test_a_csr_for_a_foreign_identity_is_refused(lab: Lab) -> None:
    agent = await lab.agent()
    web = await lab.entry("/web", agent.id)
    result = await agent.new_svid(web, make_csr(generate_key(), SpiffeId.of(DOMAIN, "/admin")))
    assert result.status.code == Status.INVALID_ARGUMENT.value
    assert result.status.message.startswith("VST1200 ")


async def test_an_agent_gets_no_svid_for_another_agents_entry(lab: Lab) -> None:
    agent, other = await lab.agent(), await lab.agent()
    theirs = await lab.entry("/theirs", other.id)
    result = await agent.new_svid(theirs)
    assert result.status.code == Status.NOT_FOUND.value
    assert result.status.message == "VST1201 entry " + repr(theirs) + " not found or not authorized"


async def test_the_operator_mints(lab: Lab) -> None:
    request = svid_pb2.MintX509SVIDRequest(csr=make_csr(generate_key(), SpiffeId.of(DOMAIN, "/x")), ttl=60)
    answer = await lab.operator.svids.unary("MintX509SVID", request)
    assert answer.svid.id == wire_id("/x")


# -------------------------------------------------------------------------------------- who may call


async def test_anybody_may_ask_for_the_bundle(lab: Lab) -> None:
    stranger = await lab.stranger()
    bundle = await stranger.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
    assert bundle.trust_domain == "example.org"
    assert len(bundle.x509_authorities) == 1
    mask = types_pb2.BundleMask(sequence_number=True)
    masked = await stranger.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest(output_mask=mask))
    assert masked == types_pb2.Bundle(trust_domain="example.org", sequence_number=1)


async def test_an_operator_appends_to_the_bundle_that_everybody_gets(lab: Lab) -> None:
    made = TestAuthority("example.org")
    jwt = made.jwt_authority
    request = bundle_pb2.AppendBundleRequest(
        x509_authorities=[types_pb2.X509Certificate(asn1=made.certificate)],
        jwt_authorities=[types_pb2.JWTKey(key_id=jwt.key_id, public_key=jwt.public_key)],
        output_mask=types_pb2.BundleMask(x509_authorities=True),
    )
    answer = await lab.operator.bundles.unary("AppendBundle", request)
    assert [each.asn1 for each in answer.x509_authorities][1:] == [made.certificate]
    assert not answer.jwt_authorities
    stranger = await lab.stranger()
    assert (await refusal(stranger.bundles.unary("AppendBundle", request))).code.kind is Kind.DENIED
    bundle = await stranger.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
    assert jwt.key_id in {key.key_id for key in bundle.jwt_authorities}
    nothing = bundle_pb2.AppendBundleRequest()
    error = grpc_error(await refusal(lab.operator.bundles.unary("AppendBundle", nothing)))
    assert error.status is Status.INVALID_ARGUMENT


OPERATORS = [
    ("bundles", "AppendBundle", bundle_pb2.AppendBundleRequest()),
    ("agents", "ListAgents", agent_pb2.ListAgentsRequest()),
    ("agents", "CountAgents", agent_pb2.CountAgentsRequest()),
    ("agents", "GetAgent", agent_pb2.GetAgentRequest()),
    ("agents", "BanAgent", agent_pb2.BanAgentRequest()),
    ("agents", "DeleteAgent", agent_pb2.DeleteAgentRequest()),
    ("agents", "CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=60)),
    ("entries", "ListEntries", entry_pb2.ListEntriesRequest()),
    ("entries", "CountEntries", entry_pb2.CountEntriesRequest()),
    ("entries", "GetEntry", entry_pb2.GetEntryRequest()),
    ("entries", "BatchCreateEntry", entry_pb2.BatchCreateEntryRequest()),
    ("entries", "BatchUpdateEntry", entry_pb2.BatchUpdateEntryRequest()),
    ("entries", "BatchDeleteEntry", entry_pb2.BatchDeleteEntryRequest()),
    ("svids", "MintX509SVID", svid_pb2.MintX509SVIDRequest()),
    ("bundles", "CountBundles", bundle_pb2.CountBundlesRequest()),
]
AGENTS = [
    ("agents", "RenewAgent", agent_pb2.RenewAgentRequest()),
    ("agents", "PostStatus", agent_pb2.PostStatusRequest()),
    ("entries", "GetAuthorizedEntries", entry_pb2.GetAuthorizedEntriesRequest()),
    ("svids", "BatchNewX509SVID", svid_pb2.BatchNewX509SVIDRequest()),
]


async def test_agents_and_strangers_may_not_do_what_the_operator_may(lab: Lab) -> None:
    for caller in (await lab.agent(), await lab.stranger()):
        for service, method, request in OPERATORS:
            error = await refusal(getattr(caller, service).unary(method, request))
            assert (method, error.code.code) == (method, "VST2323")
            assert grpc_error(error).status is Status.PERMISSION_DENIED


async def test_neither_strangers_nor_the_operator_nor_workloads_are_agents(lab: Lab) -> None:
    agent = await lab.agent()
    key = generate_key()
    web = await lab.entry("/web", agent.id)
    result = await agent.new_svid(web, make_csr(key))
    workload = await lab.stranger(svid_of(result.svid.cert_chain, key))
    for caller in (await lab.stranger(), workload, lab.operator):
        for service, method, request in AGENTS:
            error = await refusal(getattr(caller, service).unary(method, request))
            assert (method, error.code.code) == (method, "VST2323")


async def test_an_agent_of_our_name_that_was_never_attested_is_refused(lab: Lab) -> None:
    key = generate_key()
    request = svid_pb2.MintX509SVIDRequest(csr=make_csr(key, SpiffeId.of(DOMAIN, "/spire/agent/x")))
    assert (await refusal(lab.operator.svids.unary("MintX509SVID", request))).code.code == "VST1205"


async def test_an_agent_of_another_authority_does_not_get_through_the_handshake(lab: Lab) -> None:
    foreign = TestAuthority("example.org").svid("/spire/agent/join_token/abc")
    error = await refusal(authorized(await lab.stranger(foreign)))
    assert error.code.code == "VST2300"


async def test_an_expired_certificate_does_not_get_through_the_handshake(lab: Lab) -> None:
    with short_directory() as directory:
        async with running(directory, agent_ttl=timedelta(seconds=1)) as short:
            agent = await short.agent()
            assert agent.svid is not None
            async with asyncio.timeout(60):
                while datetime.now(UTC) <= agent.svid.not_after:
                    await asyncio.sleep(0.05)
            # On the open connection the RPC is refused, on a new one the handshake.
            assert (await refusal(authorized(agent))).code.code in ("VST2322", "VST1213", "VST2300")
            agent.channel.renew()
            assert (await refusal(authorized(agent))).code.code == "VST2300"


async def test_a_client_that_trusts_another_authority_finds_no_server(lab: Lab) -> None:
    channel = ServerChannel(
        Address.parse(lab.ready.grpc),
        bundle=lambda: TestAuthority("example.org").bundle,
        svid=lambda: None,
        clock=SystemClock(),
    )
    bundles = Client(channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])
    error = await refusal(bundles.unary("GetBundle", bundle_pb2.GetBundleRequest()))
    assert error.code.code == "VST2315"
    channel.close()


async def test_tls_is_1_3_and_never_resumed(lab: Lab) -> None:
    host, _, port = lab.ready.grpc.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
    assert (tls.version(), tls.selected_alpn_protocol()) == ("TLSv1.3", "h2")
    await reader.read(1)  # whatever tickets there were, they would have come before the first data
    assert tls.session is None or not tls.session.has_ticket
    writer.close()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=context)


# ------------------------------------------------------------------------------------ hostile and odd


async def test_garbage_on_the_port_disturbs_nobody(lab: Lab) -> None:
    agent = await lab.agent()
    host, _, port = lab.ready.grpc.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    async with agent.node.stream("Watch") as stream:
        await stream.send_message(node_pb2.WatchRequest(), end=True)
        await stream.recv_message()
        for tls, garbage in (
            (None, b"GET / HTTP/1.1\r\n\r\n"),
            (context, b"GET / HTTP/1.1\r\n\r\n"),
            (context, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 20_000),
            (context, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\xff"),
        ):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
            writer.write(garbage)
            async with asyncio.timeout(60):
                try:
                    while await reader.read(1000):
                        pass
                except (ConnectionError, ssl.SSLError):
                    pass
            writer.close()
        assert await authorized(agent) == []
        await lab.entry("/web", agent.id)
        assert await stream.recv_message() is not None


async def test_a_message_that_is_too_large_or_none_is_refused_and_the_connection_lives(lab: Lab) -> None:
    stranger = await lab.stranger()
    request = agent_pb2.AttestAgentRequest(challenge_response=bytes(5 * 2**20))
    assert (await refusal(attest_raw(stranger, request))).code.code == "VST2314"
    assert await stranger.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())


async def test_an_unknown_method_is_unimplemented(lab: Lab) -> None:
    stranger = await lab.stranger()
    admin = Client(stranger.channel, admin_pb2.DESCRIPTOR.services_by_name["ServerAdmin"])
    error = await refusal(admin.unary("GetStatus", admin_pb2.GetServerStatusRequest()))
    assert grpc_error(error).status is Status.UNIMPLEMENTED


# -------------------------------------------------------------------------------- rotation, start, end


async def test_agents_are_told_of_a_new_authority_and_never_meet_one_they_do_not_know(lab: Lab) -> None:
    with short_directory() as directory:
        ttl = {"ca_ttl": timedelta(seconds=12), "default_x509_svid_ttl": timedelta(seconds=6)}
        async with running(directory, **ttl) as short:
            agent = await short.agent()
            seen: set[int] = set()
            # Two rotations of the authority; the agent follows like a real one.
            async with asyncio.timeout(60):
                while len(seen) < 4:
                    agent.bundle = await short.bundle()
                    seen.add(agent.bundle.sequence)
                    agent.use(await agent.renew())
                    assert await authorized(agent) == []
                    await asyncio.sleep(0.2)


async def test_streams_end_unavailable_when_the_server_stops(lab: Lab) -> None:
    agent = await lab.agent()

    async def stop() -> None:
        lab.shutdown.request()

    error = await refusal(watch_while(agent, stop))
    assert error.code.code == "VST9001"
    assert grpc_error(error).status is Status.UNAVAILABLE
    async with asyncio.timeout(60):
        await lab.serving


async def test_a_restarted_server_knows_what_it_knew(lab: Lab) -> None:
    with short_directory() as directory:
        async with running(directory) as first:
            agent = await first.agent()
            web = await first.entry("/web", agent.id)
            bundle = await first.bundle()
        async with running(directory) as second:
            again = Agent(second, agent.svid, bundle)
            assert await authorized(again) == [web]
            assert await second.bundle() == bundle
            again.channel.close()


async def test_a_taken_port_is_named(lab: Lab) -> None:
    port = int(lab.ready.grpc.rpartition(":")[2])
    with short_directory() as directory:
        with pytest.raises(VestibuleError, match=f"VST2320.*{port}"):
            async with running(directory, bind_port=port):
                pass
        assert not (directory / "data").exists()


async def test_one_data_directory_has_one_server(lab: Lab) -> None:
    with pytest.raises(VestibuleError, match="VST9111"):
        async with running(lab.directory, socket_path=lab.directory / "run" / "other.sock"):
            pass
    with pytest.raises(VestibuleError, match="VST2311"):
        async with running(lab.directory):
            pass


async def test_a_data_directory_belongs_to_one_trust_domain(lab: Lab) -> None:
    with short_directory() as directory:
        async with running(directory):
            pass
        other = SpiffeId.parse("spiffe://other.org/x").trust_domain
        with pytest.raises(VestibuleError, match="VST9112"):
            async with running(directory, trust_domain=other):
                pass


async def test_the_operators_socket_is_private(lab: Lab) -> None:
    socket = lab.ready.socket
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((lab.directory / "data").stat().st_mode) == 0o700


async def test_health_pages_tell_how_it_is(lab: Lab) -> None:
    async with httpx.AsyncClient(base_url=f"http://{lab.ready.health}", trust_env=False, timeout=60) as pages:
        assert (await pages.get("/live")).json() == {"live": True}
        ready = await pages.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["checks"] == {"store": "ok", "signing": "ok"}
        await lab.agent()
        metrics = (await pages.get("/metrics")).text
    assert 'vestibule_rpc_calls_total{method="/spire.api.server.agent.v1.Agent/AttestAgent",' in metrics
    assert "vestibule_authority_expires_timestamp_seconds" in metrics


async def test_the_server_tells_its_status(lab: Lab) -> None:
    status = await lab.operator.admin.unary("GetStatus", admin_pb2.GetServerStatusRequest())
    assert status.trust_domain == "example.org"
    assert [authority.state for authority in status.authorities] == ["active"]
