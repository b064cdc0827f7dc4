"""A caller does not talk to another workload of the trust domain that serves at its callee's address."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from vestibule.app.up.proofs.envoys import kill_envoys_of
from vestibule.app.up.proofs.impostor import Impostor
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import LiveEdge, Scene, eventually, new_request_id
from vestibule.observe.access_record import AccessRecord, Direction
from vestibule.spiffe import SpiffeId

WITHIN: Final = 30.0


async def attempt(scene: Scene) -> str:
    """The callee's Envoy goes, its registration stays, and somebody else answers at its address."""
    edge = _edge_to_one_instance(scene)
    route = edge.route
    address = scene.ingress(route.callee, route.port)
    if address.path:
        raise CannotTry(f"{route.callee} accepts others on a socket, which nobody else can take over")
    other = _someone_else(scene, route.callee)
    svid = await scene.mesh.operator.mint(other)
    async with _absent(scene, edge):
        with Impostor(address, svid) as impostor:
            seen = await _refused(scene, edge, impostor)
    await _recovers(scene, edge)
    return (
        f"{route}: 503 while {other} served there; the caller's log says {seen!r}; then the real one answered"
    )


def _edge_to_one_instance(scene: Scene) -> LiveEdge:
    """With several instances, calls would go to the others."""
    for edge in scene.edges:
        if sum(each.service == edge.route.callee for each in scene.mesh.sidecars) == 1:
            return edge
    raise CannotTry("no allowed HTTP call goes to a service with a single instance")


def _someone_else(scene: Scene, callee: str) -> SpiffeId:
    """Preferably a service that exists, which makes the best impostor."""
    others = [each for each in scene.intent.services.values() if each.name != callee]
    return others[-1].spiffe_id


@asynccontextmanager
async def _absent(scene: Scene, edge: LiveEdge) -> AsyncIterator[None]:
    """Envoy is killed and its sidecar stopped in its tracks: it neither deregisters nor starts another one."""
    sidecar = scene.mesh.sidecar_of(edge.route.callee)
    pid = sidecar.kept.pid
    if pid is None:
        raise CannotTry(f"the sidecar of {sidecar.service} does not run")
    os.kill(pid, signal.SIGSTOP)
    try:
        await kill_envoys_of(sidecar)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: _served(scene, edge), WITHIN)


async def _refused(scene: Scene, edge: LiveEdge, impostor: Impostor) -> str:
    request_id = new_request_id()
    answer = await scene.call(edge.route, edge.request, request_id)
    if answer.status != 503:
        raise Disproved(f"{edge}: the call was answered {answer} instead of 503")
    if not impostor.dialled:
        raise Disproved(f"{edge}: 503, but the caller's proxy did not even dial the callee's address")
    if impostor.trusted:
        raise Disproved(f"{edge}: the caller's proxy sent a request to the wrong workload")
    record = await scene.record(lambda each: _is_of(each, edge, request_id))
    failure = record.transport_failure if record is not None else ""
    if not names_identity(failure):
        raise Disproved(f"{edge}: 503, but the caller's log names no wrong identity: {failure!r}")
    return failure


def names_identity(failure: str) -> bool:
    """Whether a transport failure says that the peer's certificate was refused, rather than, say, its absence."""
    text = failure.upper().replace(" ", "_")
    return "CERTIFICATE_VERIFY_FAILED" in text or "SAN" in text


async def _recovers(scene: Scene, edge: LiveEdge) -> None:
    if not await _served(scene, edge):
        raise Disproved(f"{edge}: calls do not succeed again, {WITHIN:g} s after the real one came back")


async def _served(scene: Scene, edge: LiveEdge) -> bool | None:
    return (await scene.call(edge.route, edge.request)).ok or None


def _is_of(record: AccessRecord, edge: LiveEdge, request_id: str) -> bool:
    return (
        record.direction is Direction.OUTBOUND
        and record.request_id == request_id
        and record.reporter_service == edge.route.caller
    )


PROOF: Final = Proof(
    id="wrong-identity-refused",
    claim="a caller does not talk to another workload at its callee's address",
    attempt=attempt,
)
