"""Without the server calls go on, also after its agent and Envoys were restarted; with it, changes arrive again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from vestibule.agent.kept_snapshots import NEW
from vestibule.app.up.dialling import NoAnswer
from vestibule.app.up.edges import rules_to_remove, stranger_to
from vestibule.app.up.proofs.envoys import BACK_WITHIN, envoys_of, kill_envoys_of
from vestibule.app.up.proofs.policy_file import PolicyFile
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import LiveEdge, Scene, eventually
from vestibule.cli.status import is_synced
from vestibule.spiffe import X509Svid

KEPT_WITHIN: Final = 1.0
"""Seconds in which an agent has certainly begun to write down what an Envoy took."""

SYNC_WITHIN: Final = 60.0
"""Seconds after the server's return in which a changed policy has to arrive: reconnecting backs off to 5 s."""


async def attempt(scene: Scene) -> str:
    """Kill the server; kill the agent; kill both Envoys of an edge; bring the server back; change a policy."""
    if not scene.edges:
        raise CannotTry("no allowed HTTP call could go on")
    edge = scene.edges[0]
    stranger = await _stranger(scene, edge)
    await _settled(scene)
    await scene.mesh.server.take_away()
    try:
        await _all_served(scene, "with the server gone")
        await scene.mesh.agent.crash()
        await _all_served(scene, "with the agent restarted and the server gone")
        back = await _restart_envoys(scene, edge)
        await _all_served(scene, "with both Envoys restarted and the server gone")
        await _still_enforced(scene, edge, stranger)
    finally:
        scene.mesh.server.put_back()
        await scene.mesh.server.became_ready()
    synced = await _change_arrives(scene, edge)
    return (
        f"server killed: {len(scene.edges)} edges served; agent killed and restarted, both Envoys of {edge} killed and "
        f"serving again after {back:.1f} s, policy still enforced; server back: a change arrived after {synced:.1f} s"
    )


async def _settled(scene: Scene) -> None:
    """Every proxy has confirmed what it was sent, and its agent had a moment to keep it.

    What is claimed is that an outage is survived, not one that begins in the very instant of a change.
    """

    async def synced() -> bool | None:
        status = await scene.mesh.operator.status()
        return all(map(is_synced, status.proxies)) or None

    if await eventually(synced, SYNC_WITHIN) is None:
        raise CannotTry("the proxies are not in sync, so there is no state to survive with")
    await asyncio.sleep(KEPT_WITHIN)
    kept = scene.mesh.places.agent_data / "proxies"

    async def written() -> bool | None:
        return _is_quiet(kept, time.time() - KEPT_WITHIN) or None

    if await eventually(written, SYNC_WITHIN) is None:
        raise CannotTry(f"the agent goes on writing to {kept}, so there is no state to survive with")


def _is_quiet(directory: Path, since: float) -> bool:
    """Whether nothing there was changed since then; a slow disk takes long to finish what was begun."""
    try:
        files = list(directory.iterdir())
        return not any(each.name.startswith(NEW) or each.stat().st_mtime > since for each in files)
    except FileNotFoundError:
        return False


async def _stranger(scene: Scene, edge: LiveEdge) -> X509Svid | None:
    """An identity that the callee must go on to refuse; made while there is a server that can."""
    stranger = stranger_to(scene.intent, edge.route.callee, edge.route.port)
    return await scene.mesh.operator.mint(stranger) if stranger is not None else None


async def _all_served(scene: Scene, when: str) -> None:
    for edge in scene.edges:
        answer = await scene.call(edge.route, edge.request)
        if not answer.ok:
            raise Disproved(f"{when}, {edge} was answered {answer}")


async def _restart_envoys(scene: Scene, edge: LiveEdge) -> float:
    """Seconds until the edge was served by two new Envoys.  Raises: Disproved."""
    began = time.monotonic()
    sidecars = [scene.mesh.sidecar_of(name) for name in (edge.route.caller, edge.route.callee)]
    killed = [await kill_envoys_of(each) for each in sidecars]

    last = "nothing"

    async def served_by_new_ones() -> bool | None:
        nonlocal last
        for each in scene.edges:
            try:
                answer = await scene.call(each.route, each.request)
            except NoAnswer as error:
                last = f"{each}: {error}"
                return None
            if not answer.ok:
                last = f"{each}: {answer}"
                return None
        return True

    if await eventually(served_by_new_ones, BACK_WITHIN) is None:
        raise Disproved(
            f"not served {BACK_WITHIN:g} s after the Envoys of {edge} were killed, the server being gone: {last}"
        )
    if any(envoys_of(each) & old for each, old in zip(sidecars, killed, strict=True)):
        raise Disproved("an Envoy that was killed still runs")
    return time.monotonic() - began


async def _still_enforced(scene: Scene, edge: LiveEdge, stranger: X509Svid | None) -> None:
    if stranger is None:
        return
    answer = await scene.ask_directly(edge.route, edge.request, stranger)
    if answer.status != 403:
        raise Disproved(
            f"the restarted Envoy of {edge.route.callee} answered {stranger.spiffe_id} with {answer}"
        )


async def _change_arrives(scene: Scene, edge: LiveEdge) -> float:
    """Seconds until a removed rule was felt.  The rule is put back, and waited for."""
    began = time.monotonic()
    rules = rules_to_remove(scene.intent, edge.route, edge.request)
    with PolicyFile(scene.directory, edge.route.callee) as file:
        file.remove(rules)
        await _answered(scene, edge, lambda status: status == 403, "a removed rule is not felt")
        arrived = time.monotonic() - began
    await _answered(scene, edge, lambda status: 200 <= status < 300, "a rule that was put back is not felt")
    return arrived


async def _answered(scene: Scene, edge: LiveEdge, fits: Callable[[int], bool], failure: str) -> None:
    async def look() -> bool | None:
        return fits((await scene.call(edge.route, edge.request)).status) or None

    if await eventually(look, SYNC_WITHIN) is None:
        raise Disproved(f"{edge}: {failure} {SYNC_WITHIN:g} s after the server came back")


PROOF: Final = Proof(
    id="server-outage-survived",
    claim="with the server gone calls go on, and a restarted agent and Envoys still serve",
    attempt=attempt,
)
