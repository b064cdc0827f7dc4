"""The first signal drains, the second stops at once."""

from __future__ import annotations

import asyncio

import pytest

from vestibule.processes import Shutdown


async def test_an_end_in_good_order_kills_nobody() -> None:
    done: list[str] = []

    async def drain() -> None:
        done.append("drained")

    await Shutdown().carry_out(drain(), lambda: done.append("killed"))
    assert done == ["drained"]


async def test_a_second_signal_cuts_it_short() -> None:
    shutdown = Shutdown()
    done: list[str] = []

    async def drain() -> None:
        shutdown.request()
        try:
            await asyncio.Event().wait()
        finally:
            done.append("cancelled")

    shutdown.request()
    async with asyncio.timeout(60):
        await shutdown.carry_out(drain(), lambda: done.append("killed"))
    assert done == ["killed", "cancelled"]


async def test_what_fails_meanwhile_is_told() -> None:
    async def drain() -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        await Shutdown().carry_out(drain(), lambda: None)
