"""``/live``, ``/ready`` and ``/metrics`` over plain HTTP, for probes and scrapers.

The answers name subsystems and their state, no identities and no secrets; bind it where probes can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vestibule.errors import VestibuleError
from vestibule.telemetry.metrics import Metrics

Check = Callable[[], Awaitable[str | None]]
"""Looks at one subsystem: ``None`` when it is well, else what is wrong."""

_log = logging.getLogger(__name__)


def health_app(checks: Mapping[str, Check], metrics: Metrics, others: Sequence[Route] = ()) -> Starlette:
    """The three pages, and ``others``.

    ``/live`` says that the process answers, ``/ready`` that every check is content.
    """

    async def live(_request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_request: Request) -> Response:
        problems = {name: await _problem(check) for name, check in checks.items()}
        well = not any(problems.values())
        body = {"ready": well, "checks": {name: problem or "ok" for name, problem in problems.items()}}
        return JSONResponse(body, status_code=200 if well else 503)

    async def scrape(_request: Request) -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    return Starlette(
        routes=[Route("/live", live), Route("/ready", ready), Route("/metrics", scrape), *others]
    )


async def _problem(check: Check) -> str | None:
    try:
        async with asyncio.timeout(5):
            return await check()
    except VestibuleError as error:
        return str(error)
    except TimeoutError:
        return "no answer within 5 seconds"


class HealthServer:
    """Serves the pages on a socket that is already bound, until its task is cancelled; over TLS, if given."""

    def __init__(self, app: Starlette, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", http="h11", ws="none", server_header=False
        )
        config.load()
        config.ssl = tls
        self._server = _Quiet(config)
        self._sock = sock

    async def run(self) -> None:
        """Serve."""
        serving = asyncio.create_task(self._server.serve([self._sock]), name="health-http")
        try:
            await asyncio.shield(serving)
        finally:
            self._server.should_exit = True
            self._server.force_exit = True
            await asyncio.wait([serving], timeout=5)


class _Quiet(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the business of the process, not of one of its doors."""
        yield
