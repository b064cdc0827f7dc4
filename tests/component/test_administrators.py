"""Who may call what: every RPC by every kind of caller, over the real sockets; and administrators with bounds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from tests.component.server_lab import (
    DOMAIN,
    Agent,
    Lab,
    running,
    short_directory,
    svid_of,
    wire_entry,
    wire_id,
)

from vestibule.doors import administrators_api, entries_api, server_why, templates_api
from vestibule.doors.access import BOUNDED, OPERATOR, TABLE, Who
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, X509Svid
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, svid_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import administrators_pb2, entries_pb2, why_pb2
from vestibule.wire.gen.vestibule.node.v1 import templates_pb2
from vestibule.wire.pool import POOL

ADMIN_ID = SpiffeId.of(DOMAIN, "/admins/by-setting")
BOUND_ID = SpiffeId.of(DOMAIN, "/admins/bounded")
NODES = "/spire/agent/join_token"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    with short_directory() as directory:
        async with running(directory, admin_ids=(ADMIN_ID,)) as made:
            yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def mint(lab: Lab, spiffe_id: SpiffeId) -> X509Svid:
    key = generate_key()
    request = svid_pb2.MintX509SVIDRequest(csr=make_csr(key, spiffe_id))
    answer = await lab.operator.svids.unary("MintX509SVID", request)
    return svid_of(answer.svid.cert_chain, key)


async def workload(lab: Lab, path: str) -> Agent:
    """A client on the TCP port with the SVID of any identity."""
    return await lab.stranger(await mint(lab, SpiffeId.of(DOMAIN, path)))


async def grant(lab: Lab, spiffe_id: SpiffeId = BOUND_ID, **fields: Any) -> str:
    client = Client(lab.operator.channel, administrators_api.SERVICE)
    wanted = administrators_pb2.Administrator(spiffe_id=str(spiffe_id), **fields)
    made = await client.unary("Grant", administrators_pb2.GrantAdministratorRequest(administrator=wanted))
    return str(made.id)


async def let_in(channel: Any, path: str) -> bool:
    """Whether an empty call gets to the service, which then mostly finds it wanting."""
    service, _, method = path[1:].rpartition("/")
    descriptor = POOL.FindServiceByName(service)
    request = GetMessageClass(descriptor.methods_by_name[method].input_type)()
    client = Client(channel, descriptor)
    try:
        async with client.stream(method, timeout=10) as stream:
            await stream.send_message(request, end=True)
            await stream.recv_message()
    except VestibuleError as error:
        cause = error.__cause__
        if not isinstance(cause, GRPCError):
            raise
        if cause.status is Status.UNIMPLEMENTED and TABLE[path] in (Who.LOCAL, OPERATOR):
            # Served on the private socket alone; whoever may call it does so there.
            return bool(TABLE[path] & Who.ADMIN)
        refused = error.code.code == "VST2323"
        assert not refused or cause.status is Status.PERMISSION_DENIED
        return not refused
    return True


KINDS = {
    "anonymous": Who.ANYONE,
    "workload": Who.ANYONE,
    "agent": Who.ANYONE | Who.AGENT,
    "downstream": Who.ANYONE | Who.DOWNSTREAM,
    "admin by entry": Who.ANYONE | Who.ADMIN,
    "admin by setting": Who.ANYONE | Who.ADMIN,
}
# What needs a mesh, or whose stream has no end, is tried by the tests of those.
OWN = sorted(
    path for path in TABLE if path.startswith(("/spire", "/vestibule.admin", "/vestibule.node.v1.Templates"))
)


async def caller(lab: Lab, kind: str) -> Agent:
    match kind:
        case "anonymous":
            return await lab.stranger()
        case "agent":
            return await lab.agent()
        case "downstream":
            await lab.entry("/below", "/nobody", downstream=True, selector="a:down")
            return await workload(lab, "/below")
        case "admin by entry":
            await lab.entry("/admins/by-entry", "/nobody", admin=True, selector="a:admin")
            return await workload(lab, "/admins/by-entry")
        case "admin by setting":
            return await workload(lab, ADMIN_ID.path)
        case _:
            return await workload(lab, "/plain")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_rpc_is_open_to_whom_the_table_says_and_closed_to_others(lab: Lab, kind: str) -> None:
    made = await caller(lab, kind)
    wrong = {}
    for path in OWN:
        if (found := await let_in(made.channel, path)) != bool(TABLE[path] & KINDS[kind]):
            wrong[path] = found
    assert not wrong


async def test_an_administrator_with_bounds_may_call_only_what_its_powers_are_for(lab: Lab) -> None:
    await grant(lab, powers=["entries"], paths=["/ns/dev"], parents=["/"])
    made = await workload(lab, BOUND_ID.path)
    for path in OWN:
        if Who.ADMIN not in TABLE[path]:
            continue
        allowed = "entries" in BOUNDED.get(path, ())
        assert await let_in(made.channel, path) == allowed, path


async def create(made: Agent, *entries: types_pb2.Entry) -> list[str]:
    request = entry_pb2.BatchCreateEntryRequest(entries=entries)
    results = (await made.entries.unary("BatchCreateEntry", request)).results
    return [each.status.message if each.status.code else "" for each in results]


async def test_entries_are_made_within_the_bounds_and_nowhere_else(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/entries")
    await grant(
        lab,
        bound,
        powers=["entries"],
        paths=["/ns/dev"],
        parents=["/node"],
        features=["dns_names"],
        dns_suffixes=["dev.example.org"],
        max_x509_svid_ttl=7200,
    )
    made = await workload(lab, bound.path)
    good = wire_entry("/ns/dev/sa/a", "/node/1", "t:1", dns_names=["a.dev.example.org"])
    bad = {
        "SPIFFE ID": wire_entry("/ns/devil/sa/a", "/node/1", "t:2"),
        "parent ID": wire_entry("/ns/dev/sa/a", "/nodes", "t:3"),
        "DNS name": wire_entry("/ns/dev/sa/a", "/node/1", "t:4", dns_names=["a.evildev.example.org"]),
        "x509_svid_ttl": wire_entry("/ns/dev/sa/a", "/node/1", "t:5", x509_svid_ttl=7201),
        "'admin'": wire_entry("/ns/dev/sa/a", "/node/1", "t:6", admin=True),
        "'downstream'": wire_entry("/ns/dev/sa/a", "/node/1", "t:7", downstream=True),
        "'store_svid'": wire_entry("/ns/dev/sa/a", "/node/1", "t:8", store_svid=True),
    }
    answers = await create(made, good, *bad.values())
    assert answers[0] == ""
    for words, answer in zip(bad, answers[1:], strict=True):
        assert answer.startswith("VST1355"), answer
        assert words in answer


async def test_others_entries_are_neither_seen_nor_changed_nor_deleted(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/test")
    await grant(lab, bound, powers=["entries"], paths=["/ns/test"], parents=["/node"])
    made = await workload(lab, bound.path)
    foreign = await lab.entry("/ns/prod/sa/secret", "/node/2", selector="t:9")
    assert await create(made, wire_entry("/ns/test/sa/mine", "/node/2", "t:10")) == [""]
    listed = (await made.entries.unary("ListEntries", entry_pb2.ListEntriesRequest())).entries
    assert [each.spiffe_id.path for each in listed] == ["/ns/test/sa/mine"]
    assert (await made.entries.unary("CountEntries", entry_pb2.CountEntriesRequest())).count == 1
    with pytest.raises(VestibuleError, match="not found"):
        await made.entries.unary("GetEntry", entry_pb2.GetEntryRequest(id=foreign))
    deleted = await made.entries.unary("BatchDeleteEntry", entry_pb2.BatchDeleteEntryRequest(ids=[foreign]))
    assert deleted.results[0].status.message.startswith("VST1355")
    moves = [
        types_pb2.Entry(id=foreign, hint="x"),
        types_pb2.Entry(id=listed[0].id, spiffe_id=wire_id("/ns/prod/sa/mine")),
    ]
    for entry, mask in zip(moves, ({"hint": True}, {"spiffe_id": True}), strict=True):
        request = entry_pb2.BatchUpdateEntryRequest(entries=[entry], input_mask=types_pb2.EntryMask(**mask))
        [result] = (await made.entries.unary("BatchUpdateEntry", request)).results
        assert result.status.message.startswith("VST1355")
    why = Client(made.channel, server_why.SERVICE)
    asked = why_pb2.ExplainIdentityRequest(spiffe_id=str(SpiffeId.of(DOMAIN, "/ns/prod/sa/secret")))
    assert not (await why.unary("ExplainIdentity", asked)).entries
    # Nor is there a word about agents that it may not see, known or not.
    for agent in ((await lab.agent()).id, SpiffeId.of(DOMAIN, f"{NODES}/nobody")):
        asked.agent_id = str(agent)
        answer = await why.unary("ExplainIdentity", asked)
        assert not answer.agents
        assert not [note for note in answer.notes if str(agent) in note]
    # An entry like a foreign one is not given away either.
    kept = await create(made, wire_entry("/ns/prod/sa/secret", "/node/2", "t:9"))
    assert kept[0].startswith("VST1355")


async def test_agents_tokens_and_minting_have_bounds_too(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/ops")
    await grant(
        lab,
        bound,
        powers=["agents", "tokens", "mint"],
        paths=["/ns/ops"],
        parents=[f"{NODES}/ops-1"],
        max_x509_svid_ttl=3600,
        max_jwt_svid_ttl=300,
    )
    made = await workload(lab, bound.path)
    other = await lab.agent()
    mine = await lab.stranger()
    mine.use(await mine.attest(await lab.token("ops-1")))
    seen = (await made.agents.unary("ListAgents", agent_pb2.ListAgentsRequest())).agents
    assert [each.id.path for each in seen] == [mine.id.path]
    with pytest.raises(VestibuleError, match="VST1208"):
        await made.agents.unary("GetAgent", agent_pb2.GetAgentRequest(id=wire_id(other.id)))
    for method, request in (
        ("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(other.id))),
        ("DeleteAgent", agent_pb2.DeleteAgentRequest(id=wire_id(other.id))),
        ("CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=60, agent_id=wire_id("/ns/prod/node"))),
    ):
        with pytest.raises(VestibuleError, match="VST1355"):
            await made.agents.unary(method, request)
    await made.agents.unary("CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=60))
    await made.agents.unary("BanAgent", agent_pb2.BanAgentRequest(id=wire_id(mine.id)))
    for path, names, ttl, good in (
        ("/ns/ops/a", (), 600, True),
        ("/ns/ops/a", (), 7200, False),
        ("/ns/prod/a", (), 600, False),
        ("/ns/ops/a", ("a.example.org",), 600, False),
    ):
        csr = make_csr(generate_key(), SpiffeId.of(DOMAIN, path), names)
        call = made.svids.unary("MintX509SVID", svid_pb2.MintX509SVIDRequest(csr=csr, ttl=ttl))
        if good:
            await call
        else:
            with pytest.raises(VestibuleError, match="VST1355"):
                await call
    with pytest.raises(VestibuleError, match="VST1355"):
        await made.svids.unary(
            "MintJWTSVID", svid_pb2.MintJWTSVIDRequest(id=wire_id("/ns/prod/a"), audience=["x"])
        )


async def test_bounds_cannot_be_left_by_becoming_somebody_who_has_more_rights(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/over-teams")
    powers = ["entries", "mint", "tokens"]
    await grant(lab, bound, powers=powers, paths=["/admins", "/team"], parents=["/node"])
    made = await workload(lab, bound.path)
    await lab.entry("/team/boss", "/nobody", admin=True, selector="a:boss")
    await lab.entry("/team/server", "/nobody", downstream=True, selector="a:server")
    await grant(lab, SpiffeId.of(DOMAIN, "/team/lead"), powers=["read"], paths=["/"], parents=["/"])
    for number, path in enumerate(("/team/boss", "/team/server", "/team/lead", ADMIN_ID.path, bound.path)):
        [answer] = await create(made, wire_entry(path, "/node", f"n:{number}"))
        assert answer.startswith("VST1355"), path
        csr = make_csr(generate_key(), SpiffeId.of(DOMAIN, path))
        for service, method, request in (
            (made.svids, "MintX509SVID", svid_pb2.MintX509SVIDRequest(csr=csr)),
            (made.svids, "MintJWTSVID", svid_pb2.MintJWTSVIDRequest(id=wire_id(path), audience=["x"])),
            (
                made.agents,
                "CreateJoinToken",
                agent_pb2.CreateJoinTokenRequest(ttl=60, agent_id=wire_id(path)),
            ),
        ):
            with pytest.raises(VestibuleError, match="VST1355"):
                await service.unary(method, request)
    assert await create(made, wire_entry("/team/plain", "/node", "n:plain")) == [""]


async def test_a_token_of_ones_own_choice_takes_no_agents_place_outside_the_bounds(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/tokens")
    await grant(lab, bound, powers=["tokens"], parents=[f"{NODES}/mine"])
    made = await workload(lab, bound.path)
    for token, good in (("mine", True), ("somebodys-agent", False)):
        call = made.agents.unary("CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=60, token=token))
        if good:
            await call
        else:
            with pytest.raises(VestibuleError, match="VST1355"):
                await call
    assert (await made.agents.unary("CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=60))).value


async def test_an_identity_of_a_template_never_administers(lab: Lab) -> None:
    agent = await lab.agent()
    client = Client(lab.operator.channel, entries_api.SERVICE)
    template = entries_pb2.RegisteredEntry(
        entry=wire_entry("/people", agent.id, "a:b"),
        extras=entries_pb2.EntryExtras(path_template="/people/{unix:user}"),
    )
    made = await client.unary("Create", entries_pb2.CreateRegisteredRequest(entries=[template]))
    assert not made.results[0].status.code, made.results[0].status.message
    template_id = made.results[0].entry.entry.id
    templates = Client(agent.channel, templates_api.SERVICE)

    def asked(user: str) -> templates_pb2.DeriveRequest:
        pairs = (("a", "b"), ("unix", f"user:{user}"))
        selectors = [types_pb2.Selector(type=kind, value=value) for kind, value in pairs]
        return templates_pb2.DeriveRequest(entry_id=template_id, selectors=selectors)

    await grant(lab, SpiffeId.of(DOMAIN, "/people/root"), powers=["agents"], parents=["/"])
    with pytest.raises(VestibuleError, match="VST1352"):
        await templates.unary("Derive", asked("root"))
    await templates.unary("Derive", asked("guest"))
    with pytest.raises(VestibuleError, match="VST1356"):
        await grant(lab, SpiffeId.of(DOMAIN, "/people/guest"), powers=["agents"], parents=["/"])


async def test_a_revoked_or_expired_grant_counts_no_more_on_an_open_connection(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/short")
    made_id = await grant(lab, bound, powers=["read"], paths=["/"], parents=["/"])
    made = await workload(lab, bound.path)
    await made.entries.unary("CountEntries", entry_pb2.CountEntriesRequest())
    client = Client(lab.operator.channel, administrators_api.SERVICE)
    await client.unary("Revoke", administrators_pb2.RevokeAdministratorRequest(id=made_id))
    with pytest.raises(VestibuleError, match="VST2323"):
        await made.entries.unary("CountEntries", entry_pb2.CountEntriesRequest())
    await grant(lab, bound, powers=["read"], paths=["/"], parents=["/"], expires_at=1)
    with pytest.raises(VestibuleError, match="VST2323"):
        await made.entries.unary("CountEntries", entry_pb2.CountEntriesRequest())


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"powers": ["everything"]},
        {"powers": ["entries"], "parents": ["/"]},
        {"powers": ["entries"], "paths": ["/"]},
        {"powers": ["agents"]},
        {"powers": ["mint"]},
        {"powers": ["tokens"], "paths": ["ns/dev"]},
        {"powers": ["tokens"], "paths": ["/ns/dev/"]},
        {"powers": ["tokens"], "features": ["all"]},
        {"powers": ["tokens"], "max_x509_svid_ttl": -1},
        {"powers": ["tokens"], "expires_at": 2**60},
        {"powers": ["tokens"], "paths": [f"/p{n}" for n in range(65)]},
    ],
)
async def test_a_grant_that_bounds_nothing_where_it_has_to_is_refused(
    lab: Lab, fields: dict[str, Any]
) -> None:
    with pytest.raises(VestibuleError, match="VST1356"):
        await grant(lab, **fields)


async def test_grants_and_what_they_were_used_for_are_on_record(lab: Lab) -> None:
    bound = SpiffeId.of(DOMAIN, "/admins/recorded")
    await grant(lab, bound, powers=["entries"], paths=["/ns/rec"], parents=["/node"])
    made = await workload(lab, bound.path)
    await create(made, wire_entry("/ns/rec/a", "/node/1", "t:20"), wire_entry("/ns/no/a", "/node/1", "t:20"))
    log = (lab.directory / "data" / "audit.jsonl").read_text()
    assert '"administrator.grant"' in log
    lines = [line for line in log.splitlines() if f'"{bound}"' in line and '"entry.create"' in line]
    assert len(lines) == 2
    assert '"VST1355"' in lines[1]


async def test_labels_claims_and_warnings_travel_beside_spires_entry(lab: Lab) -> None:
    client = Client(lab.operator.channel, entries_api.SERVICE)

    def wanted(path: str, selectors: int, **extras: Any) -> entries_pb2.RegisteredEntry:
        entry = wire_entry(path, "/node/amb", "amb:1", x509_svid_ttl=60)
        entry.selectors.extend(types_pb2.Selector(type="amb", value=str(2 + n)) for n in range(selectors))
        return entries_pb2.RegisteredEntry(entry=entry, extras=entries_pb2.EntryExtras(**extras))

    request = entries_pb2.CreateRegisteredRequest(
        entries=[
            wanted("/amb/a", 0, labels={"team": "shop"}, jwt_claims='{"org": "x"}'),
            wanted("/amb/b", 1),
            wanted("/amb/c", 0, jwt_claims='{"sub": "x"}'),
        ]
    )
    first, second, third = (await client.unary("Create", request)).results
    assert dict(first.entry.extras.labels) == {"team": "shop"}
    assert third.status.message.startswith("VST1350")
    [warning] = second.warnings
    assert set(warning.entry_ids) == {first.entry.entry.id, second.entry.entry.id}
    assert sorted(warning.entry_ids) == list(warning.entry_ids)
    review = await client.unary("Review", entries_pb2.ReviewRequest())
    assert [list(each.entry_ids) for each in review.warnings].count(list(warning.entry_ids)) == 1
    filtered = entries_pb2.RegisteredFilter(labels={"team": ""})
    listed = await client.unary("List", entries_pb2.ListRegisteredRequest(filter=filtered))
    assert [each.entry.id for each in listed.entries] == [first.entry.entry.id]
    # SPIRE's own update leaves what it does not know alone, and so does one of ours that names other fields.
    mask = types_pb2.EntryMask(hint=True)
    change = types_pb2.Entry(id=first.entry.entry.id, hint="h")
    await lab.operator.entries.unary(
        "BatchUpdateEntry", entry_pb2.BatchUpdateEntryRequest(entries=[change], input_mask=mask)
    )
    update = entries_pb2.UpdateRegisteredRequest(
        entries=[
            entries_pb2.RegisteredEntry(
                entry=types_pb2.Entry(id=change.id),
                extras=entries_pb2.EntryExtras(labels={"team": "pay"}),
            )
        ],
        fields=["labels"],
    )
    [result] = (await client.unary("Update", update)).results
    assert (result.entry.entry.hint, dict(result.entry.extras.labels)) == ("h", {"team": "pay"})
    assert result.entry.extras.jwt_claims == '{"org":"x"}'
    assert timedelta(seconds=result.entry.entry.x509_svid_ttl) == timedelta(minutes=1)
