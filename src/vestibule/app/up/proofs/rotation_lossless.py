"""SVIDs of a few seconds rotate several times under continuous load, and no request fails."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from vestibule.app.up.proofs.load import Load
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import LiveEdge, Scene, eventually
from vestibule.observe.access_record import Direction
from vestibule.pki.chains import LeafFacts

TTL_SECONDS: Final = 6
ROTATIONS: Final = 3
WITHIN: Final = 45.0
LEAST_REQUESTS: Final = 100
_LOOK_EVERY: Final = 0.25
_LONG: Final = timedelta(seconds=10 * TTL_SECONDS)


async def attempt(scene: Scene) -> str:
    """Shorten both ends' certificates, load the edge, and count whose certificates were seen."""
    if not scene.edges:
        raise CannotTry("no allowed HTTP call can be repeated")
    edge = scene.edges[0]
    ids = [scene.mesh.entry_ids[name] for name in {edge.route.caller, edge.route.callee}]
    seen = _Serials()
    await _look(scene, edge, seen)
    seen.before()
    try:
        with Load(scene.egress(edge.route.caller), scene.host(edge.route), edge.request) as load:
            await scene.mesh.operator.set_ttl(ids, TTL_SECONDS)
            rotated = await _watch(scene, edge, seen)
    finally:
        await scene.mesh.operator.set_ttl(ids, 0)
        await _long_again(scene, edge)
    if load.failed:
        worst = "; ".join(f"{count} × {what}" for what, count in load.failed.most_common(3))
        raise Disproved(
            f"{edge}: {load.failed.total()} of {load.failed.total() + load.succeeded} requests failed: {worst}"
        )
    if not rotated:
        raise Disproved(
            f"{edge}: {len(seen.of_caller)} new certificates of the caller and {len(seen.of_callee)} of the callee "
            f"in {WITHIN:g} s; {ROTATIONS} of each were due"
        )
    if load.succeeded < LEAST_REQUESTS:
        raise Disproved(f"{edge}: only {load.succeeded} requests were made, which shows little")
    return (
        f"{edge}: {load.succeeded} requests, none failed, while the callee saw {len(seen.of_caller)} new "
        f"certificates of the caller and showed {len(seen.of_callee)} of its own (lifetime {TTL_SECONDS} s)"
    )


@dataclass(slots=True)
class _Serials:
    """Serial numbers seen since ``before`` was called."""

    of_caller: set[str] = field(default_factory=set)
    of_callee: set[str] = field(default_factory=set)
    since: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(seconds=5))
    _old: frozenset[str] = frozenset()

    def before(self) -> None:
        """What was seen so far is old."""
        self._old = frozenset(self.of_caller | self.of_callee)
        self.of_caller, self.of_callee = set(), set()

    def add(self, of_caller: set[str], of_callee: set[str]) -> None:
        self.of_caller |= of_caller - self._old
        self.of_callee |= of_callee - self._old


async def _watch(scene: Scene, edge: LiveEdge, seen: _Serials) -> bool:
    """Whether enough rotations were seen from both ends in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WITHIN
    while loop.time() < deadline:
        await _look(scene, edge, seen)
        if min(len(seen.of_caller), len(seen.of_callee)) >= ROTATIONS:
            return True
        await asyncio.sleep(_LOOK_EVERY)
    return False


async def _look(scene: Scene, edge: LiveEdge, seen: _Serials) -> None:
    caller, callee = str(scene.identity(edge.route.caller)), edge.route.callee
    records = await scene.records(seen.since)
    serials = {
        each.peer_serial
        for each in records
        if each.direction is Direction.INBOUND
        and each.reporter_service == callee
        and each.source_spiffe_id == caller
        and each.peer_serial
    }
    seen.add(serials, {(await _shown(scene, edge)).serial})


async def _shown(scene: Scene, edge: LiveEdge) -> LeafFacts:
    """The certificate that the callee's proxy shows now."""
    handshake = await scene.dial(edge.route.callee, edge.route.port, None)
    handshake.connection.close()
    return handshake.verified(scene.bundle, datetime.now(UTC))


async def _long_again(scene: Scene, edge: LiveEdge) -> None:
    """Wait until the callee has a certificate of the usual length, so that the next proof finds it so."""

    async def long() -> bool | None:
        facts = await _shown(scene, edge)
        return facts.not_after - datetime.now(UTC) > _LONG or None

    await eventually(long, 10.0)


PROOF: Final = Proof(
    id="rotation-lossless",
    claim="certificates of a few seconds rotate under load and no request fails",
    attempt=attempt,
)
