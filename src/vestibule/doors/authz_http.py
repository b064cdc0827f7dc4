"""Decisions over HTTP, for those who do not speak gRPC, and the pages of a decision service."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2 as pb
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vestibule.doors.checks import FOREIGN_PORT, FOREIGN_SERVICE, Answering
from vestibule.envoy.central import MAX_BODY
from vestibule.telemetry.metrics import Metrics

PREFIX: Final = "/check/"
"""Before ``SERVICE/PORT`` and the path that is asked about (Envoy's ``path_prefix``)."""

CALLER: Final = "x-forwarded-client-cert"
RULE: Final = "x-vestibule-rule"
DECISION: Final = "x-vestibule-decision-id"

# One element, as Envoy writes it for one hop (SANITIZE_SET): nothing that somebody else might have appended to.
_CALLER: Final = re.compile(r'(?:(?!URI=)[A-Za-z]+=[^;,"]*;)*URI=([^;,"]+)(?:;(?!URI=)[A-Za-z]+=[^;,"]*)*')
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE")

Status = Callable[[], Mapping[str, Any]]
"""What ``/ready`` says; ``ready`` is true or false."""


def decision_app(answering: Answering, status: Status, metrics: Metrics) -> Starlette:
    """``/live``, ``/ready``, ``/metrics``, and decisions below ``/check/SERVICE/PORT``."""

    async def live(_request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_request: Request) -> Response:
        said = dict(status())
        return JSONResponse(said, status_code=200 if said["ready"] else 503)

    async def scrape(_request: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return Starlette(
        routes=[
            Route("/live", live),
            Route("/ready", ready),
            Route("/metrics", scrape),
            Route(f"{PREFIX}{{rest:path}}", _checking(answering), methods=list(_METHODS)),
        ]
    )


def _checking(answering: Answering) -> Callable[[Request], Awaitable[Response]]:
    async def check(request: Request) -> Response:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    return Response(status_code=413)
        except ClientDisconnect:
            return Response(status_code=400)
        asked = question_of(request, bytes(body)).SerializeToString()
        return response_of(pb.CheckResponse.FromString(answering.answer(asked)))

    return check


def question_of(request: Request, body: bytes) -> pb.CheckRequest:
    """The same question as gRPC's."""
    raw = bytes(request.scope.get("raw_path") or b"").partition(b"?")[0].decode("latin-1")
    service, _, rest = raw.removeprefix(PREFIX).partition("/")
    port, _, path = rest.partition("/")
    query = request.scope.get("query_string", b"").decode("latin-1")
    question = pb.CheckRequest()
    asked = question.attributes
    asked.context_extensions[FOREIGN_SERVICE] = service
    asked.context_extensions[FOREIGN_PORT] = port
    http = asked.request.http
    http.method, http.path = request.method, f"/{path}" + (f"?{query}" if query else "")
    http.host = request.headers.get("host", "")
    http.id = request.headers.get("x-request-id", "")
    http.raw_body = body
    for name, value in request.headers.raw:
        http.header_map.headers.add(key=name.decode("latin-1"), raw_value=value)
    told = request.headers.getlist(CALLER)
    found = _CALLER.fullmatch(told[0]) if len(told) == 1 else None
    asked.source.principal = found[1] if found else ""
    return question


def response_of(answer: pb.CheckResponse) -> Response:
    """200 lets the call through; anything else is for the caller."""
    said = answer.dynamic_metadata.fields
    headers = {RULE: said["rule"].string_value} if "rule" in said else {}
    headers[DECISION] = said["decision_id"].string_value
    if answer.status.code == 0:
        return Response(status_code=200, headers=headers)
    denied = answer.denied_response
    return Response(
        denied.body, status_code=denied.status.code, headers=headers, media_type="application/json"
    )
