"""Entering sources from threads, and what becomes of them in forks and after their loops."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.workload_api import Background, in_background

from vestibule.agent.codes import NO_IDENTITY
from vestibule.errors import VestibuleError
from vestibule.sdk import SpiffeId, X509Source
from vestibule.sdk.codes import NO_SVID, SOURCE_FORKED, SOURCE_LOOP_CLOSED
from vestibule.sdk.following import FollowedRevocations
from vestibule.testing import TestAuthority

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
AUTHORITY = TestAuthority("example.org")


@pytest.fixture
def api(short_dir: Path) -> Iterator[Background]:
    with in_background(short_dir / "a.sock", AUTHORITY) as background:
        background.do(lambda api: api.issue("/orders"))
        yield background


def threads() -> set[str]:
    return {each.name for each in threading.enumerate()}


def test_a_program_without_asyncio_enters_a_source_too(api: Background) -> None:
    with X509Source(api.address) as source:
        assert source.svid.spiffe_id == ORDERS
        assert source.bundle("example.org").x509_authorities == AUTHORITY.bundle.x509_authorities
        assert "svid-source" in threads()
    assert "svid-source" not in threads()
    with pytest.raises(VestibuleError) as raised:
        source.svid  # noqa: B018
    assert raised.value.code is NO_SVID


def test_rotations_are_seen_from_every_thread(api: Background) -> None:
    with X509Source(api.address) as source:
        seen: list[int] = []

        def wait() -> None:
            version, serial = source.version, source.svid.serial
            ready.release()
            while source.svid.serial == serial:
                version = source.wait(version, timeout=60)
            seen.append(source.svid.serial)

        ready = threading.Semaphore(0)
        waiting = [threading.Thread(target=wait) for _ in range(3)]
        for each in waiting:
            each.start()
        for _ in waiting:
            assert ready.acquire(timeout=60)
        (issued,) = api.do(lambda api: api.issue("/orders"))
        for each in waiting:
            each.join(60)
        assert seen == [issued.serial] * 3


def test_waiting_for_what_does_not_come_ends(api: Background) -> None:
    with X509Source(api.address) as source:
        version = source.version
        assert source.wait(version, timeout=0.01) == version
        assert source.wait(version - 1) == version


def test_changes_of_a_background_source_are_followed_in_any_event_loop(api: Background) -> None:
    async def follow(source: X509Source) -> int:
        async with asyncio.timeout(60):
            before = source.svid.serial
            changes = source.changes()
            await anext(changes)
            await asyncio.to_thread(api.do, lambda api: api.issue("/orders"))
            async for context in changes:
                if context.svids[0].serial != before:
                    return context.svids[0].serial
        raise AssertionError("the source ended")

    with X509Source(api.address) as source:
        for _ in range(2):
            assert asyncio.run(follow(source)) == source.svid.serial


def test_an_agent_that_restarts_is_found_again_in_the_background(api: Background) -> None:
    with X509Source(api.address) as source:
        version = source.version
        api.run(api.endpoint.stop())
        api.do(lambda api: api.issue("/orders"))
        api.run(api.endpoint.start())
        assert source.wait(version, timeout=60) > version


def test_a_source_that_cannot_be_entered_leaves_no_thread(api: Background, short_dir: Path) -> None:
    api.do(lambda api: api.say(NO_IDENTITY.error("nobody")))
    for address in (api.address, f"unix://{short_dir}/nobody.sock"):
        with pytest.raises(VestibuleError) as raised, X509Source(address, patience=0.2):
            raise AssertionError("entered")
        assert raised.value.code is NO_SVID
    assert "svid-source" not in threads()


def test_a_background_source_is_entered_once_at_a_time_and_again_later(api: Background) -> None:
    source = X509Source(api.address)
    for _ in range(2):
        with source:
            assert source.svid.spiffe_id == ORDERS
            with pytest.raises(RuntimeError):
                source.__enter__()


def test_it_is_entered_again_though_what_is_revoked_is_waited_for(
    api: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time on an event loop of its own."""
    run = FollowedRevocations.run

    async def late(self: FollowedRevocations) -> None:
        await asyncio.sleep(0.2)
        await run(self)

    monkeypatch.setattr(FollowedRevocations, "run", late)
    source = X509Source(api.address)
    for _ in range(2):
        with source:
            assert source.svid.spiffe_id == ORDERS


def test_what_ends_in_the_block_is_not_hidden(api: Background) -> None:
    with pytest.raises(ZeroDivisionError), X509Source(api.address) as source:
        raise ZeroDivisionError(source.svid.spiffe_id)


# -------------------------------------------------------------------------------------------- forks


def in_child(what: object) -> str:
    """What a function says in a child of this process."""
    assert callable(what)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer Pythons warn of forks beside threads, which are what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(120)
        # Nothing of the test's own may run here: no cleanup, no report.
        try:
            said = what()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
            said = f"{type(error).__name__}: {error}"
        os.write(writing, str(said).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said_there:
        text = said_there.read().decode()
    os.waitpid(child, 0)
    return text


def test_a_child_is_told_to_enter_a_source_of_its_own(api: Background) -> None:
    with X509Source(api.address) as source:

        def use() -> str:
            try:
                return str(source.svid)
            except VestibuleError as error:
                return error.code.code

        assert in_child(use) == SOURCE_FORKED.code
        assert source.svid.spiffe_id == ORDERS, "nothing is taken from the parent"


def test_a_child_may_leave_and_enter_the_source_that_it_inherited(api: Background) -> None:
    with X509Source(api.address) as source:

        def enter() -> str:
            source.__exit__(None, None, None)
            with source:
                gc.collect()
                return str(source.svid.spiffe_id)

        assert in_child(enter) == str(ORDERS)
        version = source.version
        api.do(lambda api: api.issue("/orders"))
        assert source.wait(version, timeout=60) > version, "the parent's goes on to follow"


def test_a_source_that_was_not_entered_before_the_fork_is_as_any_other(api: Background) -> None:
    source = X509Source(api.address)

    def enter() -> str:
        with source:
            return str(source.svid.spiffe_id)

    assert in_child(enter) == str(ORDERS)


# -------------------------------------------------------------------------------------------- loops


def test_a_source_whose_loop_was_closed_says_so_and_can_be_entered_again(api: Background) -> None:
    source = X509Source(api.address)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(source.__aenter__())
    for each in asyncio.all_tasks(loop):
        each.cancel()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    with pytest.raises(VestibuleError) as raised:
        source.context  # noqa: B018
    assert raised.value.code is SOURCE_LOOP_CLOSED
    with source:
        assert source.svid.spiffe_id == ORDERS


def test_connections_of_a_background_source_are_looked_after_by_its_thread(api: Background) -> None:
    from tests.unit.sdk.test_connections import Told, settled

    told = Told()
    with X509Source(api.address) as source:
        watch = source.connections.watch(settled(timedelta(hours=1)), retire=told.retire, cut=told.end)
        api.do(lambda api: api.issue("/another"))
        deadline = threading.Event()
        for _ in range(6000):
            if told.cut:
                break
            deadline.wait(0.01)
        assert watch.over
    assert told.threads == {"svid-source"}
