"""What `vestibule up` asks of a server as its operator, against the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from tests.component.server_lab import DOMAIN, Lab, running, short_directory, wire_entry

from vestibule.app.up.operator import Operator
from vestibule.errors import VestibuleError
from vestibule.pki.chains import verify_x509_svid
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, types_pb2

AGENT = SpiffeId.of(DOMAIN, "/spire/agent/join_token/one")
NEXT_AGENT = SpiffeId.of(DOMAIN, "/spire/agent/join_token/two")
WEB = SpiffeId.of(DOMAIN, "/ns/test/sa/web")
API = SpiffeId.of(DOMAIN, "/ns/test/sa/api")


@dataclass
class Stage:
    lab: Lab
    operator: Operator

    async def entries(self) -> dict[str, types_pb2.Entry]:
        answer = await self.lab.operator.entries.unary("ListEntries", entry_pb2.ListEntriesRequest())
        return {each.spiffe_id.path: each for each in answer.entries}


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    with short_directory() as directory:
        async with running(directory) as lab:
            with Operator(lab.ready.socket) as operator:
                yield Stage(lab, operator)


async def test_each_service_gets_one_entry_under_the_agent(stage: Stage) -> None:
    ids = await stage.operator.register(AGENT, {"web": WEB, "api": API})
    entries = await stage.entries()
    assert {name: entries[path].id for name, path in (("web", WEB.path), ("api", API.path))} == ids
    assert entries[WEB.path].parent_id.path == AGENT.path
    [selector] = entries[WEB.path].selectors
    assert (selector.type, selector.value) == ("supervised", "service:web")


async def test_entries_of_an_earlier_run_are_taken_over(stage: Stage) -> None:
    before = await stage.operator.register(AGENT, {"web": WEB, "api": API})
    await stage.operator.set_ttl(before.values(), 6)
    after = await stage.operator.register(NEXT_AGENT, {"web": WEB, "api": API})
    assert after == before
    entries = await stage.entries()
    assert {each.parent_id.path for each in entries.values()} == {NEXT_AGENT.path}
    assert {each.x509_svid_ttl for each in entries.values()} == {0}


async def test_a_service_with_another_identity_keeps_its_entry(stage: Stage) -> None:
    [before] = (await stage.operator.register(AGENT, {"web": WEB})).values()
    [after] = (await stage.operator.register(AGENT, {"web": API})).values()
    assert after == before
    assert list(await stage.entries()) == [API.path]


async def test_entries_of_services_that_are_gone_go_and_foreign_ones_stay(stage: Stage) -> None:
    await stage.lab.create(wire_entry("/ns/test/sa/db", AGENT, "unix:uid:7"))
    await stage.operator.register(AGENT, {"web": WEB, "api": API})
    await stage.operator.register(AGENT, {"web": WEB})
    assert set(await stage.entries()) == {WEB.path, "/ns/test/sa/db"}


async def test_lifetimes_are_shortened_and_restored(stage: Stage) -> None:
    ids = await stage.operator.register(AGENT, {"web": WEB, "api": API})
    await stage.operator.set_ttl([ids["web"]], 6)
    entries = await stage.entries()
    assert (entries[WEB.path].x509_svid_ttl, entries[API.path].x509_svid_ttl) == (6, 0)
    assert entries[WEB.path].parent_id.path == AGENT.path
    await stage.operator.set_ttl([ids["web"]], 0)
    assert (await stage.entries())[WEB.path].x509_svid_ttl == 0


async def test_an_entry_that_the_server_refuses_is_an_error(stage: Stage) -> None:
    with pytest.raises(VestibuleError) as caught:
        await stage.operator.register(AGENT, {"web": SpiffeId.parse("spiffe://elsewhere.org/web")})
    assert caught.value.code.code == "VST7305"


async def test_a_minted_svid_is_a_real_one(stage: Stage) -> None:
    svid = await stage.operator.mint(WEB)
    assert verify_x509_svid(svid.chain, await stage.operator.bundle(), datetime.now(UTC)) == WEB


async def test_agents_of_earlier_runs_are_forgotten(stage: Stage) -> None:
    old, new = await stage.lab.agent(), await stage.lab.agent()
    await stage.operator.remove_agents_except(new.id)
    answer = await stage.lab.operator.agents.unary("ListAgents", agent_pb2.ListAgentsRequest())
    assert [each.id.path for each in answer.agents] == [new.id.path]
    assert old.id != new.id


async def test_a_join_token_lets_one_agent_join(stage: Stage) -> None:
    agent = await stage.lab.stranger()
    svid = await agent.attest(await stage.operator.join_token())
    assert svid.spiffe_id.path.startswith("/spire/agent/join_token/")


async def test_the_status_is_the_servers_own(stage: Stage) -> None:
    assert (await stage.operator.status()).trust_domain == DOMAIN.name


async def test_without_a_server_it_is_unreachable() -> None:
    with (
        short_directory() as directory,
        Operator(directory / "server.sock") as operator,
        pytest.raises(VestibuleError) as caught,
    ):
        await operator.bundle()
    assert caught.value.code.code == "VST2300"
