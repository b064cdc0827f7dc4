"""Tokens that the agent hands out, in time that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from vestibule.agent import jwt_svids
from vestibule.agent.cache import Holdings, SvidCache
from vestibule.agent.jwt_svids import JwtSvids
from vestibule.agent.vault import from_document, to_document
from vestibule.errors import VestibuleError
from vestibule.identity.codes import ENTRY_NOT_AUTHORIZED, JWT_SVIDS_DISABLED
from vestibule.net.codes import UNREACHABLE
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.testing import FakeClock, TestAuthority

TD = TrustDomain.parse("example.org")
MINUTE = timedelta(minutes=1)


def entry(name: str = "web", **more: Any) -> Entry:
    plain = Entry(
        id=name,
        spiffe_id=SpiffeId.of(TD, f"/{name}"),
        parent_id=SpiffeId.of(TD, "/spire/agent/x"),
        selectors=frozenset({Selector("test", "a")}),
    )
    return replace(plain, **more)


class Bench:
    """An agent's tokens, and the server that signs them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.authority = TestAuthority(TD, now=self.clock.now())
        self.cache = SvidCache()
        self.cache.become(Holdings(bundle=self.authority.jwt_bundle))
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.refuses: VestibuleError | None = None
        self.signs_for: SpiffeId | None = None
        self.signer = self.authority
        self.refreshed = 0
        self.held = asyncio.Event()
        self.held.set()
        self.svids = JwtSvids(self.cache, self, self.clock, self._refresh)

    def _refresh(self) -> None:
        self.refreshed += 1
        self.cache.become(Holdings(bundle=self.signer.jwt_bundle))

    async def new_jwt_svid(self, entry_id: str, audience: Sequence[str]) -> str:
        self.asked.append((entry_id, tuple(audience)))
        await self.held.wait()
        if self.refuses is not None:
            raise self.refuses
        spiffe_id = self.signs_for or SpiffeId.of(TD, f"/{entry_id}")
        return self.signer.jwt_svid(spiffe_id, *audience, ttl=10 * MINUTE, now=self.clock.now()).token


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_token_is_asked_for_once_until_its_half_life(bench: Bench) -> None:
    first = await bench.svids.fetch(entry(), ["db"])
    bench.clock.advance(5 * MINUTE - timedelta(seconds=1))
    assert (await bench.svids.fetch(entry(), ["db"])).token == first.token
    bench.clock.advance(1)
    assert (await bench.svids.fetch(entry(), ["db"])).token != first.token
    assert len(bench.asked) == 2


async def test_a_token_with_an_id_of_its_own_is_handed_out_once(bench: Bench) -> None:
    once = entry(jwt_svid_include_jti=True, hint="h")
    first, second = await bench.svids.fetch(once, ["db"]), await bench.svids.fetch(once, ["db"])
    assert first.token != second.token
    assert second.hint == "h"
    assert len(bench.svids) == 0
    bench.refuses = UNREACHABLE.error("away")
    with pytest.raises(VestibuleError, match="VST2110"):
        await bench.svids.fetch(once, ["db"])


async def test_the_order_of_audiences_does_not_matter_but_they_do(bench: Bench) -> None:
    first = await bench.svids.fetch(entry(), ["a", "b"])
    assert (await bench.svids.fetch(entry(), ["b", "a", "b"])).token == first.token
    assert (await bench.svids.fetch(entry(), ["a"])).audience == ("a",)
    assert [audience for _, audience in bench.asked] == [("a", "b"), ("a",)]


async def test_identities_and_lifetimes_are_apart_and_hints_are_the_entrys_of_now(bench: Bench) -> None:
    first = await bench.svids.fetch(entry(), ["db"])
    assert (await bench.svids.fetch(entry("other"), ["db"])).spiffe_id == SpiffeId.of(TD, "/other")
    hinted = await bench.svids.fetch(entry(hint="new"), ["db"])
    assert (hinted.token, hinted.hint) == (first.token, "new")
    await bench.svids.fetch(entry(jwt_svid_ttl=MINUTE), ["db"])
    assert len(bench.asked) == 3


async def test_many_who_ask_at_once_are_one_question(bench: Bench) -> None:
    bench.held.clear()
    asking = [asyncio.create_task(bench.svids.fetch(entry(), ["db"])) for _ in range(20)]
    await asyncio.sleep(0)
    bench.held.set()
    assert len({(await each).token for each in asking}) == 1
    assert len(bench.asked) == 1


async def test_while_the_server_is_away_a_token_is_served_until_it_expires(bench: Bench) -> None:
    first = await bench.svids.fetch(entry(), ["db"])
    bench.refuses = UNREACHABLE.error("away")
    bench.clock.advance(10 * MINUTE - timedelta(seconds=1))
    assert (await bench.svids.fetch(entry(), ["db"])).token == first.token
    bench.clock.advance(1)
    with pytest.raises(VestibuleError, match="VST2110"):
        await bench.svids.fetch(entry(), ["db"])


async def test_a_token_whose_key_left_the_bundle_is_not_served(bench: Bench) -> None:
    await bench.svids.fetch(entry(), ["db"])
    bench.refuses = UNREACHABLE.error("away")
    bench.cache.become(Holdings(bundle=TestAuthority(TD, now=bench.clock.now()).jwt_bundle))
    with pytest.raises(VestibuleError, match="VST2110"):
        await bench.svids.fetch(entry(), ["db"])


async def test_a_key_that_the_agent_was_not_told_of_yet_is_fetched(bench: Bench) -> None:
    bench.signer = TestAuthority(TD, now=bench.clock.now())
    await bench.svids.fetch(entry(), ["db"])
    assert bench.refreshed == 1


async def test_a_token_of_an_unknown_key_is_not_passed_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwt_svids, "BUNDLE_PATIENCE", 0.01)
    svids = JwtSvids(bench.cache, bench, bench.clock, lambda: None)
    bench.signer = TestAuthority(TD, now=bench.clock.now())
    with pytest.raises(VestibuleError, match="VST2109"):
        await svids.fetch(entry(), ["db"])


async def test_a_token_of_another_identity_is_not_passed_on(bench: Bench) -> None:
    bench.signs_for = SpiffeId.of(TD, "/admin")
    with pytest.raises(VestibuleError, match="VST2109"):
        await bench.svids.fetch(entry(), ["db"])


async def test_what_the_server_says_for_good_is_passed_on_and_the_rest_is_temporary(bench: Bench) -> None:
    for error, code in (
        (JWT_SVIDS_DISABLED.error("disabled"), "VST1303"),
        (ENTRY_NOT_AUTHORIZED.error("deleted a moment ago"), "VST2110"),
    ):
        bench.refuses = error
        with pytest.raises(VestibuleError, match=code):
            await bench.svids.fetch(entry(), ["db"])


async def test_no_token_for_no_audience(bench: Bench) -> None:
    with pytest.raises(VestibuleError, match="VST1016"):
        await bench.svids.fetch(entry(), [])
    assert bench.asked == []


async def test_tokens_are_not_remembered_without_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt_svids, "MAX_TOKENS", 2)
    for audience in ("a", "b", "a", "c", "a", "b"):
        await bench.svids.fetch(entry(), [audience])
    assert [audience for _, (audience,) in bench.asked] == ["a", "b", "c", "b"]


def test_the_sealed_holdings_have_the_jwt_keys() -> None:
    bundle = TestAuthority(TD).jwt_bundle
    [key] = bundle.jwt_authorities
    bundle = replace(bundle, jwt_authorities=(replace(key, expires_at=FakeClock().now()), key))
    holdings = Holdings(bundle=bundle)
    assert from_document(to_document(holdings)).bundle == bundle


def test_holdings_of_an_agent_from_before_are_read() -> None:
    document = to_document(Holdings(bundle=TestAuthority(TD).jwt_bundle))
    del document["bundle"]["jwt_authorities"]
    bundle = from_document(document).bundle
    assert bundle is not None
    assert bundle.jwt_authorities == ()
