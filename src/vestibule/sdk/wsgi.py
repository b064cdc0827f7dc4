"""Who calls, for WSGI apps (Flask, Django, Falcon) that the SDK's gunicorn worker serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vestibule.sdk.jwt_wsgi import JwtSvids, jwt_svid_of
from vestibule.sdk.serving.codes import NO_CALLER
from vestibule.spiffe import SpiffeId

__all__ = ["KEY", "JwtSvids", "caller", "jwt_svid_of"]

KEY: Final = "vestibule.spiffe_id"
"""Of the environ.  What headers say has names that begin with ``HTTP_``, so that none can be taken for it."""


def caller(environ: Mapping[str, Any]) -> SpiffeId:
    """The verified SPIFFE ID of whoever made this request (``request.environ``, ``request.META``).

    Raises: VST2440 where no server of the SDK stands before the app.
    """
    found = environ.get(KEY)
    if not found:
        raise NO_CALLER.error("the WSGI environ does not say who calls")
    return SpiffeId.parse(found)
