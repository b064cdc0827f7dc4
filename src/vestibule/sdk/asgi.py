"""Who calls, for ASGI apps (Starlette, FastAPI, Django, Quart) that the SDK's servers serve.

::

    @app.get("/orders")
    async def orders(request: Request) -> ...:
        caller = vestibule.sdk.asgi.caller(request.scope)

The scope has it twice: ``scope["extensions"]["vestibule"]["spiffe_id"]``, and everything about the connection as the
TLS extension of ASGI says (``scope["extensions"]["tls"]``).  Neither can come from a header.

Where something in between ends TLS, callers show tokens instead: ``JwtSvids`` is the middleware for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from vestibule.sdk.jwt_asgi import JwtSvids, current_jwt_svid, jwt_svid_of
from vestibule.sdk.serving.codes import NO_CALLER
from vestibule.spiffe import SpiffeId

__all__ = ["EXTENSION", "JwtSvids", "caller", "current_jwt_svid", "jwt_svid_of", "retiring"]

EXTENSION: Final = "vestibule"
"""Of ``scope["extensions"]``: ``{"spiffe_id": "spiffe://…"}``."""


def caller(scope: Mapping[str, Any]) -> SpiffeId:
    """The verified SPIFFE ID of whoever made this request (``request.scope``, ``websocket.scope``).

    Raises: VST2440 where no server of the SDK stands before the app.
    """
    return SpiffeId.parse(_told(scope)["spiffe_id"])


def retiring(scope: Mapping[str, Any]) -> asyncio.Event:
    """Is set when the connection of this request should end soon, because its certificates do, or the server stops.

    For answers and WebSockets that last: end them then in a way that lets the other side come again; after half of the
    time that is left the server does, and at the end of the certificates the connection is cut.
    Raises: VST2440 where no server of the SDK stands before the app.
    """
    event: asyncio.Event = _told(scope)["retiring"]
    return event


def _told(scope: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = (scope.get("extensions") or {}).get(EXTENSION)
    if not found:
        raise NO_CALLER.error("the ASGI scope does not say who calls")
    return found
