"""Tokens that count no longer: by token, client, subject and key, on all servers, until nothing could live any more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from tests.unit.tokens.forging import claims_of

from vestibule.errors import VestibuleError
from vestibule.store.barrier import Change
from vestibule.store.codes import STORE_UNREACHABLE
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import MemoryTokens, client, spiffe_id
from vestibule.tokens import codes, revoked
from vestibule.tokens.codes import word_of
from vestibule.tokens.ports import Minted, RevokedBy, Verb
from vestibule.tokens.service import TokenService
from vestibule.tokens.types import ACCESS_TOKEN

CORP = "https://login.corp.example"
WEB, ORDERS = (str(spiffe_id(each)) for each in ("web", "orders"))


async def own(lab: MemoryTokens) -> Minted:
    return await lab.service.mint(client("web"), audiences=["orders"])


async def of_user(lab: MemoryTokens, user: str = "U") -> Minted:
    now = int(lab.clock.now().timestamp())
    login = lab.issuers[CORP].token({"sub": user, "aud": "shop-web", "iat": now, "exp": now + 3600})
    return await lab.service.admit(client("web"), assertion=login, audiences=["orders"])


async def passed_on(lab: MemoryTokens, minted: Minted) -> Minted:
    return await lab.service.exchange(
        client("orders"), subject_token=minted.text, subject_type=ACCESS_TOKEN, audiences=["reports"]
    )


async def is_active(lab: MemoryTokens, minted: Minted, server: TokenService | None = None) -> bool:
    by = minted.audience[0]
    return bool((await (server or lab.service).inspect(client(by), minted.text))["active"])


def values(server: TokenService) -> set[str]:
    return {each.value for each in server.revoked.now}


async def test_a_client_gives_up_its_token(lab: MemoryTokens) -> None:
    first, second = await own(lab), await own(lab)
    given_up = await lab.service.revoke(client("web"), first.text)
    assert given_up is not None
    assert (given_up.by, given_up.value) == (RevokedBy.TOKEN, first.token_id)
    assert not await is_active(lab, first)
    assert await is_active(lab, second)
    assert await lab.service.revoke(client("web"), first.text) is None  # as if it were unknown (RFC 7009)


async def test_nobody_gives_up_the_token_of_another(lab: MemoryTokens) -> None:
    minted = await own(lab)
    with pytest.raises(VestibuleError) as caught:
        await lab.service.revoke(client("orders"), minted.text)
    assert caught.value.code is codes.ANOTHERS_TOKEN
    assert word_of(caught.value) == "unauthorized_client"
    assert await is_active(lab, minted)


async def test_with_a_token_goes_what_was_got_for_it(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    second = await passed_on(lab, first)
    await lab.service.revoke(client("web"), first.text)
    assert not await is_active(lab, second)


async def test_one_link_of_a_chain_can_be_taken_without_what_it_was_got_for(lab: MemoryTokens) -> None:
    first = await of_user(lab)
    second = await passed_on(lab, first)
    await lab.service.revoke_by(RevokedBy.TOKEN, second.token_id)
    assert not await is_active(lab, second)
    assert await is_active(lab, first)


async def test_by_client_goes_all_that_it_had_and_all_in_which_it_acts(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    its_own, acted = await own(lab), await passed_on(lab, await of_user(lab))
    lab.access.allow("billing", Verb.MINT, "orders")
    others = await lab.service.mint(client("billing"), audiences=["orders"])
    await lab.service.revoke_by(RevokedBy.CLIENT, WEB, "compromised")
    assert not await is_active(lab, its_own)
    assert not await is_active(lab, acted)
    assert await is_active(lab, others)
    clock.advance(2)
    assert await is_active(lab, await own(lab))  # what it gets from now on counts


async def test_a_client_is_named_in_any_spelling_of_its_spiffe_id(lab: MemoryTokens) -> None:
    minted = await own(lab)
    await lab.service.revoke_by(RevokedBy.CLIENT, WEB.replace("spiffe://example.org", "SPIFFE://Example.ORG"))
    assert not await is_active(lab, minted)


async def test_by_subject_goes_whatever_is_done_for_it(lab: MemoryTokens) -> None:
    first, other = await of_user(lab, "U"), await of_user(lab, "V")
    second = await passed_on(lab, first)
    await lab.service.revoke_by(RevokedBy.SUBJECT, "U", "left the company")
    assert [await is_active(lab, each) for each in (first, second, other)] == [False, False, True]


@pytest.mark.parametrize("by", [(RevokedBy.SUBJECT, "U"), (RevokedBy.CLIENT, WEB)])
async def test_nothing_that_is_got_in_exchange_outruns_a_revocation_that_is_on_its_way(
    lab: MemoryTokens, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, by: tuple[RevokedBy, str]
) -> None:
    first, got = await of_user(lab), list[Minted]()
    clock.advance(5.95)
    kept = lab.barrier.apply

    async def slowly(changes: Sequence[Change]) -> tuple[int, ...]:
        clock.advance(0.1)  # into another second
        got.append(await passed_on(lab, first))
        return await kept(changes)

    monkeypatch.setattr(lab.barrier, "apply", slowly)
    await lab.service.revoke_by(*by)
    assert not await is_active(lab, got[0])


async def test_a_token_made_in_the_second_of_the_revocation_waits_for_the_second_after(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    clock.advance(0.3)
    before = await own(lab)
    clock.advance(0.2)
    await lab.service.revoke_by(RevokedBy.CLIENT, WEB)
    waiting = asyncio.ensure_future(own(lab))
    await clock.until_asleep()
    clock.advance(1.5)
    after = await waiting
    assert claims_of(after.text)["iat"] == claims_of(before.text)["iat"] + 2
    assert not await is_active(lab, before)
    assert await is_active(lab, after)


@pytest.mark.parametrize(
    ("by", "value"),
    [
        (RevokedBy.TOKEN, ""),
        (RevokedBy.SUBJECT, "U\n"),
        (RevokedBy.SUBJECT, "x" * 2049),
        (RevokedBy.CLIENT, "web"),
        (RevokedBy.CLIENT, "https://example.org/web"),
    ],
)
async def test_what_is_to_be_revoked_has_a_form(lab: MemoryTokens, by: RevokedBy, value: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        await lab.service.revoke_by(by, value)
    assert caught.value.code is codes.REVOCATION_MALFORMED


async def test_the_list_forgets_what_could_not_live_any_more(lab: MemoryTokens, clock: FakeClock) -> None:
    minted = await own(lab)
    await lab.service.revoke(client("web"), minted.text)
    clock.advance(timedelta(minutes=15))
    await lab.service._sweep()
    assert values(lab.service) == {minted.token_id}
    clock.advance(timedelta(minutes=1))
    seen = lab.service.revoked.revision
    assert await lab.service._sweep() == 1
    assert values(lab.service) == set()
    assert await lab.service.revoked.changed(seen) > seen
    assert await lab.barrier.keys(revoked.SPACE) == []


async def test_after_the_list_was_emptied_new_entries_are_followed(
    lab: MemoryTokens, clock: FakeClock
) -> None:
    other = lab.another()
    await other.start()
    await lab.service.revoke_by(RevokedBy.SUBJECT, "U")
    clock.advance(timedelta(minutes=20))
    await lab.service._sweep()
    await lab.service.revoke_by(RevokedBy.SUBJECT, "V")
    await other.start()
    assert [each.value for each in other.revoked.now] == ["V"]


async def test_another_server_and_one_that_starts_later_know_the_list(lab: MemoryTokens) -> None:
    minted = await own(lab)
    other = lab.another()
    await other.start()
    await lab.service.revoke(client("web"), minted.text)
    await other.start()
    late = lab.another()
    await late.start()
    for each in (other, late):
        assert each.revoked.now == lab.service.revoked.now
        assert not await is_active(lab, minted, each)


async def test_servers_that_revoke_at_once_lose_nothing(lab: MemoryTokens) -> None:
    servers = [lab.service, lab.another(), lab.another()]
    for each in servers[1:]:
        await each.start()
    await asyncio.gather(
        *(each.revoke_by(RevokedBy.SUBJECT, f"{n}-{i}") for n, each in enumerate(servers) for i in range(5))
    )
    for each in servers:
        await each.start()
        assert len(each.revoked.now) == 15


async def test_an_older_copy_of_the_database_is_read_from_its_beginning(lab: MemoryTokens) -> None:
    await lab.service.revoke_by(RevokedBy.SUBJECT, "U")
    kept = {space: dict(rows) for space, rows in lab.barrier._kept.items()}
    other = lab.another()
    await other.start()
    for name in "VWX":
        await other.revoke_by(RevokedBy.SUBJECT, name)
    lab.barrier._kept = kept  # restored
    await lab.service.revoke_by(RevokedBy.SUBJECT, "Y")
    await other.start()
    assert {"U", "Y"} <= {each.value for each in other.revoked.now}


async def test_what_cannot_be_kept_is_not_said_to_be_revoked(
    lab: MemoryTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise STORE_UNREACHABLE.error("the database is away")

    monkeypatch.setattr(lab.barrier, "apply", gone)
    with pytest.raises(VestibuleError) as caught:
        await lab.service.revoke_by(RevokedBy.CLIENT, WEB)
    assert word_of(caught.value) == "temporarily_unavailable"


async def test_a_client_that_gives_up_token_after_token_gives_up_all(
    lab: MemoryTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "MOST_OF_CLIENT", 3)
    tokens = [await own(lab) for _ in range(5)]
    entries = [await lab.service.revoke(client("web"), each.text) for each in tokens[:4]]
    assert [each.by.value for each in entries if each is not None] == ["token", "token", "token", "client"]
    assert not await is_active(lab, tokens[4])


async def test_when_the_list_is_full_of_tokens_operators_still_revoke(
    lab: MemoryTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "MOST_TOKENS", 2)
    monkeypatch.setattr(revoked, "MOST", 4)
    for number in range(2):
        await lab.service.revoke_by(RevokedBy.TOKEN, f"t{number}")
    with pytest.raises(VestibuleError) as caught:
        await lab.service.revoke(client("web"), (await own(lab)).text)
    assert caught.value.code is codes.TOO_MANY_REVOKED
    assert word_of(caught.value) == "temporarily_unavailable"
    for user in "UV":
        await lab.service.revoke_by(RevokedBy.SUBJECT, user)
    with pytest.raises(VestibuleError):
        await lab.service.revoke_by(RevokedBy.SUBJECT, "W")


async def test_what_the_database_holds_in_clear_names_nobody(lab: MemoryTokens) -> None:
    await lab.service.revoke_by(RevokedBy.SUBJECT, "u@corp.example")
    assert await lab.barrier.keys(revoked.SPACE) == ["0000000000000001"]
