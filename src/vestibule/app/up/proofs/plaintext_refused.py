"""The callee's proxy does not speak plaintext."""

from __future__ import annotations

import asyncio
from typing import Final

from vestibule.app.up import dialling
from vestibule.app.up.dialling import NoAnswer
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof, refusal
from vestibule.app.up.proofs.scene import Scene
from vestibule.observe.access_record import AccessRecord, Verdict


async def attempt(scene: Scene) -> str:
    """An allowed request in plaintext, then the same by mutual TLS at the same address."""
    # Where plain text is taken for a while, that is what was asked for.
    services = scene.intent.services
    edges = [each for each in scene.edges if services[each.route.callee].traffic.permissive is None]
    if not edges:
        raise CannotTry("no allowed call shows that the callee would answer")
    what_happened = ""
    for edge in edges:
        route, address = edge.route, scene.ingress(edge.route.callee, edge.route.port)
        try:
            answer = await asyncio.to_thread(dialling.ask, address, scene.host(route), edge.request)
        except NoAnswer as error:
            what_happened = refusal(error, f"plain HTTP to {route.callee}")
        else:
            raise Disproved(f"{route.callee} answered plain HTTP with {answer}")
        # The counter-check: whoever refused is there, and answers the same request when it is asked properly.
        svid = await scene.mesh.operator.mint(scene.identity(route.caller))
        proper = await scene.ask_directly(route, edge.request, svid)
        if not proper.ok:
            raise Disproved(f"{route.callee} also refuses mutual TLS: {proper}")
    record = await scene.record(lambda each: _is_refusal(each, edges[-1].route.callee))
    logged = f"; its log says {record.transport_failure}" if record and record.transport_failure else ""
    return f"{what_happened}; by mutual TLS the same address answers{logged}"


def _is_refusal(record: AccessRecord, callee: str) -> bool:
    return record.verdict is Verdict.REFUSED and record.reporter_service == callee


PROOF: Final = Proof(
    id="plaintext-refused", claim="the callee's door does not speak plaintext", attempt=attempt
)
