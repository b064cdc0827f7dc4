"""OpenID Connect discovery: what clouds and Vault need to verify our JWT-SVIDs like any provider's tokens.

Two public pages, the same for everybody, without secrets: ``/.well-known/openid-configuration`` and ``/keys``, both
below the issuer's path.  The issuer is a setting; what a caller says (``Host``, ``X-Forwarded-…``) is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vestibule.pki.bundles import to_oidc_jwks
from vestibule.spiffe import TrustBundle

MAX_AGE: Final = 300
"""Seconds that the pages may be kept at most; the keys no longer than the bundle's refresh hint, which leaves five
looks between the publication of a key and its first signature."""


def discovery(issuer: str) -> dict[str, object]:
    """The provider's document (OpenID Connect Discovery, section 3), as far as there is something to say.

    Nobody logs in here, so the required ``authorization_endpoint`` is empty, as in SPIRE's provider.
    """
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/keys",
        "authorization_endpoint": "",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "ES256", "ES384"],
    }


def oidc_app(issuer: str, bundle: Callable[[], TrustBundle], others: Sequence[Route] = ()) -> Starlette:
    """The two pages of ``issuer``, an https URL without a slash at its end, and ``others``."""

    async def configuration(_request: Request) -> Response:
        return _page(discovery(issuer), MAX_AGE)

    async def keys(_request: Request) -> Response:
        now = bundle()
        return _page(to_oidc_jwks(now), min(MAX_AGE, now.refresh_hint or MAX_AGE))

    path = urlsplit(issuer).path
    routes = [
        Route(f"{path}/.well-known/openid-configuration", configuration),
        Route(f"{path}/keys", keys),
        *others,
    ]
    return Starlette(routes=routes)


def _page(document: object, max_age: int) -> Response:
    headers = {"cache-control": f"public, max-age={max_age}", "x-content-type-options": "nosniff"}
    return JSONResponse(document, headers=headers)
