"""The change feed."""

from __future__ import annotations

import asyncio
import gc

import pytest

from vestibule.store import Change, Changes


async def test_changes_of_a_kind_that_were_not_read_are_one() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    for kind in ("entries", "agents", "entries", "entries"):
        changes.publish(kind)
    changes.close()
    assert [change async for change in subscription] == [Change("entries"), Change("agents")]


async def test_a_change_after_reading_is_told_again() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    changes.publish("entries")
    assert await anext(subscription) == Change("entries")
    changes.publish("entries")
    assert await anext(subscription) == Change("entries")


async def test_a_subscriber_hears_what_happens_from_subscribing_on() -> None:
    changes = Changes()
    changes.publish("entries")
    subscription = changes.subscribe()
    changes.publish("agents")
    assert await anext(subscription) == Change("agents")


async def test_a_subscriber_hears_only_of_the_kinds_it_named() -> None:
    changes = Changes()
    subscription = changes.subscribe("bundle", "authorities")
    changes.publish("entries")
    changes.publish("bundle")
    changes.close()
    assert [change async for change in subscription] == [Change("bundle")]


async def test_a_waiting_subscriber_is_woken() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    changes.publish("bundle")
    assert await asyncio.wait_for(waiting, 60) == Change("bundle")


async def test_a_subscriber_that_gives_up_waiting_loses_nothing() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    waiting.cancel()
    changes.publish("bundle")
    await asyncio.gather(waiting, return_exceptions=True)
    assert await asyncio.wait_for(anext(subscription), 60) == Change("bundle")


async def test_closing_ends_waiting_and_later_subscribers() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    waiting = asyncio.ensure_future(anext(subscription, None))
    await asyncio.sleep(0)
    changes.close()
    assert await asyncio.wait_for(waiting, 60) is None
    assert [change async for change in changes.subscribe()] == []


async def test_a_dropped_subscriber_is_forgotten() -> None:
    changes = Changes()
    subscription = changes.subscribe()
    assert len(changes._subscriptions) == 1
    del subscription
    gc.collect()
    assert len(changes._subscriptions) == 0


async def test_an_unknown_kind_is_a_programming_error() -> None:
    changes = Changes()
    with pytest.raises(ValueError):
        changes.publish("entrees")
    with pytest.raises(ValueError):
        changes.subscribe("entrees")
