"""Authorities are rotated by command, under continuous mutual TLS."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from grpclib.const import Status
from tests.component.authority_lab import Operator, leads_to, roots_of, until
from tests.component.handshakes import following, traffic
from tests.component.server_lab import grpc_error
from tests.component.test_agent import ME, Field, a_world, anything, wire_id

from vestibule.calls.workload_api import WorkloadApi
from vestibule.errors import VestibuleError
from vestibule.wire.gen.spire import agent_pb2


@pytest.fixture
async def world() -> AsyncIterator[Field]:
    async with a_world() as made:
        yield made


async def two_agents(world: Field) -> None:
    for name, path in (("a", "/web"), ("b", "/api")):
        agent = await world.agent(await world.first_settings(name))
        await world.server.entry(agent.id, path, ME)
        await agent.until(anything)


async def test_a_forced_rotation_fails_no_handshake(world: Field) -> None:
    await two_agents(world)
    operator = Operator(world.server.socket)
    sockets = [agent.settings.socket_path for agent in world.agents]
    async with following(sockets[0]) as web, following(sockets[1]) as api, traffic(web, api) as handshakes:
        both = (web, api)
        first = await operator.active()
        second = await operator.prepare()
        await until(lambda: all(second in roots_of(each.context) for each in both), "the bundle has both")
        await operator.step("Activate", second)
        assert await operator.active() == second
        assert all(leads_to(each.context, first) for each in both), "nothing is renewed before its time"
        own = await serials(world)
        await operator.step("Taint", first)
        await until(lambda: all(leads_to(each.context, second) for each in both), "all is renewed")
        # The agents' own certificates are renewed with the same haste, and the server's at once.
        await until_renewed(world, own)
        before = handshakes.handshakes
        await operator.step("Revoke", first)
        await until(lambda: all(roots_of(each.context) == {second} for each in both), "the first one is gone")
        await until(lambda: handshakes.handshakes > before + 10, "handshakes go on")
    assert not handshakes.failures
    assert handshakes.handshakes > 50
    # What was cut off would show at the next thing that the agents ask for.
    await world.server.entry(world.agents[0].id, "/more", ME)
    await world.agents[0].until(lambda found: len(found.svids) == 2)


async def test_in_a_hurry_what_was_cut_off_comes_back_alone(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    operator = Operator(world.server.socket)
    first, second = await operator.active(), await operator.prepare()
    await agent.until(lambda found: second in roots_of(found))
    for step, authority in (("Activate", second), ("Taint", first), ("Revoke", first)):
        await operator.step(step, authority)
    context = await agent.until(lambda found: roots_of(found) == {second} and leads_to(found, second))
    assert not agent.task.done()
    assert len(context.svids) == 1


async def until_renewed(world: Field, before: list[str]) -> None:
    """The server knows an agent's new certificate once the agent shows it: with the next thing that it asks."""
    async with asyncio.timeout(90):
        for number in itertools.count():
            if not set(before) & set(await serials(world)):
                return
            for agent in world.agents:
                await world.server.entry(agent.id, f"/reason-to-ask/{number}", "unix:uid:4242424242")
            await asyncio.sleep(0.2)


async def serials(world: Field) -> list[str]:
    """The agents' own certificates, as the server knows them."""
    requests = [agent_pb2.GetAgentRequest(id=wire_id(agent.id)) for agent in world.agents]
    return [(await world.server.agent_call("GetAgent", each)).x509svid_serial_number for each in requests]


# ------------------------------------------------------------------------------------------- tokens


async def test_tokens_of_a_tainted_key_are_dropped_at_once_and_of_a_revoked_one_refused(world: Field) -> None:
    agent = await world.agent()
    await world.server.entry(agent.id, "/web", ME)
    await agent.until(anything)
    operator = Operator(world.server.socket)
    async with agent.api() as api:
        [old] = await api.fetch_jwt_svids(["db"])
        first = await operator.active("JWT")
        assert old.key_id == first
        second = await operator.prepare("JWT")
        await operator.step("Activate", second, "JWT")
        assert (await api.fetch_jwt_svids(["db"]))[0].key_id == first, "what is cached is good"
        await operator.step("Taint", first, "JWT")
        assert {key.key_id: key.tainted for key in (await operator.bundle()).jwt_authorities} == {
            first: True,
            second: False,
        }

        async def of_second() -> bool:
            return (await api.fetch_jwt_svids(["db"]))[0].key_id == second

        async with asyncio.timeout(60):
            while not await of_second():
                await asyncio.sleep(0.02)
        await api.validate_jwt_svid(old.token, "db")
        await operator.step("Revoke", first, "JWT")
        async with asyncio.timeout(60):
            while await is_valid(api, old.token):
                await asyncio.sleep(0.02)


async def is_valid(api: WorkloadApi, token: str) -> bool:
    try:
        await api.validate_jwt_svid(token, "db")
    except VestibuleError:
        return False
    return True


# ---------------------------------------------------------------------------------- SPIRE's statuses


async def status_of(operator: Operator, method: str, **fields: str) -> Status:
    with pytest.raises(VestibuleError) as refusal:
        await operator.call(method, **fields)
    return grpc_error(refusal.value).status


async def test_the_guards_of_spire_answer_with_its_statuses(world: Field) -> None:
    operator = Operator(world.server.socket)
    for kind in ("X509", "JWT"):
        active = await operator.active(kind)
        for step in ("Activate", "Taint", "Revoke"):
            for authority in ("", "beef", active):
                status = await status_of(operator, f"{step}{kind}Authority", authority_id=authority)
                assert status is Status.INVALID_ARGUMENT, (step, authority)
        prepared = await operator.prepare(kind)
        taint = await status_of(operator, f"Taint{kind}Authority", authority_id=prepared)
        assert taint is Status.INVALID_ARGUMENT
        await operator.step("Activate", prepared, kind)
        assert (await operator.states(kind)).old.authority_id == active
        assert await status_of(operator, f"Activate{kind}Authority", authority_id=active) is Status.INTERNAL
        assert await status_of(operator, f"Revoke{kind}Authority", authority_id=active) is Status.INTERNAL
    for step in ("Taint", "Revoke"):
        status = await status_of(operator, f"{step}X509UpstreamAuthority", subject_key_id="beef")
        assert status is Status.FAILED_PRECONDITION
    for method in ("Get{}State", "Prepare{}", "Activate{}", "Taint{}", "Revoke{}"):
        status = await status_of(operator, method.format("WITAuthority"))
        assert status is Status.UNIMPLEMENTED


async def test_without_jwt_svids_their_authorities_are_unimplemented() -> None:
    async with a_world(disable_jwt_svids=True) as world:
        operator = Operator(world.server.socket)
        for method in ("Get{}State", "Prepare{}", "Activate{}", "Taint{}", "Revoke{}"):
            status = await status_of(operator, method.format("JWTAuthority"))
            assert status is Status.UNIMPLEMENTED
        assert await operator.active()
