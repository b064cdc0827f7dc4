"""What no sequence of requests can do: gain a scope or time, hide who acted, go in circles, outlive a revocation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from tests.unit.tokens.forging import claims_of, with_parts

from vestibule.errors import VestibuleError
from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import MemoryTokens, TableTokenAccess, client, spiffe_id
from vestibule.tokens import codes
from vestibule.tokens.chain import actors_of
from vestibule.tokens.keyring import KeyState, KeyTimes, Ring, found, hurried, planned, without
from vestibule.tokens.permission import LONGEST_LIFE
from vestibule.tokens.ports import Asked, Minted, RevokedBy, TokenDecision
from vestibule.tokens.types import ACCESS_TOKEN

SERVICES = ("a", "b", "c", "d", "e")
SCOPES = ("r", "w", "x")
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class _Everything(TableTokenAccess):
    """Whatever is asked: what holds then holds without any rules."""

    lasts = timedelta(minutes=10)
    depth = 4

    def decide(self, asked: Asked) -> TokenDecision:
        return TokenDecision(allowed=True, lasts=self.lasts, depth=self.depth)


def _lab(clock: FakeClock) -> MemoryTokens:
    lab = MemoryTokens(clock)
    lab.access = _Everything()
    lab.service = lab.another()
    return lab


def _now(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


steps = st.lists(
    st.tuples(
        st.sampled_from(SERVICES),
        st.sets(st.sampled_from(SCOPES)),
        st.integers(0, 400),
        st.integers(1, 6),
        st.integers(1, 1200),
    ),
    max_size=8,
)


@settings(PATIENT, max_examples=150)
@given(first=st.sampled_from(SERVICES), scopes=st.sets(st.sampled_from(SCOPES)), hops=steps)
def test_exchange_never_widens_lengthens_forgets_or_goes_in_circles(
    first: str, scopes: set[str], hops: list[tuple[str, set[str], int, int, int]]
) -> None:
    async def play() -> None:
        clock = FakeClock()
        lab = _lab(clock)
        access = lab.access
        assert isinstance(access, _Everything)
        await lab.service.start()
        held = await lab.service.mint(client(first), audiences=["x"], scopes=sorted(scopes))
        for service, wanted, seconds, depth, lasts in hops:
            clock.advance(seconds)
            access.depth, access.lasts = depth, timedelta(seconds=lasts)
            got = await _tried(lab, service, held, sorted(wanted))
            if got is not None:
                _check_narrower(held, got, service, depth)
                held = got

    _now(play())


async def _tried(lab: MemoryTokens, service: str, held: Minted, scopes: list[str]) -> Minted | None:
    """The exchange, or None where it is refused: and then for a reason."""
    before = claims_of(held.text)
    actors = actors_of(before)
    name = str(spiffe_id(service))
    try:
        return await lab.service.exchange(
            client(service),
            subject_token=held.text,
            subject_type=ACCESS_TOKEN,
            audiences=["x"],
            scopes=scopes,
        )
    except VestibuleError as error:
        refusal = error
    access = lab.access
    assert isinstance(access, _Everything)
    reasons = {
        codes.SCOPE_WIDENED: not set(scopes) <= set(before.get("scope", "").split()),
        codes.CHAIN_LOOPS: name in actors or name == before["sub"],
        codes.CHAIN_TOO_LONG: len(actors) >= access.depth,
        codes.NOT_VALID_NOW: lab.clock.now().timestamp() >= before["exp"],
    }
    assert reasons[refusal.code]
    return None


def _check_narrower(held: Minted, got: Minted, service: str, depth: int) -> None:
    before, after = claims_of(held.text), claims_of(got.text)
    assert set(after.get("scope", "").split()) <= set(before.get("scope", "").split())
    assert after["iat"] < after["exp"] <= before["exp"]
    assert after["exp"] - after["iat"] <= LONGEST_LIFE.total_seconds()
    assert (after["sub"], after["txn"]) == (before["sub"], before["txn"])
    chain = actors_of(after)
    assert chain == (str(spiffe_id(service)), *actors_of(before))
    assert len(set(chain)) == len(chain) <= depth
    assert after["sub"] not in chain
    assert after["client_id"] == chain[0]
    assert after["jti"] != before["jti"]


@settings(PATIENT, max_examples=60)
@given(
    services=st.permutations(SERVICES).map(lambda each: each[:4]),
    at=st.integers(0, 3),
    by=st.sampled_from([RevokedBy.CLIENT, RevokedBy.SUBJECT, RevokedBy.TOKEN]),
)
def test_nothing_in_a_chain_survives_what_it_rests_on(services: list[str], at: int, by: RevokedBy) -> None:
    async def play() -> None:
        lab = _lab(FakeClock())
        await lab.service.start()
        tokens = [await lab.service.mint(client(services[0]), audiences=["x"])]
        for each in services[1:]:
            got = await _tried(lab, each, tokens[-1], [])
            assert got is not None
            tokens.append(got)
        value = {
            RevokedBy.CLIENT: str(spiffe_id(services[at])),
            RevokedBy.SUBJECT: str(spiffe_id(services[0])),
            RevokedBy.TOKEN: tokens[0].token_id,
        }[by]
        await lab.service.revoke_by(by, value)
        active = [await _is_active(lab, each) for each in tokens]
        first_gone = at if by is RevokedBy.CLIENT else 0
        assert active == [number < first_gone for number in range(len(tokens))]

    _now(play())


async def _is_active(lab: MemoryTokens, minted: Minted) -> bool:
    owner = client(claims_of(minted.text)["client_id"].rpartition("/")[2])
    return bool((await lab.service.inspect(owner, minted.text))["active"])


LAB = _lab(FakeClock())
asyncio.run(LAB.service.start())
TOKEN = asyncio.run(LAB.service.mint(client("a"), audiences=["x"], scopes=["r"])).text

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.sampled_from(
    ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "txn", "client_id", "scope", "act", "cnf"]
)


@settings(PATIENT, max_examples=150)
@given(claims=st.dictionaries(names, json_values, min_size=1, max_size=4), header=st.booleans())
def test_a_changed_token_is_never_believed_and_never_an_accident(
    claims: dict[str, Any], header: bool
) -> None:
    changed = with_parts(TOKEN, header=claims) if header else with_parts(TOKEN, claims=claims)
    if changed != TOKEN:
        assert asyncio.run(LAB.service.inspect(client("a"), changed)) == {"active": False}


@settings(PATIENT, max_examples=150)
@given(text=st.text(max_size=200) | st.from_regex(r"[\w-]{0,60}\.[\w-]{0,60}\.[\w-]{0,60}"))
def test_no_text_at_all_is_an_accident(text: str) -> None:
    assert asyncio.run(LAB.service.inspect(client("a"), text)) == {"active": False}


@settings(PATIENT, max_examples=150)
@given(position=st.integers(0, len(TOKEN) - 1), letter=st.sampled_from("AZaz09-_.=+/ \n"))
def test_no_other_letter_anywhere_leaves_a_token_that_counts(position: int, letter: str) -> None:
    changed = TOKEN[:position] + letter + TOKEN[position + 1 :]
    if changed != TOKEN:
        assert asyncio.run(LAB.service.inspect(client("a"), changed)) == {"active": False}


actions = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(1, 60 * 60 * 30)),
        st.tuples(st.just("rotate"), st.just(0)),
        st.tuples(st.just("revoke"), st.integers(0, 5)),
    ),
    max_size=25,
)


@settings(PATIENT, max_examples=100)
@given(actions=actions)
def test_there_is_always_one_key_that_signs_and_one_that_is_known_to_come(
    actions: list[tuple[str, int]],
) -> None:
    clock, times = FakeClock(), KeyTimes()
    ring: Ring = planned((), clock.now(), times)
    for action, number in actions:
        now = clock.now()
        if action == "wait":
            clock.advance(number)
            now = clock.now()
            after = planned(ring, now, times)
            _check_signer_was_known(ring, after, times)
        elif action == "rotate":
            after = planned(hurried(ring, now, times), now, times)
            _check_signer_was_known(ring, after, times)
        else:
            gone = ring[number % len(ring)].key_id
            after = planned(without(ring, gone), now, times)
            assert gone not in {each.key_id for each in after}
        assert [each.state for each in after].count(KeyState.CURRENT) == 1
        assert [each.state for each in after].count(KeyState.NEXT) == 1
        assert planned(after, now, times) == after
        ring = after


def _check_signer_was_known(before: Ring, after: Ring, times: KeyTimes) -> None:
    """Outside of an emergency, no key signs that was not published for long enough, and none that signed goes early."""
    was, now = found(before, KeyState.CURRENT), found(after, KeyState.CURRENT)
    assert was is not None
    assert now is not None
    if was.key_id != now.key_id:
        assert now.begins is not None
        assert now.begins >= now.published + times.publication
        former = next(each for each in after if each.key_id == was.key_id)
        assert former.ended == now.begins
