"""Agents join, renew, are banned and evicted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.identity.world import DOMAIN, World, entry, spiffe

from vestibule.audit import DeferringAudit
from vestibule.errors import VestibuleError
from vestibule.identity.nodes import Attested, Nodes
from vestibule.identity.refusals import PER_WINDOW, WINDOW
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId
from vestibule.store import AgentFilter
from vestibule.store.codes import STORE_FULL

TTL = timedelta(minutes=10)


async def no_challenge(_data: bytes) -> bytes:
    raise AssertionError("a join token has no challenge")


async def attest(world: World, token: str, csr: bytes | None = None) -> Attested:
    csr = make_csr(generate_key()) if csr is None else csr
    return await world.nodes.attest("join_token", token.encode(), csr, no_challenge, "192.0.2.1:5")


async def joined(world: World, token: str = "") -> Attested:
    made = await world.nodes.create_join_token("test", TTL, token)
    return await attest(world, made.token)


async def refused(world: World, token: str, csr: bytes | None = None) -> str:
    with pytest.raises(VestibuleError) as caught:
        await attest(world, token, csr)
    return caught.value.code.code


async def test_a_join_token_makes_an_agent(world: World) -> None:
    attested = await joined(world, "abc")
    assert attested.svid.spiffe_id == spiffe("/spire/agent/join_token/abc")
    agent = await world.nodes.get(attested.svid.spiffe_id)
    assert (agent.serial, agent.attestation_type) == (attested.svid.serial, "join_token")
    assert not attested.can_reattest


async def test_a_join_token_works_once(world: World) -> None:
    await joined(world, "abc")
    assert await refused(world, "abc") == "VST8021"
    assert await refused(world, "abd") == "VST8020"


async def test_of_many_agents_with_one_token_one_joins(world: World) -> None:
    await world.nodes.create_join_token("test", TTL, "abc")
    outcomes = await asyncio.gather(*(attest(world, "abc") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(each, Attested) for each in outcomes) == 1
    errors = {each.code.code for each in outcomes if isinstance(each, VestibuleError)}
    assert errors == {"VST8021"}


async def test_a_join_token_expires(world: World) -> None:
    await world.nodes.create_join_token("test", TTL, "abc")
    world.clock.advance(TTL + timedelta(seconds=1))
    assert await refused(world, "abc") == "VST8022"


async def test_a_bad_csr_does_not_use_the_token_up(world: World) -> None:
    await world.nodes.create_join_token("test", TTL, "abc")
    assert await refused(world, "abc", b"nonsense") == "VST1000"
    assert (await attest(world, "abc")).svid.serial


async def test_a_csr_for_another_identity_is_refused(world: World) -> None:
    await world.nodes.create_join_token("test", TTL, "abc")
    assert await refused(world, "abc", make_csr(generate_key(), spiffe("/spire/agent/other"))) == "VST1200"


@pytest.mark.parametrize("token", ["a/b", "..", "a b", "x" * 256, "ü"])
async def test_a_token_that_cannot_be_part_of_an_id_is_refused_without_being_shown(
    world: World, token: str
) -> None:
    with pytest.raises(VestibuleError) as caught:
        await attest(world, token)
    assert caught.value.code.code == "VST2000"
    assert token not in str(caught.value) or token == ".."


async def test_an_unknown_kind_of_evidence_is_refused(world: World) -> None:
    with pytest.raises(VestibuleError, match="VST2001"):
        await world.nodes.attest("tpm", b"x", make_csr(generate_key()), no_challenge, "192.0.2.1:5")


async def test_of_very_many_refusals_only_their_number_is_on_record(world: World) -> None:
    for _ in range(PER_WINDOW + 10):
        await refused(world, "abc")
    assert world.audit.actions().count("agent.attest") == PER_WINDOW
    world.clock.advance(WINDOW)
    await refused(world, "abc")
    assert world.audit.events[-1].details["refusals_left_out"] == 10
    await refused(world, "abc")
    assert "refusals_left_out" not in world.audit.events[-1].details


async def test_refusals_are_on_record_and_tokens_never(world: World) -> None:
    await refused(world, "SECRET")
    await world.nodes.create_join_token("test", TTL, "SECRET2")
    assert [event.outcome for event in world.audit.events[-2:]] == ["VST8020", "ok"]
    assert world.audit.events[-2].actor == "anonymous:192.0.2.1:5"
    assert "SECRET" not in str(world.audit.events)


async def test_nobody_joins_without_a_record(world: World) -> None:
    await world.nodes.create_join_token("test", TTL, "abc")
    world.audit.broken = True
    assert await refused(world, "abc") == "VST8100"
    assert await world.store.agents.get(spiffe("/spire/agent/join_token/abc")) is None


async def test_a_token_may_give_its_node_a_further_id(world: World) -> None:
    alias = spiffe("/nodes/a")
    made = await world.nodes.create_join_token("test", TTL, alias=alias)
    # Until the agent has joined, nothing in the store gives the token away.
    assert await world.store.entries.all() == []
    agent = (await attest(world, made.token)).svid.spiffe_id
    await world.create(entry("/web", alias))
    assert world.entitlements.is_entitled(agent, spiffe("/web"))
    await world.nodes.evict("test", agent)
    assert not world.entitlements.is_entitled(agent, spiffe("/web"))


async def test_the_old_certificate_counts_until_the_new_one_is_used(world: World) -> None:
    old = (await joined(world)).svid
    agent = old.spiffe_id
    new = await world.nodes.renew(agent, make_csr(generate_key()))
    await world.nodes.check(agent, old.serial, old.not_after)
    await world.nodes.check(agent, new.serial, new.not_after)
    await world.nodes.check(agent, new.serial, new.not_after)
    with pytest.raises(VestibuleError, match="VST1212"):
        await world.nodes.check(agent, old.serial, old.not_after)


async def test_a_renewal_whose_answer_was_lost_locks_nobody_out(world: World) -> None:
    old = (await joined(world)).svid
    await world.nodes.renew(old.spiffe_id, make_csr(generate_key()))
    again = await world.nodes.renew(old.spiffe_id, make_csr(generate_key()))
    await world.nodes.check(old.spiffe_id, old.serial, old.not_after)
    await world.nodes.check(old.spiffe_id, again.serial, again.not_after)


async def test_concurrent_calls_do_not_undo_a_renewal(world: World) -> None:
    old = (await joined(world)).svid
    agent = old.spiffe_id
    for _ in range(5):
        new = await world.nodes.renew(agent, make_csr(generate_key()))
        await asyncio.gather(
            *(world.nodes.check(agent, new.serial, new.not_after) for _ in range(4)),
            world.nodes.post_status(agent, "1.0"),
            newest := asyncio.ensure_future(world.nodes.renew(agent, make_csr(generate_key()))),
        )
        issued = newest.result()
        await world.nodes.check(agent, issued.serial, issued.not_after)


async def test_an_expired_certificate_does_not_count(world: World) -> None:
    svid = (await joined(world)).svid
    world.clock.set(svid.not_after + timedelta(seconds=1))
    with pytest.raises(VestibuleError, match="VST1213"):
        await world.nodes.check(svid.spiffe_id, svid.serial, svid.not_after)


async def test_a_banned_agent_is_out_and_stays_out(world: World) -> None:
    svid = (await joined(world)).svid
    seen = world.nodes.departures.value
    await world.nodes.ban("test", svid.spiffe_id)
    assert world.nodes.departures.value != seen
    with pytest.raises(VestibuleError, match="VST1211"):
        await world.nodes.check(svid.spiffe_id, svid.serial, svid.not_after)
    with pytest.raises(VestibuleError, match="VST1211"):
        await world.nodes.renew(svid.spiffe_id, make_csr(generate_key()))
    with pytest.raises(VestibuleError, match="VST1211"):
        await world.nodes.post_status(svid.spiffe_id, "2")


async def test_an_evicted_agent_is_unknown(world: World) -> None:
    svid = (await joined(world)).svid
    await world.nodes.evict("test", svid.spiffe_id)
    with pytest.raises(VestibuleError, match="VST1210"):
        await world.nodes.check(svid.spiffe_id, svid.serial, svid.not_after)
    with pytest.raises(VestibuleError, match="VST1208"):
        await world.nodes.evict("test", svid.spiffe_id)


@pytest.mark.parametrize("path", ["/web", "/spire/server"])
async def test_only_agents_are_banned_or_evicted(world: World, path: str) -> None:
    for act in (world.nodes.ban, world.nodes.evict):
        with pytest.raises(VestibuleError, match="VST1205"):
            await act("test", spiffe(path))
    with pytest.raises(VestibuleError, match="VST1204"):
        await world.nodes.ban("test", SpiffeId.parse("spiffe://evil.org/spire/agent/x"))


@pytest.mark.parametrize("ttl", [0, -1, 10**9])
async def test_a_token_needs_a_sensible_lifetime(world: World, ttl: int) -> None:
    with pytest.raises(VestibuleError, match="VST1209"):
        await world.nodes.create_join_token("test", timedelta(seconds=ttl))


async def test_old_tokens_are_forgotten(world: World) -> None:
    await world.nodes.create_join_token("test", TTL, "abc")
    pruning = asyncio.create_task(world.nodes.run())
    await world.clock.until_asleep()
    world.clock.advance(timedelta(days=2))
    async with asyncio.timeout(60):
        while await refused(world, "abc") != "VST8020":
            await asyncio.sleep(0)
    pruning.cancel()


async def test_a_ban_holds_although_the_audit_log_is_full_and_is_on_record_before_all_else(
    world: World,
) -> None:
    agent = (await joined(world)).svid
    audit = DeferringAudit(world.audit, world.clock)
    nodes = Nodes(world.store, world.issuance, world.registration, (), audit, world.clock, DOMAIN, audit)
    world.audit.broken = True
    await nodes.ban("operator", agent.spiffe_id)
    with pytest.raises(VestibuleError, match="VST1211"):
        await nodes.check(agent.spiffe_id, agent.serial, agent.not_after)
    with pytest.raises(VestibuleError, match="VST8100"):
        await nodes.evict("operator", agent.spiffe_id)
    world.audit.broken = False
    await nodes.evict("operator", agent.spiffe_id)
    ban, evict = world.audit.events[-2:]
    assert (ban.action, evict.action) == ("agent.ban", "agent.evict")
    assert ban.details["deferred_from"] == world.clock.now().isoformat()


async def test_a_ban_that_the_store_cannot_keep_holds_until_the_next_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = (await joined(world)).svid

    async def full(_spiffe_id: SpiffeId, banned: bool = True) -> bool:
        raise STORE_FULL.error("no room")

    monkeypatch.setattr(world.store.agents, "set_banned", full)
    with pytest.raises(VestibuleError, match="VST1223"):
        await world.nodes.ban("operator", agent.spiffe_id)
    with pytest.raises(VestibuleError, match="VST1211"):
        await world.nodes.check(agent.spiffe_id, agent.serial, agent.not_after)
    monkeypatch.undo()
    await world.nodes.ban("operator", agent.spiffe_id)
    assert (await world.nodes.get(agent.spiffe_id)).banned


async def test_agents_that_are_gone_for_long_are_forgotten_where_the_operator_wants_that(
    world: World,
) -> None:
    gone, banned, reattests = [(await joined(world)).svid.spiffe_id for _ in range(3)]
    await world.nodes.ban("test", banned)
    await world.store.agents.put(replace(await world.nodes.get(reattests), can_reattest=True))
    world.nodes.prune_expired_for = timedelta(hours=2)
    pruning = asyncio.create_task(world.nodes.run())
    await world.clock.until_asleep()
    world.clock.advance(timedelta(hours=4))
    async with asyncio.timeout(60):
        while await world.store.agents.get(reattests) is not None:
            await asyncio.sleep(0.01)
    assert await world.store.agents.get(gone) is not None, "it could not come back without a token"
    await world.clock.until_asleep()
    world.nodes.prune_tofu = True
    world.clock.advance(timedelta(hours=4))
    async with asyncio.timeout(60):
        while await world.store.agents.get(gone) is not None:
            await asyncio.sleep(0.01)
    assert await world.store.agents.get(banned) is not None, "a ban is not lifted by time"
    pruning.cancel()
    assert [(each.actor, each.action) for each in world.audit.events[-2:]] == [("server", "agent.evict")] * 2


async def test_an_agent_with_a_newer_svid_that_it_has_not_used_yet_is_not_gone(world: World) -> None:
    agent = (await joined(world)).svid
    world.clock.advance(timedelta(minutes=50))
    await world.nodes.renew(agent.spiffe_id, make_csr(generate_key()))
    world.clock.advance(timedelta(minutes=20))
    over = AgentFilter(expires_before=world.clock.now())
    assert (await world.nodes.page(over, 0, "")).items == ()


async def test_who_stands_is_read_once_for_all_and_anew_after_a_ban(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = [(await joined(world)).svid.spiffe_id for _ in range(2)]
    readings = 0
    banned = world.store.agents.banned

    async def counted() -> dict[SpiffeId, bool]:
        nonlocal readings
        readings += 1
        return await banned()

    monkeypatch.setattr(world.store.agents, "banned", counted)
    for each in (one, other, one):
        await world.nodes.check_still_standing(each)
    assert readings == 1
    await world.nodes.ban("test", one)
    with pytest.raises(VestibuleError, match="VST1211"):
        await world.nodes.check_still_standing(one)
    await world.nodes.check_still_standing(other)
    await world.nodes.evict("test", other)
    with pytest.raises(VestibuleError, match="VST1210"):
        await world.nodes.check_still_standing(other)
    late = (await joined(world)).svid.spiffe_id
    await world.nodes.check_still_standing(late)


async def test_a_ban_by_another_server_is_seen_once_the_reading_is_old(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = (await joined(world)).svid.spiffe_id
    await world.nodes.check_still_standing(agent)
    await world.store.agents.set_banned(agent)
    monkeypatch.setattr("vestibule.identity.nodes.STANDING_SECONDS", -1.0)
    with pytest.raises(VestibuleError, match="VST1211"):
        await world.nodes.check_still_standing(agent)
