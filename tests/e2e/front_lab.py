"""The platform's Envoy in front of Vault's API, over doubles of the engines: a door without a house behind it."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.e2e.mesh_lab import DOMAIN, ENVOY, PATIENCE, free_address, spiffe_id, until
from tests.e2e.shared_mesh import SharedHere

from vestibule.app.platform_front import Front, FrontPlan, House
from vestibule.audit import AuditEvent
from vestibule.clock import SystemClock
from vestibule.doors.platform.certificates import Certificates
from vestibule.doors.platform.sds import Credentials
from vestibule.doors.vault.app import VaultApp
from vestibule.doors.vault.auth import AuthBackend
from vestibule.doors.vault.callers import Callers
from vestibule.doors.vault.operations import Answer, Backend, Operation, VaultRequest
from vestibule.doors.vault.pipeline import Pipeline, Wrap
from vestibule.envoy.platform import VAULT_REPLIES
from vestibule.errors import VestibuleError
from vestibule.net.tls import load_svid
from vestibule.secrets.client_tokens import ClientTokens
from vestibule.secrets.ports import Access, Verb
from vestibule.spiffe import Revocations, SpiffeId, X509Svid
from vestibule.testing import TestAuthority
from vestibule.testing.barrier import MemoryBarrier, TableAccess

SECRETS = SpiffeId.of(DOMAIN, "/vestibule/secrets")
VERBS = {"GET": Verb.READ, "LIST": Verb.LIST, "POST": Verb.WRITE, "PATCH": Verb.WRITE, "DELETE": Verb.WRITE}


class Notes:
    """An audit log in memory, which can be made to fail."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.failure: VestibuleError | None = None

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.failure is not None:
            raise self.failure
        self.events += events


class Shelf:
    """``secret/…``: keeps what is posted under its path, and tells who asked."""

    def __init__(self) -> None:
        self.kept: dict[str, Mapping[str, Any]] = {"secret/own": {"password": "swordfish"}}

    def operation(self, request: VaultRequest) -> Operation | None:
        async def run() -> Answer:
            if request.method == "LIST":
                return Answer(data={"keys": sorted(self.kept)})
            if request.method == "POST":
                self.kept[request.path] = request.body
                return Answer()
            found = self.kept.get(request.path)
            return Answer(status=404, top={"errors": []}) if found is None else Answer(data=found)

        return Operation(
            verb=VERBS[request.method], resource=request.path, run=run, changes=request.method == "POST"
        )


@dataclass
class Room:
    """One front, with everything that stands behind it at hand."""

    front: Front
    address: str
    for_tokens: str
    authority: TestAuthority
    access: TableAccess
    notes: Notes
    shelf: Shelf
    revocations: list[Revocations]
    current: Credentials
    changed: asyncio.Condition
    _clients: list[httpx.AsyncClient] = field(default_factory=list)

    def svid(self, service: str) -> X509Svid:
        return self.authority.svid(spiffe_id(service))

    def allow(self, service: str, verb: Verb, path: str, rule: str = "own/rule") -> None:
        self.access.rules[spiffe_id(service), verb, path] = rule

    def token_client(self, token: str = "", *, http2: bool = False) -> httpx.AsyncClient:
        """Without certificate, at the port that asks for none."""
        made = httpx.AsyncClient(
            base_url=f"https://{self.for_tokens}",
            verify=tls_of(None, self.authority),
            headers={"x-vault-token": token} if token else {},
            http2=http2,
            timeout=PATIENCE,
        )
        self._clients.append(made)
        return made

    def client(self, svid: X509Svid | None, *, http2: bool = False) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            base_url=f"https://{self.address}",
            verify=tls_of(svid, self.authority),
            http2=http2,
            timeout=PATIENCE,
        )
        self._clients.append(made)
        return made

    async def rotate(self, credentials: Credentials) -> None:
        async with self.changed:
            self.current = credentials
            self.changed.notify_all()

    async def credentials(self) -> AsyncIterator[Credentials]:
        given = None
        while True:
            async with self.changed:
                if given is self.current:
                    await self.changed.wait()
                given = self.current
            yield given

    async def close(self) -> None:
        for each in self._clients:
            await each.aclose()


def tls_of(svid: X509Svid | None, authority: TestAuthority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=authority.certificate)
    if svid is not None:
        load_svid(context, svid)
    return context


@asynccontextmanager
async def standing(front: Front) -> AsyncIterator[None]:
    """Its Envoy is ready, and is stopped at the end."""
    with front:
        running = asyncio.create_task(front.run())
        try:
            await until(lambda: front.envoy.is_ready or running.done(), "ready")
            yield
        finally:
            await front.stop()
            await running


@asynccontextmanager
async def opened(
    authority: TestAuthority | None = None,
    backends: Mapping[str, Backend] | None = None,
    rules: Access | None = None,
    wrap: Wrap | None = None,
    tokens: ClientTokens | None = None,
    web: tuple[bytes, bytes] | None = None,
) -> AsyncIterator[Room]:
    """``rules`` in the place of the table, ``backends`` in that of the shelf, for tests that need real ones.

    ``web`` is shown to clients with tokens, in the place of the SVID.
    """
    authority = authority or TestAuthority(DOMAIN)
    notes, shelf, access = Notes(), Shelf(), TableAccess({})
    bundle = authority.bundle
    revocations = [Revocations()]
    certificates = Certificates(lambda: bundle, lambda: revocations[0], SystemClock())
    usual: dict[str, Backend] = {"secret": shelf}
    if tokens is not None:
        usual["auth"] = AuthBackend(tokens, SystemClock())
    pipeline = Pipeline(
        backends or usual, rules or access, notes, is_operator=lambda _request: False, wrap=wrap
    )
    callers = None
    if tokens is not None:
        jwt_bundles = {DOMAIN: authority.jwt_bundle}
        callers = Callers(tokens, jwt_bundles.get, str(SECRETS), SystemClock(), lambda: revocations[0])
    app = VaultApp(pipeline.answer, certificates.caller_of, callers)
    listen, token_listen = free_address(), free_address()
    with tempfile.TemporaryDirectory(prefix="vestibule-front-") as directory:
        plan = FrontPlan(
            trust_domain=DOMAIN,
            directory=Path(directory, "p"),
            binary=Path(str(ENVOY)),
            log=Path(directory, "envoy.log"),
            svid_seconds=3600,
            drain=0.5,
        )
        house = House(
            name="secrets",
            listen=listen,
            app=app,
            replies=VAULT_REPLIES,
            open_listen=token_listen,
            web=web is not None,
            custom_methods=True,
        )
        front = Front(plan, [house], lambda: room.credentials())
        room = Room(
            front=front,
            address=str(listen),
            for_tokens=str(token_listen),
            authority=authority,
            access=access,
            notes=notes,
            shelf=shelf,
            revocations=revocations,
            current=Credentials(
                {"secrets": authority.svid(SECRETS, dns_names=["localhost"])},
                bundle,
                {} if web is None else {"secrets": web},
            ),
            changed=asyncio.Condition(),
        )
        async with standing(front):
            try:
                yield room
            finally:
                await room.close()


class Shared(SharedHere[Room]):
    """One front for all tests of a module."""

    def __init__(self) -> None:
        super().__init__(lambda: opened(tokens=ClientTokens(MemoryBarrier(), SystemClock())))
