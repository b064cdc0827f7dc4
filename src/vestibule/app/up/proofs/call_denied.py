"""A call that no rule allows gets 403 with a code and the request's id, also past the caller's own proxy."""

from __future__ import annotations

import re
from typing import Final

from vestibule.app.up.dialling import Answer
from vestibule.app.up.edges import Request, Route, stranger_to
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import LiveEdge, Scene, new_request_id
from vestibule.observe.access_record import Direction, Verdict

_CODE: Final = re.compile(r"VST[0-9]{4}")


async def attempt(scene: Scene) -> str:
    """By a service that nobody allowed; then by an identity that no rule names, dialling the callee."""
    if not scene.edges:
        raise CannotTry("no allowed call shows that the callee would answer")
    if not scene.denied:
        raise CannotTry("the rules leave no pair of running services between which calls are denied")
    route = scene.denied[0]
    code = await _denied_on_the_way(scene, route)
    direct = await _denied_at_the_callee(scene, scene.edges[0])
    return f"{route}: 403 {code} with the request's id; {direct}"


async def _denied_on_the_way(scene: Scene, route: Route) -> str:
    request_id = new_request_id()
    # The very request that others may make: what is refused is the caller.
    request = next(
        (each.request for each in scene.edges if _same_port(each.route, route)), Request("GET", "/")
    )
    return _check(f"{route}: {request}", await scene.call(route, request, request_id), request_id)


async def _denied_at_the_callee(scene: Scene, edge: LiveEdge) -> str:
    route = edge.route
    stranger = stranger_to(scene.intent, route.callee, route.port)
    if stranger is None:
        raise CannotTry(f"the rules of {route.callee} let every identity of the trust domain in")
    svid = await scene.mesh.operator.mint(stranger)
    request_id = new_request_id()
    answer = await scene.ask_directly(route, edge.request, svid, request_id)
    code = _check(f"{stranger} to {route.callee}", answer, request_id)
    record = await scene.record(
        lambda each: each.direction is Direction.INBOUND and each.request_id == request_id
    )
    if record is None or record.verdict is not Verdict.DENIED or record.source_spiffe_id != str(stranger):
        raise Disproved(f"the refusal of {stranger} by {route.callee} is not in its access records")
    return f"a real SVID that no rule names ({stranger.path}), dialling {route.callee} itself: 403 {code}"


def _check(who: str, answer: Answer, request_id: str) -> str:
    """The code of a proper refusal.  Raises: Disproved."""
    code, told = str(answer.document.get("error", "")), answer.document.get("request_id")
    if answer.status != 403:
        raise Disproved(f"{who} was answered {answer}, not 403")
    if not _CODE.fullmatch(code):
        raise Disproved(f"{who}: the refusal names no code: {answer}")
    if told != request_id:
        raise Disproved(f"{who}: the refusal names the request id {told!r}, not {request_id!r}")
    return code


def _same_port(one: Route, other: Route) -> bool:
    return (one.callee, one.port) == (other.callee, other.port)


PROOF: Final = Proof(
    id="call-denied",
    claim="calls that no rule allows get 403 with code and request id, also past the caller's proxy",
    attempt=attempt,
)
