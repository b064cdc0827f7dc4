"""A secret that a service may read is answered through its own sidecar; a neighbour is refused; both are on record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from vestibule.app.up import secrets_edges
from vestibule.app.up.dialling import Answer
from vestibule.app.up.edges import Request
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import REQUEST_ID, Scene, eventually, new_request_id
from vestibule.app.up.secrets_edges import SecretEdge
from vestibule.intent.built_in import SECRETS_SERVICE

_WITHIN: Final = 60.0


async def attempt(scene: Scene) -> str:
    """By the apps' ways out, in plain HTTP, with no credentials at all."""
    edge = secrets_edges.readable(scene.intent, scene.mesh.plan.services)
    if edge is None:
        raise CannotTry("no rule lets a running service read a secret that another one may not")
    # Its app may have yet to make it.
    read = await eventually(lambda: _answered(scene, edge), _WITHIN)
    if read is None:
        raise Disproved(f"{edge.reader} got no {edge.path}: {await _ask(scene, edge.reader, edge, '')}")
    request_id = new_request_id()
    refused = await _ask(scene, edge.stranger, edge, request_id)
    said = " ".join(map(str, refused.document.get("errors", ())))
    if refused.status != 403 or "VST5300" not in said:
        raise Disproved(f"{edge.stranger} asked for {edge.path} and was answered {refused.status}, not 403")
    if edge.rule and edge.rule not in said:
        raise Disproved(f"the refusal does not name the rule {edge.rule}: {said}")
    record = _recorded(scene, request_id)
    if (
        record is None
        or record["outcome"] != "denied"
        or record["actor"] != str(scene.identity(edge.stranger))
    ):
        raise Disproved(f"the refusal of {edge.stranger} is not in the audit log")
    why = f"by {edge.rule}" if edge.rule else "since no rule allows it"
    return (
        f"{edge.reader} read {edge.path} by plain HTTP; {edge.stranger}: 403 {why}; both are in the audit log"
    )


async def _answered(scene: Scene, edge: SecretEdge) -> Answer | None:
    request_id = new_request_id()
    answer = await _ask(scene, edge.reader, edge, request_id)
    if not answer.ok:
        return None
    record = _recorded(scene, request_id)
    if record is None or record["outcome"] != "ok":
        raise Disproved(f"{edge.path} was answered before that was in the audit log")
    return answer


async def _ask(scene: Scene, service: str, edge: SecretEdge, request_id: str) -> Answer:
    connection = await scene.open_way_out(service)
    headers = {REQUEST_ID: request_id or new_request_id()}
    with connection:
        return await _to_thread(connection, Request("GET", edge.url), headers)


async def _to_thread(connection: Any, request: Request, headers: dict[str, str]) -> Answer:
    import asyncio

    answer: Answer = await asyncio.to_thread(connection.ask, SECRETS_SERVICE, request, headers)
    return answer


def _recorded(scene: Scene, request_id: str) -> dict[str, Any] | None:
    """The last record of a request: written before its answer left, so that there is nothing to wait for."""
    return next((each for each in _records(scene) if each["details"].get("request_id") == request_id), None)


def _records(scene: Scene) -> Iterator[dict[str, Any]]:
    log = scene.mesh.places.server_data / "audit.jsonl"
    for line in reversed(log.read_text(encoding="utf-8").splitlines()):
        if '"action":"secret.' in line:
            yield json.loads(line)


PROOF: Final = Proof(
    id="secret-read",
    claim="a service reads its secret by plain HTTP, a neighbour is refused, and both are on record",
    attempt=attempt,
)
