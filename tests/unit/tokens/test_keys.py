"""Signing keys: published before they sign and after, changed by one server, followed by all, and an emergency."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from tests.unit.tokens.forging import header_of

from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.errors import VestibuleError
from vestibule.store.barrier import Item
from vestibule.store.codes import STORE_UNREACHABLE
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import MemoryTokens, client
from vestibule.tokens import codes
from vestibule.tokens.codes import word_of
from vestibule.tokens.jwts import SKEW
from vestibule.tokens.keyring import KeyState, KeyTimes
from vestibule.tokens.keys import LONGEST_UNSEEN, ROW, SPACE
from vestibule.tokens.permission import LONGEST_LIFE
from vestibule.tokens.ports import Minted, RevokedBy
from vestibule.tokens.service import TEND_EVERY, TokenService

DAY = timedelta(hours=24)
STEP = timedelta(minutes=5)


async def token(lab: MemoryTokens, server: TokenService | None = None) -> Minted:
    return await (server or lab.service).mint(client("web"), audiences=["orders"])


async def is_active(lab: MemoryTokens, minted: Minted, server: TokenService | None = None) -> bool:
    told = await (server or lab.service).inspect(client("orders"), minted.text)
    return bool(told["active"])


def kid(minted: Minted) -> str:
    return str(header_of(minted.text)["kid"])


def states(server: TokenService) -> dict[str, KeyState]:
    listed = server.keys()
    return {each.key_id: each.state for each in listed}


def published(server: TokenService) -> set[str]:
    return {each["kid"] for each in json.loads(server.key_source.now)["keys"]}


def named(server: TokenService, state: KeyState) -> str:
    return next(key_id for key_id, there in states(server).items() if there is state)


async def tended(clock: FakeClock, *servers: TokenService, by: timedelta) -> None:
    """Time goes by, and each server does what it does now and then."""
    end = clock.now() + by
    while clock.now() < end:
        clock.set(min(clock.now() + STEP, end))
        for each in servers:
            await each.start()


# ------------------------------------------------------------------------------------------------------- plan


async def test_from_the_start_one_key_signs_and_the_next_one_is_known(lab: MemoryTokens) -> None:
    assert sorted(each.value for each in states(lab.service).values()) == ["current", "next"]
    assert published(lab.service) == set(states(lab.service))


async def test_a_key_signs_for_a_day_and_the_next_one_is_known_long_before(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    first, following = named(lab.service, KeyState.CURRENT), named(lab.service, KeyState.NEXT)
    await tended(clock, lab.service, by=DAY - STEP)
    assert kid(await token(lab)) == first
    await tended(clock, lab.service, by=STEP)
    assert kid(await token(lab)) == following
    assert states(lab.service)[first] is KeyState.FORMER
    assert len(published(lab.service)) == 3


async def test_no_token_outlives_its_key_in_the_published_set(lab: MemoryTokens, clock: FakeClock) -> None:
    await tended(clock, lab.service, by=DAY - STEP)
    last = await token(lab)
    while clock.now() < last.expires + timedelta(seconds=30):
        await tended(clock, lab.service, by=STEP)
        assert kid(last) in published(lab.service)
    await tended(clock, lab.service, by=timedelta(hours=2))
    assert kid(last) not in published(lab.service)


async def test_a_verifier_that_looks_every_quarter_of_an_hour_always_knows_the_key(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    cached = published(lab.service)
    for round_ in range(4 * 24 * 3):
        await tended(clock, lab.service, by=timedelta(minutes=15))
        assert kid(await token(lab)) in cached, round_
        cached = published(lab.service)


async def test_who_waits_for_keys_hears_of_each_change(lab: MemoryTokens, clock: FakeClock) -> None:
    source = lab.service.key_source
    waiting = asyncio.ensure_future(source.changed(source.revision))
    await asyncio.sleep(0)
    await tended(clock, lab.service, by=DAY)
    assert await asyncio.wait_for(waiting, 60) == source.revision


async def test_rotated_by_hand_the_next_key_signs_as_soon_as_it_is_known(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    following = named(lab.service, KeyState.NEXT)
    await lab.service.rotate()  # nobody has had time to learn of it
    assert kid(await token(lab)) != following
    await tended(clock, lab.service, by=timedelta(minutes=15))
    assert kid(await token(lab)) == following

    clock.advance(timedelta(hours=1))
    following = named(lab.service, KeyState.NEXT)
    await lab.service.rotate()
    assert kid(await token(lab)) == following


async def test_a_clock_set_back_changes_no_key(lab: MemoryTokens, clock: FakeClock) -> None:
    before = states(lab.service)
    clock.advance(-timedelta(days=2))
    await lab.service.start()
    assert states(lab.service) == before


# -------------------------------------------------------------------------------------------------- emergency


async def test_a_compromised_key_is_gone_at_once_and_minting_goes_on(lab: MemoryTokens) -> None:
    """The drill: revoke the key that signs; verifiers know the next one already."""
    stolen = await token(lab)
    known = published(lab.service)
    revoked = await lab.service.revoke_key(kid(stolen), "leaked")

    assert not await is_active(lab, stolen)
    fresh = await token(lab)
    assert kid(fresh) in known
    assert await is_active(lab, fresh)
    assert kid(stolen) not in published(lab.service)
    assert (revoked.by, revoked.value, revoked.reason) == (RevokedBy.KEY, kid(stolen), "leaked")
    assert lab.service.revoked.now == (revoked,)
    assert named(lab.service, KeyState.NEXT) != kid(fresh)


async def test_when_all_keys_are_compromised_all_can_be_revoked(lab: MemoryTokens) -> None:
    old = published(lab.service)
    for each in old:
        await lab.service.revoke_key(each)
    assert not old & published(lab.service)
    assert await is_active(lab, await token(lab))
    assert {each.value for each in lab.service.revoked.now} == old


async def test_revoking_by_key_in_the_list_is_the_same_drill(lab: MemoryTokens) -> None:
    stolen = await token(lab)
    await lab.service.revoke_by(RevokedBy.KEY, kid(stolen))
    assert kid(stolen) not in published(lab.service)


async def test_a_key_that_is_none_of_ours_cannot_be_revoked(lab: MemoryTokens) -> None:
    with pytest.raises(VestibuleError) as caught:
        await lab.service.revoke_key("x" * 200)
    assert caught.value.code is codes.UNKNOWN_SIGNING_KEY
    assert lab.service.revoked.now == ()


async def test_a_full_list_keeps_no_key_from_being_revoked(
    lab: MemoryTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.tokens.revoked.MOST", 0)
    await lab.service.revoke_key(named(lab.service, KeyState.CURRENT))


# ---------------------------------------------------------------------------------------------- several servers


@asynccontextmanager
async def running(*servers: TokenService) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        tasks_ = [tasks.create_task(each.run()) for each in servers]
        await asyncio.sleep(0)
        try:
            yield
        finally:
            for each in tasks_:
                each.cancel()


async def settled(condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0)


async def test_servers_that_begin_together_have_the_same_keys(clock: FakeClock) -> None:
    lab = MemoryTokens(clock)
    servers = [lab.another() for _ in range(4)]
    await asyncio.gather(*(each.start() for each in servers))
    for each in servers:
        await each.start()
    assert len({frozenset(states(each).items()) for each in servers}) == 1


async def test_a_server_that_does_not_lead_waits_for_the_one_that_does(clock: FakeClock) -> None:
    lab = MemoryTokens(clock)
    lab.leads = False
    await lab.service.start()
    assert lab.service.keys() == ()
    assert lab.service.key_source.now == ""
    lab.leads = True
    await lab.another().start()
    lab.leads = False
    await lab.service.start()
    assert len(lab.service.keys()) == 2


async def test_others_hear_of_a_revoked_key_and_a_revoked_token_without_waiting(
    lab: MemoryTokens,
) -> None:
    other = lab.another()
    await other.start()
    async with running(lab.service, other):
        stolen, bad = await token(lab), await token(lab, other)
        await lab.service.revoke_by(RevokedBy.TOKEN, bad.token_id)
        await settled(lambda: len(other.revoked.now) == 1)
        assert not await is_active(lab, bad, other)
        await lab.service.revoke_key(kid(stolen))
        await settled(lambda: kid(stolen) not in published(other))
        assert not await is_active(lab, stolen, other)
        assert kid(await token(lab, other)) == kid(await token(lab))


async def test_a_token_of_a_key_that_another_server_just_made_is_read(lab: MemoryTokens) -> None:
    other = lab.another()
    await other.start()
    for each in published(lab.service):
        await lab.service.revoke_key(each)
    assert await is_active(lab, await token(lab), other)  # which has not looked since


async def test_two_servers_that_revoke_keys_at_once_both_succeed(lab: MemoryTokens) -> None:
    other = lab.another()
    await other.start()
    one, two = sorted(published(lab.service))
    await asyncio.gather(lab.service.revoke_key(one), other.revoke_key(two))
    await lab.service.start()
    await other.start()
    assert published(lab.service) == published(other)
    assert not {one, two} & published(other)
    assert {each.value for each in other.revoked.now} == {one, two}


# ------------------------------------------------------------------------------------------ sealed, database gone


async def test_sealed_a_server_holds_no_keys_but_goes_on_publishing_and_reading(lab: MemoryTokens) -> None:
    minted, before = await token(lab), published(lab.service)
    lab.barrier.is_sealed = True
    await lab.service.start()
    assert lab.service._keys._seen == (0, ())
    assert published(lab.service) == before == set(states(lab.service))
    assert await is_active(lab, minted)
    assert lab.service.trouble
    lab.barrier.is_sealed = False
    await lab.service.start()
    assert kid(await token(lab)) == kid(minted)
    assert lab.service.trouble == ""


async def test_a_server_that_starts_sealed_has_tokens_once_it_is_unsealed(clock: FakeClock) -> None:
    lab = MemoryTokens(clock)
    lab.barrier.is_sealed = True
    await lab.service.start()
    async with running(lab.service):
        lab.barrier.is_sealed = False
        await clock.until_asleep(2)
        clock.advance(TEND_EVERY)
        await settled(lambda: lab.service.key_source.now)


async def test_the_database_may_be_gone_for_an_hour(
    lab: MemoryTokens, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise STORE_UNREACHABLE.error("the database is away")

    with monkeypatch.context() as away:
        away.setattr(lab.barrier, "get", gone)
        away.setattr(lab.barrier, "apply", gone)
        await tended(clock, lab.service, by=timedelta(minutes=60))
        assert await is_active(lab, await token(lab))
        assert "VST8006" in lab.service.trouble
        await tended(clock, lab.service, by=STEP)
        with pytest.raises(VestibuleError) as caught:
            await token(lab)
        assert caught.value.code is codes.NO_SIGNING_KEY
        assert word_of(caught.value) == "temporarily_unavailable"
    await lab.service.start()
    assert await is_active(lab, await token(lab))


async def test_what_a_server_signs_without_the_database_is_still_verified_elsewhere(
    lab: MemoryTokens, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off just before a rotation, it signs with the old key for as long as it may."""
    other = lab.another()
    await other.start()
    await tended(clock, lab.service, other, by=DAY - STEP)
    with monkeypatch.context() as away:
        away.setattr(other._keys, "look", _gone)  # the other one is cut off
        await tended(clock, lab.service, by=timedelta(minutes=55))
        late = await token(lab, other)
    assert kid(late) != kid(await token(lab))
    while clock.now() < late.expires:
        assert await is_active(lab, late)
        await tended(clock, lab.service, by=timedelta(minutes=1))


async def _gone() -> None:
    raise STORE_UNREACHABLE.error("the database is away")


# ---------------------------------------------------------------------------------------------------- on record


async def test_keys_change_on_record_and_not_without(lab: MemoryTokens, clock: FakeClock) -> None:
    assert [each.action for each in lab.audit.events] == ["token.key.plan"]
    await lab.service.revoke_key(named(lab.service, KeyState.CURRENT))
    assert lab.audit.events[-1].action == "token.key.revoke"
    assert lab.audit.events[-1].details["changed"]

    async def full(events: Sequence[AuditEvent]) -> None:
        raise AUDIT_UNAVAILABLE.error("no room")

    careful = MemoryTokens(clock)
    careful.audit.record = full  # type: ignore[method-assign]
    await careful.another().start()
    assert await careful.barrier.get(SPACE, ROW) is None


async def test_what_is_kept_is_not_shown(lab: MemoryTokens) -> None:
    item = await lab.barrier.get(SPACE, ROW)
    assert item is not None
    private = [each["private"] for each in json.loads(item.value)]
    shown = repr((lab.service.keys(), lab.audit.events, lab.service.key_source.now))
    assert not any(each in shown for each in private)
    assert "private" not in lab.service.key_source.now


def test_times_fit_together() -> None:
    """A former key stays as long as any server may sign with it, plus the life of what it signed."""
    assert KeyTimes().retention >= LONGEST_UNSEEN + LONGEST_LIFE + 2 * SKEW


async def test_a_key_that_is_revoked_while_keys_are_read_does_not_come_back(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = MemoryTokens(clock)
    await lab.service.start()
    bad, read = lab.service.keys()[0].key_id, lab.barrier.get

    async def late(space: str, key: str) -> Item | None:
        item = await read(space, key)
        if (space, key) == (SPACE, ROW):
            monkeypatch.setattr(lab.barrier, "get", read)
            await lab.service.revoke_key(bad)
        return item

    monkeypatch.setattr(lab.barrier, "get", late)
    await lab.service._keys.look()
    assert all(each.key_id != bad for each in [*lab.service.keys()])
    assert bad not in lab.service.key_source.now
