"""The platform's Envoy in front of the real token service, with storage in memory and rules by a table.

Beside it stands another service, so that nothing of the one is taken for the other.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.e2e.front_lab import standing, tls_of
from tests.e2e.mesh_lab import DOMAIN, ENVOY, PATIENCE, free_address, spiffe_id
from tests.e2e.shared_mesh import SharedHere

from vestibule.app.platform_front import Front, FrontPlan, House
from vestibule.clock import SystemClock
from vestibule.doors.oauth.app import OAuthApp
from vestibule.doors.oauth.clients import Clients
from vestibule.doors.oauth.metadata import Metadata
from vestibule.doors.oauth.records import Records
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.platform.sds import Credentials
from vestibule.envoy.platform import OAUTH_REPLIES, VAULT_REPLIES
from vestibule.spiffe import Revocations, SpiffeId, X509Svid
from vestibule.testing import TestAuthority
from vestibule.testing.tokens import ISSUER, MemoryTokens

TOKENS = SpiffeId.of(DOMAIN, "/vestibule/tokens")
SECRETS = SpiffeId.of(DOMAIN, "/vestibule/secrets")


async def elsewhere(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """The other service: it tells the path, and nothing else."""
    del receive
    body = f"elsewhere {scope['path']}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@dataclass
class TokenRoom:
    """One front, with everything that stands behind it at hand."""

    front: Front
    address: str
    open_address: str
    other: str
    authority: TestAuthority
    tokens: MemoryTokens
    revocations: list[Revocations]
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    def svid(self, service: str) -> X509Svid:
        return self.authority.svid(spiffe_id(service))

    def client(
        self, svid: X509Svid | None, *, at: str = "", http2: bool = False, **more: Any
    ) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            base_url=f"https://{at or self.address}",
            verify=tls_of(svid, self.authority),
            http2=http2,
            timeout=PATIENCE,
            **more,
        )
        self._clients.append(made)
        return made

    async def close(self) -> None:
        for each in self._clients:
            await each.aclose()


@asynccontextmanager
async def opened(authority: TestAuthority | None = None) -> AsyncIterator[TokenRoom]:
    """The service has keys; nobody may have anything yet."""
    authority = authority or TestAuthority(DOMAIN)
    tokens, revocations = MemoryTokens(), [Revocations()]
    await tokens.service.start()
    listen, open_listen, other = free_address(), free_address(), free_address()
    bundle = authority.jwt_bundle
    certificates = Certificates(lambda: bundle, lambda: revocations[0], SystemClock())
    clients = Clients(
        certificates.presented,
        ISSUER,
        {DOMAIN: bundle}.get,
        lambda: revocations[0],
        tokens.service.once,
        SystemClock(),
    )
    app = OAuthApp(
        tokens.service,
        clients,
        Metadata(ISSUER, [str(listen), str(open_listen)]),
        Records(tokens.audit, lambda _text: "hash"),
    )
    houses = [
        House(name="secrets", listen=other, app=elsewhere, replies=VAULT_REPLIES, custom_methods=True),
        House(name="tokens", listen=listen, app=app, replies=OAUTH_REPLIES, open_listen=open_listen),
    ]

    async def credentials() -> AsyncIterator[Credentials]:
        yield Credentials(
            {
                "secrets": authority.svid(SECRETS),
                "tokens": authority.svid(TOKENS, dns_names=["localhost"]),
            },
            bundle,
        )
        await asyncio.Event().wait()

    with tempfile.TemporaryDirectory(prefix="vestibule-oauth-") as directory:
        plan = FrontPlan(
            trust_domain=DOMAIN,
            directory=Path(directory, "p"),
            binary=Path(str(ENVOY)),
            log=Path(directory, "envoy.log"),
            svid_seconds=3600,
            drain=0.5,
        )
        front = Front(plan, houses, credentials)
        room = TokenRoom(
            front=front,
            address=str(listen),
            open_address=str(open_listen),
            other=str(other),
            authority=authority,
            tokens=tokens,
            revocations=revocations,
        )
        async with standing(front):
            try:
                yield room
            finally:
                await room.close()


class SharedTokens(SharedHere[TokenRoom]):
    """One front for all tests of a module."""

    def __init__(self) -> None:
        super().__init__(opened)
