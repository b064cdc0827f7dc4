"""OpenID Connect discovery: what clouds and Vault need to verify our JWT-SVIDs like any provider's tokens.

Two public pages, the same for everybody, without secrets: ``/.well-known/openid-configuration`` and ``/keys``, both
below the issuer's path.  The issuer is a setting; what a caller says (``Host``, ``X-Forwarded-…``) is not looked at.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vestibule.doors.codes import OIDC_CERTIFICATE
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import to_oidc_jwks
from vestibule.spiffe import TrustBundle

MAX_AGE: Final = 300
"""Seconds that the pages may be kept at most; the keys no longer than the bundle's refresh hint, which leaves five
looks between the publication of a key and its first signature."""
LOOK_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


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


class CertificateFiles:
    """A TLS context from two files, which are read again when they change."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises: VST2202 when they cannot be used."""
        self._files = (certificate, key)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._state()
        self._load()

    async def run(self) -> None:
        """Look at the files from time to time; those that cannot be used are reported, and the old ones stay."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.refresh()

    def refresh(self) -> None:
        """Read the files if they have changed; handshakes from now on use them."""
        try:
            if (seen := self._state()) != self._seen:
                self._seen = seen
                self._load()
                _log.info("the certificate of the discovery pages was read again")
        except VestibuleError as error:
            _log.error("%s; the one before stays in use", error)

    def _state(self) -> tuple[tuple[int, int], ...]:
        try:
            return tuple((each.stat().st_mtime_ns, each.stat().st_ino) for each in self._files)
        except OSError as error:
            raise OIDC_CERTIFICATE.error(f"{error.filename} cannot be read: {error.strerror}") from error

    def _load(self) -> None:
        certificate, key = self._files
        try:
            # On a context of its own first: a pair that does not fit must not spoil the one in use.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, _no_password)
            self.context.load_cert_chain(certificate, key, _no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise OIDC_CERTIFICATE.error(f"{certificate} and {key} cannot be used: {error}") from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")
