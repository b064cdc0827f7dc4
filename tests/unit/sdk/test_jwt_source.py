"""Tokens from a Workload API whose every word is scripted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.workload_api import Endpoint, in_background

from vestibule.agent.codes import NO_IDENTITY
from vestibule.errors import VestibuleError
from vestibule.pki.codes import JWT_NOT_FOR_US, JWT_NOT_TRUSTED, JWT_NOT_VALID_NOW, NOT_A_JWT_SVID, REVOKED
from vestibule.sdk import JwtSource, SpiffeId
from vestibule.sdk.codes import NO_BUNDLE, NO_SVID
from vestibule.spiffe import Revocation, RevokedIdentity
from vestibule.testing import FakeClock, TestAuthority

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
AUTHORITY = TestAuthority("example.org")
PARTNER = TestAuthority("partner.example")


@pytest.fixture
async def endpoint(short_dir: Path) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(short_dir / "a.sock", AUTHORITY, revocations=True)
    endpoint.api.trust_tokens()
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime.now(UTC))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_token_per_audience_is_asked_for_and_kept(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        first = await source.fetch("payments")
        assert first.spiffe_id == ORDERS
        assert first.audience == ("payments",)
        assert await source.fetch("payments") == first
        other = await source.fetch("reports", "payments")
        assert set(other.audience) == {"reports", "payments"}
        assert await source.fetch("payments", "reports") == other
    assert endpoint.api.jwt_audiences == [["payments"], ["payments", "reports"]]


async def test_many_that_ask_at_once_are_one_question(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        tokens = await asyncio.gather(*(source.fetch("payments") for _ in range(20)))
    assert len({each.token for each in tokens}) == 1
    assert endpoint.api.jwt_audiences == [["payments"]]


async def test_who_stops_waiting_takes_nothing_from_the_others(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        impatient = asyncio.create_task(source.fetch("payments"))
        waiting = asyncio.create_task(source.fetch("payments"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert (await waiting).spiffe_id == ORDERS


async def test_another_one_comes_in_the_background_before_the_end(
    endpoint: Endpoint, clock: FakeClock
) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address, clock=clock) as source:
        first = await source.fetch("payments")
        clock.advance(timedelta(minutes=3))  # of five
        assert await source.fetch("payments") == first
        await until(lambda: len(endpoint.api.jwt_audiences) == 2 and not source._flights)
        await source.fetch("payments")
        assert len(endpoint.api.jwt_audiences) == 2


async def test_a_token_that_is_about_to_end_is_not_given_out(endpoint: Endpoint, clock: FakeClock) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address, clock=clock) as source:
        await source.fetch("payments")
        clock.advance(timedelta(minutes=4, seconds=55))
        await source.fetch("payments")
        assert len(endpoint.api.jwt_audiences) == 2


async def test_a_token_stays_good_while_the_agent_is_away(endpoint: Endpoint, clock: FakeClock) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address, clock=clock, patience=5) as source:
        first = await source.fetch("payments")
        await endpoint.stop()
        clock.advance(timedelta(minutes=3))
        assert await source.fetch("payments") == first
        await until(lambda: not source._flights)
        assert await source.fetch("payments") == first
        clock.advance(timedelta(minutes=3))
        with pytest.raises(VestibuleError):
            await source.fetch("payments")


async def test_what_the_agent_refuses_is_raised_and_not_kept(endpoint: Endpoint) -> None:
    endpoint.api.jwt_error = NO_IDENTITY.error("nobody")
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        with pytest.raises(VestibuleError) as raised:
            await source.fetch("payments")
        assert raised.value.code is NO_IDENTITY
        endpoint.api.jwt_error = None
        assert (await source.fetch("payments")).spiffe_id == ORDERS


async def test_one_of_several_identities_can_be_asked_for(endpoint: Endpoint) -> None:
    other = "spiffe://example.org/reports"
    async with asyncio.timeout(60), JwtSource(endpoint.address, spiffe_id=other) as source:
        assert str((await source.fetch("payments")).spiffe_id) == other


async def test_a_lost_identity_takes_the_tokens_with_it(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        await source.fetch("payments")
        endpoint.api.say_jwt(NO_IDENTITY.error("nobody"))
        endpoint.api.jwt_error = NO_IDENTITY.error("nobody")
        await until(lambda: source.problem is not None)
        with pytest.raises(VestibuleError) as raised:
            source.bundles  # noqa: B018
        assert raised.value.code is NO_SVID
        with pytest.raises(VestibuleError) as raised:
            await source.fetch("payments")
        assert raised.value.code is NO_IDENTITY


async def test_an_own_token_that_is_revoked_is_not_given_out(endpoint: Endpoint) -> None:
    assert endpoint.revocations is not None
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        first = await source.fetch("payments")
        endpoint.revocations.revoke(
            Revocation(target=RevokedIdentity(spiffe_id=ORDERS), at=datetime.now(UTC))
        )
        await until(lambda: source.revocations)
        await source.fetch("payments")
        assert len(endpoint.api.jwt_audiences) == 2
        with pytest.raises(VestibuleError) as raised:
            source.validate(first.token, "payments")
        assert raised.value.code is REVOKED


# -------------------------------------------------------------------------------------------- those of others


async def test_tokens_are_verified_without_a_call(endpoint: Endpoint, clock: FakeClock) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address, clock=clock) as source:
        token = AUTHORITY.jwt_svid("/billing", "orders").token
        assert source.validate(token, "orders").spiffe_id.path == "/billing"
        assert source.validate(token, "others", "orders").spiffe_id.path == "/billing"
        for wrong, audience, code in [
            (token, "others", JWT_NOT_FOR_US),
            (TestAuthority("example.org").jwt_svid("/billing", "orders").token, "orders", JWT_NOT_TRUSTED),
            (PARTNER.jwt_svid("/billing", "orders").token, "orders", JWT_NOT_TRUSTED),
            ("a.b.c", "orders", NOT_A_JWT_SVID),
        ]:
            with pytest.raises(VestibuleError) as raised:
                source.validate(wrong, audience)
            assert raised.value.code is code
        clock.advance(timedelta(hours=1))
        with pytest.raises(VestibuleError) as raised:
            source.validate(token, "orders")
        assert raised.value.code is JWT_NOT_VALID_NOW


async def test_keys_that_are_added_are_followed(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        token = PARTNER.jwt_svid("/billing", "orders").token
        with pytest.raises(VestibuleError) as raised:
            source.bundle("partner.example")
        assert raised.value.code is NO_BUNDLE
        version = source.version
        endpoint.api.trust_tokens(PARTNER.jwt_bundle)
        await until(lambda: source.version > version)
        assert source.validate(token, "orders").spiffe_id.path == "/billing"
        assert source.bundle("partner.example").jwt_authorities


async def test_a_source_that_was_not_entered_or_was_left_says_so(endpoint: Endpoint) -> None:
    source = JwtSource(endpoint.address)
    for _ in range(2):
        with pytest.raises(VestibuleError) as raised:
            await source.fetch("payments")
        assert raised.value.code is NO_SVID
        with pytest.raises(VestibuleError) as raised:
            source.validate("a.b.c", "orders")
        assert raised.value.code is NO_SVID
        async with asyncio.timeout(60), source:
            await source.fetch("payments")
    assert not [each for each in asyncio.all_tasks() if "source" in each.get_name()]


async def test_leaving_does_not_wait_for_an_agent_that_says_nothing(short_dir: Path) -> None:
    endpoint = Endpoint(short_dir / "b.sock", AUTHORITY)
    endpoint.api.trust_tokens()
    await endpoint.start()
    asked = asyncio.Event()

    async def silent(stream: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    try:
        async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
            # After it was entered, nothing is answered any more.
            await endpoint.stop()
            endpoint.api.fetch_jwt_svid = silent  # type: ignore[method-assign]
            await endpoint.start()
            waiting = asyncio.create_task(source.fetch("payments"))
            await asked.wait()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        await endpoint.stop()


# -------------------------------------------------------------------------------------------- threads


def test_a_program_without_asyncio_has_tokens_too(short_dir: Path) -> None:
    with in_background(short_dir / "a.sock", AUTHORITY) as api:
        api.do(lambda api: api.trust_tokens())
        with JwtSource(api.address) as source:
            token = source.fetch_blocking("payments")
            assert source.validate(token.token, "payments").spiffe_id == ORDERS
            seen: list[str] = []
            asking = [
                threading.Thread(target=lambda: seen.append(source.fetch_blocking("payments").token))
                for _ in range(4)
            ]
            for each in asking:
                each.start()
            for each in asking:
                each.join(60)
            assert seen == [token.token] * 4
            # And an event loop of the program's own.
            assert asyncio.run(source.fetch("payments")) == token


async def test_blocking_in_the_event_loop_that_follows_is_an_error(endpoint: Endpoint) -> None:
    async with asyncio.timeout(60), JwtSource(endpoint.address) as source:
        with pytest.raises(RuntimeError, match="await fetch"):
            source.fetch_blocking("payments")
