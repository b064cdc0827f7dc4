"""The token service's door over the real service, with everything in memory; callers say who they are by a header."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.audit import AuditEvent
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.doors.oauth.app import OAuthApp
from vestibule.doors.oauth.clients import Clients
from vestibule.doors.oauth.metadata import Metadata
from vestibule.doors.oauth.records import Records
from vestibule.doors.platform.certificates import Presented
from vestibule.doors.platform.codes import NO_CALLER
from vestibule.pki.jwk import decode_base64url
from vestibule.pki.jwt import UnsignedJwt, svid_claims
from vestibule.spiffe import Revocations, SpiffeId
from vestibule.testing import TestAuthority
from vestibule.testing.tokens import ISSUER, TRUST_DOMAIN, MemoryTokens, spiffe_id

MINUTES = timedelta(minutes=5)
HOSTS = ("tokens.example.org:8300", "localhost:8301")


class OAuthLab:
    """``ask`` as a service with a certificate, or as nobody."""

    def __init__(self, **settings: Any) -> None:
        self.tokens = MemoryTokens(**settings)
        self.authority = TestAuthority(TRUST_DOMAIN)
        self.revoked: set[SpiffeId] = set()
        self.events: list[AuditEvent] = []
        self.counted: list[tuple[str, str]] = []
        self.full = False
        self.clients = Clients(
            self._presented,
            ISSUER,
            {TRUST_DOMAIN: self.authority.jwt_bundle}.get,
            Revocations,
            self.tokens.service.once,
            self.tokens.clock,
        )
        records = Records(self, lambda text: sha256(text.encode()).hexdigest())
        self.app = OAuthApp(self.tokens.service, self.clients, Metadata(ISSUER, HOSTS), records, self._count)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app, raise_app_exceptions=True), base_url="http://tokens"
        )

    async def ready(self) -> OAuthLab:
        """With keys."""
        await self.tokens.service.start()
        return self

    async def ask(
        self,
        path: str,
        form: Mapping[str, Any] | str | None = None,
        *,
        as_: str | None = "web",
        method: str = "POST",
        **headers: str,
    ) -> httpx.Response:
        """``headers`` by their names with underscores."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        if as_ is not None:
            said.setdefault("x-forwarded-client-cert", str(spiffe_id(as_)))
        if isinstance(form, str):
            said.setdefault("content-type", "application/x-www-form-urlencoded")
            return await self._http.request(method, path, content=form, headers=said)
        return await self._http.request(method, path, data=form, headers=said)

    async def token(self, form: Mapping[str, Any] | str, **more: Any) -> httpx.Response:
        return await self.ask("/oauth2/token", form, **more)

    def assertion(self, service: str, *audience: str, **claims: Any) -> str:
        """A JWT-SVID of a service, for the issuer unless others are named, with ``claims`` more."""
        authority, now = self.authority, self.tokens.clock.now()
        usual = svid_claims(spiffe_id(service), audience or (ISSUER,), now, MINUTES, now + MINUTES)
        unsigned = UnsignedJwt(key_id=authority.jwt_authority.key_id, claims={**usual, **claims})
        return unsigned.signed(authority.jwt_key.sign(unsigned.signing_input, ECDSA(SHA256())))

    def _presented(self, header: bytes) -> Presented:
        found = SpiffeId.parse(header.decode())
        if found in self.revoked:
            raise NO_CALLER.error("the certificate does not count: it is revoked")
        return Presented(found, sha256(header).digest())

    def _count(self, verb: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append((verb, outcome))

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.full:
            raise AUDIT_UNAVAILABLE.error("the disk is full")
        self.events += events


def claims_of(token: str) -> dict[str, Any]:
    """What a token says; nothing is verified."""
    found: dict[str, Any] = json.loads(decode_base64url(token.split(".")[1]))
    return found
