"""``/crl/AUTHORITY-ID.crl``: certificate revocation lists over plain HTTP (RFC 5280, section 4.2.1.13).

A list is signed, and the same for everybody: whoever fetches it verifies it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vestibule.errors import VestibuleError
from vestibule.records import PublishedCrl

MAX_AGE: Final = 300
"""Seconds that caches may keep a list, which itself is valid for much longer: revocations should be seen soon."""


def crl_route(crl_of: Callable[[str], PublishedCrl]) -> Route:
    """The page; ``crl_of`` gives an authority's newest list, or raises."""

    async def page(request: Request) -> Response:
        try:
            crl = crl_of(request.path_params["authority_id"])
        except VestibuleError as error:
            return PlainTextResponse(f"{error.code.code} {error.message}\n", status_code=404)
        headers = {"cache-control": f"public, max-age={MAX_AGE}", "x-content-type-options": "nosniff"}
        return Response(crl.der, media_type="application/pkix-crl", headers=headers)

    return Route("/crl/{authority_id:str}.crl", page)
