"""A service gets a token through its own sidecar, as itself; a neighbour is refused; both are on record."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any, Final

from vestibule.app.up import token_edges
from vestibule.app.up.dialling import Answer
from vestibule.app.up.edges import Request
from vestibule.app.up.proofs.proof import CannotTry, Disproved, Proof
from vestibule.app.up.proofs.scene import REQUEST_ID, Scene, eventually, new_request_id
from vestibule.app.up.token_edges import TokenEdge
from vestibule.intent.built_in import TOKENS_SERVICE
from vestibule.pki.jwk import decode_base64url

_WITHIN: Final = 60.0
_TOKEN: Final = Request("POST", "/oauth2/token")


async def attempt(scene: Scene) -> str:
    """By the apps' ways out, in plain HTTP, with no credentials at all."""
    edge = token_edges.mintable(scene.intent, scene.mesh.plan.services)
    if edge is None:
        raise CannotTry("no rule lets a running service mint a token that another one may not")
    # The service may have yet to make its keys.
    got = await eventually(partial(_got, scene, edge), _WITHIN)
    if got is None:
        raise Disproved(
            f"{edge.holder} got no token: {await _ask(scene, edge.holder, edge, new_request_id())}"
        )
    _check(scene, edge, got)
    request_id = new_request_id()
    refused = await _ask(scene, edge.stranger, edge, request_id)
    said = str(refused.document.get("error_description", ""))
    if refused.status != 400 or not said.startswith("VST601"):
        raise Disproved(f"{edge.stranger} asked for the same and was answered {refused.status}, not refused")
    record = _recorded(scene, request_id)
    if record is None or record["outcome"] == "ok" or record["actor"] != str(scene.identity(edge.stranger)):
        raise Disproved(f"the refusal of {edge.stranger} is not in the audit log")
    return (
        f"{edge.holder} got a token for {edge.audience} by plain HTTP ({edge.rule}); {edge.stranger}: refused; "
        "both are in the audit log"
    )


def _check(scene: Scene, edge: TokenEdge, claims: dict[str, Any]) -> None:
    """What the token says is what was asked for, and by whom."""
    holder = str(scene.identity(edge.holder))
    expected = {"aud": edge.audience, "sub": holder, "client_id": holder}
    if edge.scope:
        expected["scope"] = edge.scope
    if wrong := {name for name, value in expected.items() if claims.get(name) != value}:
        raise Disproved(f"the token of {edge.holder} says something else: {', '.join(sorted(wrong))}")


async def _got(scene: Scene, edge: TokenEdge) -> dict[str, Any] | None:
    request_id = new_request_id()
    answer = await _ask(scene, edge.holder, edge, request_id)
    if not answer.ok:
        return None
    record = _recorded(scene, request_id)
    if record is None or record["outcome"] != "ok":
        raise Disproved("the token was given before that was in the audit log")
    body = str(answer.document["access_token"]).split(".")[1]
    return dict(json.loads(decode_base64url(body)))


async def _ask(scene: Scene, service: str, edge: TokenEdge, request_id: str) -> Answer:
    form = {"grant_type": "client_credentials", "audience": edge.audience, "scope": edge.scope}
    with await scene.open_way_out(service) as connection:
        ask = partial(connection.ask, TOKENS_SERVICE, _TOKEN, {REQUEST_ID: request_id})
        return await asyncio.to_thread(ask, {name: value for name, value in form.items() if value})


def _recorded(scene: Scene, request_id: str) -> dict[str, Any] | None:
    """The last record of a request: written before its answer left, so that there is nothing to wait for."""
    log = scene.mesh.places.server_data / "audit.jsonl"
    for line in reversed(log.read_text(encoding="utf-8").splitlines()):
        if '"action":"token.' in line and request_id in line:
            return dict(json.loads(line))
    return None


PROOF: Final = Proof(
    id="token-vended",
    claim="a service gets a token with its identity alone, a neighbour is refused, and both are on record",
    attempt=attempt,
)
