"""A rule removed from its file denies the next request on connections that are already open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from vestibule.app.up.dialling import Answer, Connection
from vestibule.app.up.edges import rules_to_remove
from vestibule.app.up.proofs.policy_file import PolicyFile
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import LiveEdge, Scene

PROMISE: Final = 1.0
"""Seconds from the changed file to the first denial."""

WITHIN: Final = 20.0
STAYS: Final = 5
"""Further requests that have to be denied, too."""

_PAUSE: Final = 0.01


async def attempt(scene: Scene) -> str:
    """On a connection of the caller's app to its proxy, and on one that dials the callee's proxy directly."""
    if not scene.edges:
        raise CannotTry("no allowed HTTP call can be denied")
    edge = scene.edges[0]
    rules = rules_to_remove(scene.intent, edge.route, edge.request)
    svid = await scene.mesh.operator.mint(scene.identity(edge.route.caller))
    with (
        (await scene.dial(edge.route.callee, edge.route.port, svid)).connection as direct,
        await scene.open_way_out(edge.route.caller) as app,
        PolicyFile(scene.directory, edge.route.callee) as file,
    ):
        both = {"the app's connection": app, "a direct connection": direct}
        await _expect(scene, edge, both.items(), _is_success)
        file.remove(rules)
        denied = await _until(scene, edge, both, _is_denial, "denied")
        for _ in range(STAYS):
            await _expect(scene, edge, both.items(), _is_denial)
        file.put_back()
        allowed = await _until(scene, edge, both, _is_success, "allowed again")
    if denied > PROMISE:
        raise Disproved(f"{edge}: denied only {denied:.2f} s after {', '.join(rules)} was removed")
    return (
        f"{edge}: without {', '.join(rules)} denied after {denied:.2f} s, on open connections to the "
        f"caller's and to the callee's proxy; with it allowed again after {allowed:.2f} s"
    )


async def _until(
    scene: Scene,
    edge: LiveEdge,
    connections: dict[str, Connection],
    fits: Callable[[Answer], bool],
    what: str,
) -> float:
    """Ask on every connection until all answers fit; the answer is after how many seconds.  Raises: Disproved."""
    began = time.monotonic()
    waiting = dict(connections)
    while waiting:
        for name, connection in list(waiting.items()):
            answer = await _ask(scene, edge, connection)
            if fits(answer):
                del waiting[name]
            elif time.monotonic() - began > WITHIN:
                raise Disproved(f"{edge}: {name} is not {what} after {WITHIN:g} s: {answer}")
        await asyncio.sleep(_PAUSE)
    return time.monotonic() - began


async def _expect(
    scene: Scene,
    edge: LiveEdge,
    connections: Iterable[tuple[str, Connection]],
    fits: Callable[[Answer], bool],
) -> None:
    for name, connection in connections:
        answer = await _ask(scene, edge, connection)
        if not fits(answer):
            raise Disproved(f"{edge}: on {name} came {answer}")


async def _ask(scene: Scene, edge: LiveEdge, connection: Connection) -> Answer:
    # ``Connection`` never connects anew: a closed one would end the proof.
    return await asyncio.to_thread(connection.ask, scene.host(edge.route), edge.request)


def _is_success(answer: Answer) -> bool:
    return answer.ok


def _is_denial(answer: Answer) -> bool:
    return answer.status == 403


PROOF: Final = Proof(
    id="policy-live",
    claim="a rule removed from its file denies the next request on an open connection",
    attempt=attempt,
)
