"""Allowed calls succeed, and the callee saw the caller's SPIFFE ID."""

from __future__ import annotations

import re
from typing import Final

from vestibule.app.up.dialling import Answer
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import LiveEdge, Scene, new_request_id
from vestibule.observe.access_record import AccessRecord, Direction, Verdict

_PEER: Final = re.compile(rb"URI=(spiffe://[A-Za-z0-9._/-]+)")
"""The peer in an echoed x-forwarded-client-cert; ``By=`` is the callee itself."""


async def attempt(scene: Scene) -> str:
    """Every allowed edge, each with the callee's own record of it."""
    if scene.silent:
        raise Disproved(f"allowed, but not answered with success: {'; '.join(scene.silent)}")
    if not scene.edges:
        raise CannotTry("the intent allows no HTTP call between services that run")
    echoes = 0
    for edge in scene.edges:
        echoes += await _succeeds(scene, edge)
    shown = ", ".join(map(str, scene.edges))
    by_app = f", in {echoes} cases told by the app itself" if echoes else ""
    return f"{shown}: answered, and each callee saw its caller's SPIFFE ID{by_app}"


async def _succeeds(scene: Scene, edge: LiveEdge) -> bool:
    """Whether the callee's app itself told who called.  Raises: Disproved."""
    caller = str(scene.identity(edge.route.caller))
    request_id = new_request_id()
    answer = await scene.call(edge.route, edge.request, request_id)
    if not answer.ok:
        raise Disproved(f"{edge}: {edge.request} was answered {answer}")
    if (told := _told_by_app(answer)) not in (None, caller):
        raise Disproved(f"{edge}: the app of {edge.route.callee} saw {told}, not {caller}")
    record = await scene.record(lambda each: _is_of(each, edge, request_id))
    if record is None:
        raise Disproved(f"{edge}: the call is in no access record of {edge.route.callee}")
    if record.verdict is not Verdict.ALLOWED or record.source_spiffe_id != caller:
        raise Disproved(
            f"{edge}: {edge.route.callee} saw {record.source_spiffe_id or 'nobody'}, not {caller}"
        )
    return told is not None


def _told_by_app(answer: Answer) -> str | None:
    """The caller that the first echoed header names, for apps that answer with what they saw."""
    found = _PEER.search(answer.body)
    return found[1].decode() if found else None


def _is_of(record: AccessRecord, edge: LiveEdge, request_id: str) -> bool:
    return (
        record.direction is Direction.INBOUND
        and record.request_id == request_id
        and record.reporter_service == edge.route.callee
    )


PROOF: Final = Proof(
    id="call-allowed",
    claim="allowed calls are answered, and the callee saw the caller's SPIFFE ID",
    attempt=attempt,
)
