"""The source against a Workload API whose every word is scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.workload_api import Endpoint

from vestibule.agent.codes import NO_IDENTITY, NOT_READY
from vestibule.doors.codes import NO_SECURITY_HEADER
from vestibule.errors import ErrorCode, VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.sdk import SpiffeId, TrustDomain, X509Context, X509Source, fetch_x509_context
from vestibule.sdk.codes import NO_BUNDLE, NO_SVID
from vestibule.sdk.source import first_svid
from vestibule.testing import FakeClock, TestAuthority
from vestibule.wire.gen.spiffe import workload_pb2 as wire

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
AUTHORITY = TestAuthority("example.org")
DEADLINE = 60.0


@pytest.fixture
async def endpoint(short_dir: Path) -> AsyncIterator[Endpoint]:
    endpoint = Endpoint(short_dir / "a.sock", AUTHORITY)
    await endpoint.start()
    yield endpoint
    await endpoint.stop()


@asynccontextmanager
async def deadline() -> AsyncIterator[None]:
    async with asyncio.timeout(DEADLINE):
        yield


async def until_serial_changes(source: X509Source, serial: int) -> int:
    """The next serial number that the source shows."""
    async with deadline():
        async for context in source.changes():
            if context.svids[0].serial != serial:
                return context.svids[0].serial
    raise AssertionError("the source ended")


async def until_withdrawn(source: X509Source) -> VestibuleError:
    async with deadline():
        while True:
            try:
                source.context  # noqa: B018
            except VestibuleError as error:
                return error
            await asyncio.sleep(0.01)


def refused(code: ErrorCode) -> VestibuleError:
    return code.error("no, said the script")


async def test_entering_waits_for_the_first_svid(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        assert source.svid.spiffe_id == ORDERS
        assert source.bundle("example.org") == replace(AUTHORITY.bundle, sequence=0)
        assert source.bundle(TrustDomain.parse("example.org")) == source.bundle("spiffe://example.org")
        assert source.problem is None


async def test_an_svid_that_comes_later_is_waited_for(endpoint: Endpoint) -> None:
    async def later() -> None:
        while not endpoint.api.calls:
            await asyncio.sleep(0.01)
        endpoint.api.issue("/orders")

    async with deadline(), asyncio.TaskGroup() as tasks:
        tasks.create_task(later())
        async with X509Source(endpoint.address) as source:
            assert source.svid.spiffe_id == ORDERS


async def test_the_address_may_come_from_the_environment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIFFE_ENDPOINT_SOCKET", endpoint.address)
    endpoint.api.issue("/orders")
    async with deadline(), X509Source() as source:
        assert source.svid.spiffe_id == ORDERS
    assert (await fetch_x509_context()).svids[0].spiffe_id == ORDERS


async def test_rotations_are_followed_on_the_open_stream(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        for _ in range(3):
            serial, version = source.svid.serial, source.version
            endpoint.api.issue("/orders")
            assert await until_serial_changes(source, serial) == source.svid.serial
            assert source.version == version + 1
    assert endpoint.api.calls == 1


async def test_the_same_again_is_no_change(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        serial, version = source.svid.serial, source.version
        said = endpoint.api.said
        assert isinstance(said, wire.X509SVIDResponse)
        endpoint.api.say(said)
        endpoint.api.issue("/orders")
        await until_serial_changes(source, serial)
        assert source.version == version + 1


async def test_an_agent_that_restarts_is_found_again(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        serial = source.svid.serial
        await endpoint.stop()
        assert source.svid.serial == serial, "what is held stays good"
        endpoint.api.issue("/orders")
        await endpoint.start()
        await until_serial_changes(source, serial)
        assert source.problem is None


async def test_a_lost_identity_is_not_shown_any_more_and_a_new_one_is(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        endpoint.api.say(refused(NO_IDENTITY))
        error = await until_withdrawn(source)
        assert error.code is NO_SVID
        assert "no, said the script" in error.message
        assert source.problem is not None
        assert source.problem.code is NO_IDENTITY
        endpoint.api.issue("/orders")
        assert await until_serial_changes(source, 0) == source.svid.serial


async def test_an_agent_that_is_not_ready_takes_nothing_away(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        endpoint.api.say(refused(NOT_READY))
        while source.problem is None:
            await asyncio.sleep(0.01)
        assert source.svid.spiffe_id == ORDERS


async def test_an_answer_that_breaks_the_standard_takes_nothing_away(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        endpoint.api.say(wire.X509SVIDResponse())
        while source.problem is None:
            await asyncio.sleep(0.01)
        assert source.svid.spiffe_id == ORDERS


async def test_an_expired_svid_is_not_shown(endpoint: Endpoint) -> None:
    clock = FakeClock(datetime.now(UTC))
    endpoint.api.issue("/orders", ttl=timedelta(minutes=5))
    async with deadline(), X509Source(endpoint.address, clock=clock) as source:
        assert source.svid.spiffe_id == ORDERS
        clock.advance(timedelta(minutes=6))
        with pytest.raises(VestibuleError, match="expired") as raised:
            source.svid  # noqa: B018
        assert raised.value.code is NO_SVID


async def test_one_of_several_svids_can_be_picked(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders", "/reports")
    async with deadline(), X509Source(endpoint.address) as source:
        assert source.svid.spiffe_id == ORDERS
        assert first_svid(source.context.svids) == source.svid
    async with deadline(), X509Source(endpoint.address, pick=lambda svids: svids[-1]) as source:
        assert source.svid.spiffe_id.path == "/reports"


async def test_a_trust_domain_without_a_bundle_is_an_error_of_its_own(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        with pytest.raises(VestibuleError) as raised:
            source.bundle("example.com")
    assert raised.value.code is NO_BUNDLE


async def test_no_answer_within_patience_names_the_reason(short_dir: Path) -> None:
    with pytest.raises(VestibuleError) as raised:
        async with deadline(), X509Source(f"unix://{short_dir}/nobody.sock", patience=0.2):
            raise AssertionError("entered")
    assert raised.value.code is NO_SVID
    assert "nobody.sock" in raised.value.message or "No such file" in raised.value.message


async def test_no_identity_within_patience_keeps_the_agents_advice(endpoint: Endpoint) -> None:
    endpoint.api.say(refused(NO_IDENTITY))
    with pytest.raises(VestibuleError, match="no, said the script") as raised:
        async with deadline(), X509Source(endpoint.address, patience=0.3):
            raise AssertionError("entered")
    assert raised.value.advice == NO_IDENTITY.advice


async def test_what_no_waiting_would_mend_is_told_at_once(endpoint: Endpoint) -> None:
    endpoint.api.say(refused(NO_SECURITY_HEADER))
    with pytest.raises(VestibuleError) as raised:
        async with deadline(), X509Source(endpoint.address, patience=600):
            raise AssertionError("entered")
    assert raised.value.code is NO_SECURITY_HEADER


async def test_a_server_that_is_no_workload_api_is_told_at_once(short_dir: Path) -> None:
    listener = listen_unix(short_dir / "x.sock", PUBLIC)
    server = GrpcServer([])
    await server.listen(listener.sock)
    try:
        with pytest.raises(VestibuleError, match="UNIMPLEMENTED"):
            async with deadline(), X509Source(f"unix://{short_dir}/x.sock", patience=600):
                raise AssertionError("entered")
    finally:
        await server.close()
        listener.close()


async def test_leaving_ends_everything(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    seen: list[X509Context] = []
    reading = asyncio.Event()

    async def read(source: X509Source) -> None:
        async for context in source.changes():
            seen.append(context)
            reading.set()

    async with deadline(), asyncio.TaskGroup() as tasks, X509Source(endpoint.address) as source:
        tasks.create_task(read(source))
        await reading.wait()
    assert len(seen) == 1
    with pytest.raises(VestibuleError):
        source.svid  # noqa: B018
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "svid-source-x509"]


async def test_a_source_can_be_entered_again_but_not_twice_at_once(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    source = X509Source(endpoint.address)
    for _ in range(2):
        async with deadline(), source:
            assert source.svid.spiffe_id == ORDERS
            with pytest.raises(RuntimeError):
                await source.__aenter__()


async def test_a_slow_reader_sees_the_newest(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    async with deadline(), X509Source(endpoint.address) as source:
        changes = source.changes()
        first = await anext(changes)
        for _ in range(3):
            serial = source.svid.serial
            endpoint.api.issue("/orders")
            await until_serial_changes(source, serial)
        assert (await anext(changes)).svids[0].serial == source.svid.serial
        assert first.svids[0].serial != source.svid.serial


async def test_a_fetch_is_one_question_and_one_answer(endpoint: Endpoint) -> None:
    endpoint.api.issue("/orders")
    context = await fetch_x509_context(endpoint.address)
    assert [svid.spiffe_id for svid in context.svids] == [ORDERS]
    context.verify(datetime.now(UTC))


async def test_a_fetch_raises_what_the_agent_says(endpoint: Endpoint) -> None:
    endpoint.api.say(refused(NO_IDENTITY))
    with pytest.raises(VestibuleError) as raised:
        await fetch_x509_context(endpoint.address)
    assert raised.value.code is NO_IDENTITY


async def test_a_fetch_does_not_wait_for_ever(endpoint: Endpoint) -> None:
    with pytest.raises(VestibuleError) as raised:
        await fetch_x509_context(endpoint.address, timeout=0.1)
    assert raised.value.code is UNREACHABLE
