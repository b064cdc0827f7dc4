"""A server below a server: one trust domain, one bundle, and whoever is at one level is known at the other.

root server ── agent "up" ── the lower server itself (its identity, from this agent's Workload API)
     │     └── agent "top" ── a workload, spiffe://example.org/top
     └─ lower server ── agent "low" ── a workload, spiffe://example.org/low
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpclib.server
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from tests.component.authority_lab import Operator, leads_to, roots_of, until
from tests.component.handshakes import following, shake_hands, traffic
from tests.component.server_lab import grpc_error, svid_of
from tests.component.test_agent import ME, TD, Field, Running, Server, anything, wire_id

from vestibule.app.server_settings import Upstream
from vestibule.calls.channel import ServerChannel
from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.unix import unix_channel
from vestibule.calls.upstream_api import OwnIdentity, UpstreamApi, upstream_api
from vestibule.clock import SystemClock
from vestibule.doors.identity_api.values import jwt_key_to_wire
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client, serve
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.pki.profiles import Issuer, lifetime
from vestibule.pki.profiles import svid as svid_profile
from vestibule.pki.revocation import revoked
from vestibule.records import Address
from vestibule.spiffe import JwtAuthority, Revocations, SpiffeId, TrustBundle, X509Svid
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spire import bundle_pb2, entry_pb2, svid_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2, revocation_pb2
from vestibule.wire.gen.vestibule.node.v1 import revocations_pb2

LOWER = "/lower-server"
HOUR = timedelta(hours=1)


@dataclass
class Nested:
    """Two levels; each has its own field of agents."""

    root: Field
    lower: Field
    up: Running
    top: Running
    low: Running

    @property
    def root_operator(self) -> Operator:
        return Operator(self.root.server.socket)

    @property
    def lower_operator(self) -> Operator:
        return Operator(self.lower.server.socket)


async def downstream_entry(
    server: Server, parent: SpiffeId, path: str, downstream: bool = True, admin: bool = False
) -> str:
    entry = types_pb2.Entry(
        spiffe_id=wire_id(SpiffeId.of(TD, path)),
        parent_id=wire_id(parent),
        selectors=[types_pb2.Selector(type="unix", value=ME.partition(":")[2])],
        downstream=downstream,
        admin=admin,
    )
    service = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
    request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
    answer = await server.call(service, "BatchCreateEntry", request)
    assert answer.results[0].status.code == 0, answer.results[0].status.message
    return str(answer.results[0].entry.id)


@asynccontextmanager
async def fields() -> AsyncIterator[tuple[Field, Field]]:
    """A root server that runs, and one below it that does not yet."""
    directory = Path(tempfile.mkdtemp(prefix="vn", dir="/tmp"))
    found = []
    for name in ("r", "l"):
        (directory / name).mkdir()
        found.append(Field(directory / name, Server(directory / name)))
    root, lower = found
    await root.server.start()
    try:
        yield root, lower
    finally:
        for each in (lower, root):
            for agent in each.agents:
                if not agent.task.done():
                    await agent.stop()
            await each.server.stop()
        shutil.rmtree(directory)


def below(root: Field, up: Running, **more: Any) -> dict[str, Any]:
    return {
        "upstream": Upstream.SPIRE,
        "upstream_server_address": f"127.0.0.1:{root.server.port}",
        "upstream_workload_api": up.settings.socket_path,
        **more,
    }


@pytest.fixture
async def nested() -> AsyncIterator[Nested]:
    async with fields() as (root, lower):
        up = await root.agent(await root.first_settings("up"))
        await downstream_entry(root.server, up.id, LOWER)
        await up.until(anything)
        lower.server.options = below(root, up)
        await lower.server.start()
        top = await root.agent(await root.first_settings("top"))
        await root.server.entry(top.id, "/top", ME)
        low = await lower.agent(await lower.first_settings("low"))
        await lower.server.entry(low.id, "/low", ME)
        for agent in (top, low):
            await agent.until(anything)
        yield Nested(root, lower, up, top, low)


async def tokens_are_valid(issuer: Running, judge: Running) -> bool:
    async with issuer.api() as one, judge.api() as other:
        token, *_ = await one.fetch_jwt_svids(["db"])
        try:
            return (await other.validate_jwt_svid(token.token, "db")).spiffe_id == token.spiffe_id
        except VestibuleError:
            return False


async def until_valid(issuer: Running, judge: Running) -> None:
    async with asyncio.timeout(60):
        while not await tokens_are_valid(issuer, judge):
            await asyncio.sleep(0.05)


async def test_both_levels_know_each_others_certificates_and_tokens(nested: Nested) -> None:
    top, low = await nested.top.fetch(), await nested.low.fetch()
    assert [len(each.svids[0].chain) for each in (top, low)] == [1, 2]
    assert roots_of(top) == roots_of(low) == {await nested.root_operator.active()}
    shake_hands(top, low)
    shake_hands(low, top)
    await until_valid(nested.low, nested.top)
    await until_valid(nested.top, nested.low)
    keys = [{key.key_id for key in (await each.bundle()).jwt_authorities} for each in operators(nested)]
    assert keys[0] == keys[1] >= {await each.active("JWT") for each in operators(nested)}
    state = await nested.lower_operator.states("X509")
    assert state.active.upstream_authority_subject_key_id == await nested.root_operator.active()


def operators(nested: Nested) -> tuple[Operator, Operator]:
    return nested.root_operator, nested.lower_operator


async def test_a_forced_rotation_at_the_top_reaches_everybody_and_fails_no_handshake(nested: Nested) -> None:
    root = nested.root_operator
    first = await root.active()
    async with (
        following(nested.top.settings.socket_path) as top,
        following(nested.low.settings.socket_path) as low,
        traffic(top, low) as handshakes,
    ):
        both = (top, low)
        second = await root.prepare()
        await until(lambda: all(second in roots_of(each.context) for each in both), "both trust the second")
        await root.step("Activate", second)
        await root.step("Taint", first)
        # The lower server gets another signing certificate before it tells its own agents.
        await until(lambda: all(leads_to(each.context, second) for each in both), "all is renewed")
        assert {each.upstream_authority_subject_key_id for each in [await lower_active(nested)]} == {second}
        await until_own_identity(nested, second)
        await root.step("Revoke", first)
        await until(lambda: all(roots_of(each.context) == {second} for each in both), "the first is gone")
        before = handshakes.handshakes
        await until(lambda: handshakes.handshakes > before + 10, "handshakes go on")
    assert not handshakes.failures
    await until_valid(nested.low, nested.top)
    refused = nested.lower_operator.step(
        "Taint", (await nested.lower_operator.states("X509")).old.authority_id
    )
    with pytest.raises(VestibuleError) as refusal:
        await refused
    assert grpc_error(refusal.value).status is Status.FAILED_PRECONDITION


async def lower_active(nested: Nested) -> Any:
    return (await nested.lower_operator.states("X509")).active


async def until_own_identity(nested: Nested, root_id: str) -> None:
    """The lower server's identity at the server above is below the new root, too."""
    async with asyncio.timeout(60):
        while not leads_to(await nested.up.fetch(), root_id):
            await asyncio.sleep(0.05)


async def test_jwt_keys_are_rotated_at_either_level_and_revoked_at_the_top(nested: Nested) -> None:
    root, lower = operators(nested)
    for operator, issuer, judge in ((lower, nested.low, nested.top), (root, nested.top, nested.low)):
        first = await operator.active("JWT")
        second = await operator.prepare("JWT")
        await operator.step("Activate", second, "JWT")
        await operator.step("Taint", first, "JWT")
        await until_valid(issuer, judge)
        await operator.step("Revoke", first, "JWT")
        await until_valid(issuer, judge)
        for other in (root, lower):  # at both levels, whichever it was revoked at
            await until_withdrawn(other, first)
    # A stolen lower server: its key is revoked at the top, and it changes over by itself.
    stolen = await lower.active("JWT")
    await root.step("Taint", stolen, "JWT")
    await root.step("Revoke", stolen, "JWT")
    for other in (root, lower):
        await until_withdrawn(other, stolen)
    assert await lower.active("JWT") != stolen
    await until_valid(nested.low, nested.top)


async def until_withdrawn(operator: Operator, key_id: str) -> None:
    async with asyncio.timeout(60):
        while key_id in {key.key_id for key in (await operator.bundle()).jwt_authorities}:
            await asyncio.sleep(0.05)


async def test_both_servers_may_restart_and_the_lower_one_also_while_the_other_is_away(
    nested: Nested,
) -> None:
    lower = nested.lower_operator
    active, jwt = await lower.active(), await lower.active("JWT")
    await nested.lower.server.stop()
    await nested.lower.server.start()
    assert (await lower.active(), await lower.active("JWT")) == (active, jwt)
    await nested.root.server.stop()
    await nested.lower.server.stop()
    await nested.lower.server.start()
    assert (await lower.active(), await lower.active("JWT")) == (active, jwt)
    await nested.lower.server.entry(nested.low.id, "/meanwhile", ME)
    context = await nested.low.until(lambda found: len(found.svids) == 2)
    shake_hands(context, await nested.top.fetch())
    async with asyncio.timeout(60):
        while not any("upstream" in each for each in await warnings(nested.lower.server)):
            await asyncio.sleep(0.05)
    await nested.root.server.start()
    second = await nested.root_operator.prepare()
    async with asyncio.timeout(60):
        while second not in roots_of(await nested.low.fetch()):
            await asyncio.sleep(0.05)
    await until_valid(nested.low, nested.top)


async def warnings(server: Server) -> list[str]:
    service = admin_pb2.DESCRIPTOR.services_by_name["ServerAdmin"]
    return list((await server.call(service, "GetStatus", admin_pb2.GetServerStatusRequest())).warnings)


# ----------------------------------------------------------------------------------- who may, and what


@asynccontextmanager
async def as_workload(field: Field, agent: Running) -> AsyncIterator[UpstreamApi]:
    address = Address.parse(f"127.0.0.1:{field.server.port}")
    async with upstream_api(address, agent.settings.socket_path, TD, SystemClock()) as api:
        yield api


async def refused_with(call: Coroutine[Any, Any, object]) -> Status:
    with pytest.raises(VestibuleError) as refusal:
        await call
    return grpc_error(refusal.value).status


def new_key(**changes: Any) -> JwtAuthority:
    plain = replace(TestAuthority(TD).jwt_authority, expires_at=datetime.now(UTC) + HOUR)
    return replace(plain, **changes)


async def test_only_an_identity_with_a_downstream_entry_may_and_no_more_than_that(nested: Nested) -> None:
    csr = make_csr(generate_key(), TD.id)
    async with as_workload(nested.root, nested.top) as api:
        for call in (api.new_downstream_ca(csr, HOUR), api.publish_jwt(new_key())):
            assert await refused_with(call) is Status.PERMISSION_DENIED
    async with as_workload(nested.root, nested.up) as api:
        chain, roots = await api.new_downstream_ca(csr, HOUR)
        assert (len(chain), len(roots)) == (1, 1)
        entries = Client(api.channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        listing = entries.unary("ListEntries", entry_pb2.ListEntriesRequest())
        assert await refused_with(listing) is Status.PERMISSION_DENIED
        # What it asks for has to be in order, too.
        foreign = make_csr(generate_key(), SpiffeId.parse("spiffe://other.org"))
        workload = make_csr(generate_key(), SpiffeId.of(TD, "/web"))
        for bad in (b"", b"no request", foreign, workload, csr[:-1] + bytes([csr[-1] ^ 1])):
            assert await refused_with(api.new_downstream_ca(bad, HOUR)) is Status.INVALID_ARGUMENT
        fresh = new_key()
        [mine] = [key for key in await api.publish_jwt(fresh) if key.key_id == fresh.key_id]
        assert mine in await api.publish_jwt(mine), "twice is once"
        for key in (
            new_key(key_id=""),
            new_key(expires_at=None),
            new_key(expires_at=datetime.now(UTC) - HOUR),
            new_key(public_key=b"no key"),
            new_key(key_id=mine.key_id),
            new_key(key_id=await nested.root_operator.active("JWT")),
        ):
            assert await refused_with(api.publish_jwt(key)) is Status.INVALID_ARGUMENT
        await nested.root_operator.step("Taint", mine.key_id, "JWT")
        await nested.root_operator.step("Revoke", mine.key_id, "JWT")
        assert await refused_with(api.publish_jwt(mine)) is Status.FAILED_PRECONDITION


async def minted(field: Field, path: str) -> X509Svid:
    key = generate_key()
    request = svid_pb2.MintX509SVIDRequest(csr=make_csr(key, SpiffeId.of(TD, path)))
    service = svid_pb2.DESCRIPTOR.services_by_name["SVID"]
    answer = await field.server.call(service, "MintX509SVID", request)
    return svid_of(answer.svid.cert_chain, key)


@asynccontextmanager
async def showing(field: Field, svid: X509Svid, bundle: TrustBundle) -> AsyncIterator[ServerChannel]:
    address = Address.parse(f"127.0.0.1:{field.server.port}")
    channel = ServerChannel(address, bundle=lambda: bundle, svid=lambda: svid, clock=SystemClock())
    try:
        yield channel
    finally:
        channel.close()


async def count_entries(field: Field, svid: X509Svid, bundle: TrustBundle) -> int:
    async with showing(field, svid, bundle) as channel:
        entries = Client(channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        return int((await entries.unary("CountEntries", entry_pb2.CountEntriesRequest())).count)


async def test_a_server_below_cannot_make_itself_an_administrator_of_the_one_above(nested: Nested) -> None:
    bundle = await nested.root_operator.bundle()
    for field in (nested.root, nested.lower):
        await downstream_entry(
            field.server, SpiffeId.of(TD, "/nobody"), "/boss", downstream=False, admin=True
        )
    above, below_it = await minted(nested.root, "/boss"), await minted(nested.lower, "/boss")
    # Both are good certificates of that identity, to everybody.
    for svid in (above, below_it):
        assert verify_x509_svid(svid.chain, bundle, datetime.now(UTC)) == svid.spiffe_id
        assert await count_entries(nested.lower, svid, bundle) > 0
    assert await count_entries(nested.root, above, bundle) > 0
    assert await refused_with(count_entries(nested.root, below_it, bundle)) is Status.PERMISSION_DENIED


async def test_one_server_below_can_neither_taint_nor_end_a_key_of_another(nested: Nested) -> None:
    bundle = await nested.root_operator.bundle()
    await downstream_entry(nested.root.server, SpiffeId.of(TD, "/nobody"), "/other-server")
    other = await minted(nested.root, "/other-server")
    own = await nested.root_operator.active("JWT")
    [key] = [each for each in bundle.jwt_authorities if each.key_id != own]
    assert key.expires_at is not None
    soon = datetime.now(UTC) + timedelta(seconds=30)
    async with showing(nested.root, other, bundle) as channel:
        client = Client(channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])
        for changed in (replace(key, tainted=True), replace(key, expires_at=soon)):
            request = bundle_pb2.PublishJWTAuthorityRequest(jwt_authority=jwt_key_to_wire(changed))
            await client.unary("PublishJWTAuthority", request)
        over = replace(key, tainted=True, expires_at=datetime.now(UTC) - HOUR)
        request = bundle_pb2.PublishJWTAuthorityRequest(jwt_authority=jwt_key_to_wire(over))
        assert await refused_with(client.unary("PublishJWTAuthority", request)) is Status.INVALID_ARGUMENT
    assert key in (await nested.root_operator.bundle()).jwt_authorities


async def revoke(operator: Operator, **what: Any) -> None:
    service = revocation_pb2.DESCRIPTOR.services_by_name["RevocationAdmin"]
    channel = unix_channel(operator.socket)
    try:
        await Client(channel, service).unary("Revoke", revocation_pb2.RevokeRequest(**what), timeout=60)
    finally:
        channel.close()


async def until_refused(agent: Running, chain: tuple[bytes, ...]) -> None:
    """Until the agent tells the libraries on its node not to accept this chain."""
    channel, listed = unix_channel(agent.settings.socket_path), Revocations()
    try:
        async with asyncio.timeout(60), aclosing(RevocationFeed(channel).watch(0)) as updates:
            async for update in updates:
                listed = listed.merged(update.changes, update.version, datetime.now(UTC))
                if revoked(listed, chain, datetime.now(UTC)) is not None:
                    return
    finally:
        channel.close()


async def test_what_the_server_above_revokes_the_one_below_issues_no_more(nested: Nested) -> None:
    await nested.lower.server.entry(nested.low.id, "/other", ME)
    await nested.low.until(lambda found: len(found.svids) == 2)
    await revoke(nested.root_operator, identity=str(SpiffeId.of(TD, "/low")), reason="keyCompromise")
    context = await nested.low.until(lambda found: len(found.svids) == 1)
    assert context.svids[0].spiffe_id == SpiffeId.of(TD, "/other")
    with pytest.raises(VestibuleError, match="revoked"):
        await minted(nested.lower, "/low")


class HasNoList:
    """As a server that does not know the service answers."""

    async def watch(self, _stream: Any) -> None:
        raise GRPCError(Status.UNIMPLEMENTED, "unknown service")


async def test_a_server_above_that_has_no_list_says_so_once() -> None:
    feed = revocations_pb2.DESCRIPTOR.services_by_name["Revocations"]
    served = grpclib.server.Server([serve(feed, HasNoList())])
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        await served.start(sock=found)
        channel = Channel("127.0.0.1", found.getsockname()[1])
        try:
            api = UpstreamApi(
                cast(ServerChannel, channel), cast(OwnIdentity, SimpleNamespace(svid=object())), TD
            )
            assert [each async for each in api.revocations()] == [None]
        finally:
            channel.close()
            served.close()
            await served.wait_closed()


async def test_a_server_below_that_is_revoked_goes_with_all_that_it_issued(nested: Nested) -> None:
    stolen = (await nested.low.fetch()).svids[0].chain
    bundle = await nested.root_operator.bundle()
    await revoke(nested.root_operator, identity=str(SpiffeId.of(TD, LOWER)), reason="keyCompromise")
    await until_refused(nested.top, stolen)
    verify_x509_svid(stolen, bundle, datetime.now(UTC))  # by itself it is as good as ever
    # It is signed no other certificate, either.
    async with as_workload(nested.root, nested.up) as api:
        with pytest.raises((VestibuleError, TimeoutError)):
            async with asyncio.timeout(5):
                await api.new_downstream_ca(make_csr(generate_key(), TD.id), HOUR)


async def test_a_server_below_goes_on_with_a_new_certificate_where_only_the_old_ones_are_revoked(
    nested: Nested,
) -> None:
    before, old = await nested.low.fetch(), await lower_active(nested)
    identity = str(SpiffeId.of(TD, LOWER))
    await revoke(nested.root_operator, identity=identity, allow_new=True, reason="superseded")
    await until_refused(nested.top, before.svids[0].chain)
    async with asyncio.timeout(60):
        while (await lower_active(nested)).authority_id == old.authority_id:
            await asyncio.sleep(0.05)
    # What it issues from now on counts again; what it had issued, to its agents as well, does not.
    fresh, bundle = await minted(nested.lower, "/new"), await nested.root_operator.bundle()
    assert verify_x509_svid(fresh.chain, bundle, datetime.now(UTC)) == fresh.spiffe_id
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await until_refused(nested.top, fresh.chain)


async def test_an_agents_identity_that_a_server_below_signed_is_no_agent_above(nested: Nested) -> None:
    bundle, authority, key = await nested.root_operator.bundle(), generate_key(), generate_key()
    async with as_workload(nested.root, nested.up) as api:
        chain, _ = await api.new_downstream_ca(make_csr(authority, TD.id), HOUR)
    issuer = Issuer.of(chain[0], TD)
    valid = lifetime(datetime.now(UTC), HOUR, issuer.not_after)
    leaf = svid_profile(nested.top.id, key.public_key(), valid, issuer).sign(authority, SHA256())
    forged = svid_of((leaf.public_bytes(Encoding.DER), *chain), key)
    assert verify_x509_svid(forged.chain, bundle, datetime.now(UTC)) == nested.top.id
    async with showing(nested.root, forged, bundle) as channel:
        client = Client(channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        call = client.unary("GetAuthorizedEntries", entry_pb2.GetAuthorizedEntriesRequest())
        assert await refused_with(call) is Status.PERMISSION_DENIED


async def test_a_server_without_a_downstream_entry_says_what_it_lacks() -> None:
    async with fields() as (root, lower):
        up = await root.agent(await root.first_settings("up"))
        entry_id = await downstream_entry(root.server, up.id, LOWER, downstream=False)
        await up.until(anything)
        lower.server.options = below(root, up)
        with pytest.raises(VestibuleError, match="VST1310") as refusal:
            await lower.server.start()
        assert "--downstream" in refusal.value.advice
        assert str(SpiffeId.of(TD, LOWER)) in refusal.value.message
        lower.server.task = None
        await root.server.delete_entry(entry_id)
        await downstream_entry(root.server, up.id, LOWER)
        await lower.server.start()
        assert (await Operator(lower.server.socket).states("X509")).active.upstream_authority_subject_key_id
