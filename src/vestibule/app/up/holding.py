"""Doing something while a mesh runs, and leaving in order however that ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable
from typing import TypeVar

from vestibule.app.up.mesh import Mesh
from vestibule.processes import Shutdown

T = TypeVar("T")


async def while_running(mesh: Mesh, shutdown: Shutdown, work: Awaitable[T]) -> T | None:
    """The result of ``work``; None if a signal came first.  The mesh is gone when this returns or raises.

    Raises: what ``work`` raises, and what ends the mesh by itself (VST70nn, VST73nn).
    """
    # The terminal was closed: leave in order, instead of leaving it to the next start.
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, shutdown.request)
    running = asyncio.create_task(mesh.run(), name="mesh")
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(shutdown.drain.wait(), name="signals")
    try:
        await asyncio.wait({running, working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            # A mesh that ends before it is told to cannot go on; it says why.
            running.result()
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        # What the work took away, it puts back first.
        await asyncio.gather(working, leaving, return_exceptions=True)
        await _stop(mesh, shutdown, running)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


async def _stop(mesh: Mesh, shutdown: Shutdown, running: asyncio.Task[None]) -> None:
    """In order; a second signal cuts it short."""
    stopping = asyncio.create_task(mesh.stop(), name="stop")
    at_once = asyncio.create_task(shutdown.at_once.wait(), name="at-once")
    try:
        await asyncio.wait({stopping, at_once}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            mesh.kill()
        await asyncio.wait({running})
    finally:
        for task in (stopping, at_once):
            task.cancel()
        await asyncio.gather(stopping, at_once, return_exceptions=True)
