"""``vestibule up --once``: run a private copy of an intent directory, prove it, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from vestibule.app.up import dialling
from vestibule.app.up.codes import INTERRUPTED
from vestibule.app.up.dialling import NoAnswer
from vestibule.app.up.edges import Edge, allowed_edges, denied_routes
from vestibule.app.up.holding import while_running
from vestibule.app.up.journal import journal
from vestibule.app.up.mesh import Mesh
from vestibule.app.up.places import Tenancy
from vestibule.app.up.plan import Plan, copy_intent
from vestibule.app.up.proofs.all import proofs_for
from vestibule.app.up.proofs.proof import Outcome, outcome_of
from vestibule.app.up.proofs.scene import LiveEdge, Scene, host_of
from vestibule.app.up.timeline import Timeline
from vestibule.errors import VestibuleError
from vestibule.processes import Shutdown

FIRST_CALLS_WITHIN: Final = 10.0
_RETRY_EVERY: Final = 0.02

Tell = Callable[[Outcome], None]
"""Hears of each proof as soon as its outcome is known."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a run proved.  ``ready_seconds`` is None if not every allowed edge was answered with success."""

    plan: Plan
    outcomes: list[Outcome] = field(default_factory=list)
    ready_seconds: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    error: VestibuleError | None = None

    @property
    def holds(self) -> bool:
        """Whether every single proof holds."""
        return len(self.outcomes) == len(proofs_for(self.plan)) and all(each.ok for each in self.outcomes)

    @property
    def document(self) -> dict[str, Any]:
        """The answer as the envelope carries it."""
        return {
            "ready_seconds": self.ready_seconds,
            "parts": dict(self.parts),
            "proofs": [{"id": each.id, "ok": each.ok, "detail": each.detail} for each in self.outcomes],
        }

    def fill(self, why: str, tell: Tell) -> None:
        """Proofs that were not tried do not hold."""
        for proof in proofs_for(self.plan)[len(self.outcomes) :]:
            self.add(
                Outcome(
                    id=proof.id, claim=proof.claim, ok=False, detail=f"could not be tried: {why}", seconds=0
                ),
                tell,
            )

    def add(self, outcome: Outcome, tell: Tell) -> None:
        """The next proof in order."""
        self.outcomes.append(outcome)
        tell(outcome)


async def run_once(
    plan: Plan, state: Path, timeline: Timeline, *, tell: Tell, ready: Callable[[Timeline], None]
) -> Report:
    """Start, prove and stop; nothing is left but logs.  Whatever goes wrong is in the report.

    Raises: VST7302, VST7303, VST7003 (no place to run), VST7300 (the directory cannot be copied).
    """
    report = Report(plan=plan)
    tenancy = Tenancy(state)
    places = tenancy.take(fresh=True)
    try:
        # Without gateways, whose ports are fixed: another run may well have them.
        copy = replace(plan, directory=copy_intent(plan.directory, places.intent_copy), gateways=())
        with Shutdown() as shutdown, journal(places.logs):
            mesh = Mesh(copy, places, tenancy.ledger, timeline)
            try:
                if await while_running(mesh, shutdown, _prove(mesh, report, tell, ready)) is None:
                    raise INTERRUPTED.error("a signal ended the run")
            except VestibuleError as error:
                report.error = error
                report.fill(str(error), tell)
    finally:
        report.parts = timeline.milestones
        tenancy.give_back(places, forget=True)
    return report


async def _prove(mesh: Mesh, report: Report, tell: Tell, ready: Callable[[Timeline], None]) -> bool:
    await mesh.ready.wait()
    plan = mesh.plan
    edges = allowed_edges(plan.intent, plan.services)
    answers = await asyncio.gather(*(_first_success(mesh, edge) for edge in edges))
    live = tuple(answer for answer in answers if isinstance(answer, LiveEdge))
    silent = tuple(answer for answer in answers if isinstance(answer, str))
    if live and not silent:
        report.ready_seconds = mesh.timeline.reached("calls")
    ready(mesh.timeline)
    scene = Scene(
        mesh=mesh,
        edges=live,
        silent=silent,
        denied=denied_routes(plan.intent, plan.services),
        bundle=await mesh.operator.bundle(),
    )
    for proof in proofs_for(plan):
        report.add(await outcome_of(proof, scene), tell)
    return True


async def _first_success(mesh: Mesh, edge: Edge) -> LiveEdge | str:
    """The edge with the first of its example requests that succeeds, or what came instead."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FIRST_CALLS_WITHIN
    egress = mesh.sidecar_of(edge.route.caller).where.egress
    host = host_of(mesh.plan.intent, edge.route)
    last = "nothing was asked"
    while loop.time() < deadline:
        for request in edge.requests:
            try:
                answer = await asyncio.to_thread(dialling.ask, egress, host, request)
            except NoAnswer as error:
                last = f"{request}: {error}"
                continue
            if answer.ok:
                return LiveEdge(edge.route, request)
            last = f"{request} was answered {answer}"
        await asyncio.sleep(_RETRY_EVERY)
    return f"{edge}: {last}"
