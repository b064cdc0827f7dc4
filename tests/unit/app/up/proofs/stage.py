"""A mesh in memory for proofs: it keeps every promise, unless a test replaces one of its answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast

import pytest
from cryptography import x509

from vestibule.app.up.dialling import Answer, NoAnswer, server_context
from vestibule.app.up.edges import Request, Route
from vestibule.app.up.proofs.proof import Disproved
from vestibule.app.up.proofs.scene import LiveEdge, Scene
from vestibule.intent import Intent, load_files
from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, X509Svid
from vestibule.testing import TestAuthority

PAYMENTS = b"""service: payments
ports: {http: {protocol: http}}
allow:
  - {id: charge, from: [orders], methods: [GET], paths: [/v1]}
"""
FILES = {
    "mesh.yaml": b"mesh: shop\ntrust_domain: example.org\nenvironment: prod\n",
    "services/orders.yaml": b"service: orders\nports: {http: {protocol: http}}\nallow: []\n",
    "services/payments.yaml": PAYMENTS,
    "services/reports.yaml": b"service: reports\nports: {http: {protocol: http}}\nallow: []\n",
}
ROUTE = Route("orders", "payments", "http")
EDGE = LiveEdge(ROUTE, Request("GET", "/v1"))
DENIED = Route("reports", "payments", "http")
ORDERS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/orders")
REPORTS = SpiffeId.parse("spiffe://example.org/ns/prod/sa/reports")
NOWHERE = Address(host="127.0.0.1", port=1)


def intent() -> Intent:
    loaded = load_files(FILES)
    assert loaded.intent is not None
    return loaded.intent


def answer(status: int, body: str = "") -> Answer:
    return Answer(status=status, headers={}, body=body.encode())


def refused(request_id: str | None) -> Answer:
    return answer(403, f'{{"error": "VST4001", "request_id": "{request_id}"}}')


def seen(**facts: Any) -> AccessRecord:
    record = AccessRecord(
        time=datetime.now(UTC),
        layer=Layer.HTTP,
        direction=Direction.INBOUND,
        verdict=Verdict.ALLOWED,
        reporter_service="payments",
        reporter_spiffe_id="",
        reporter_instance="",
        source_spiffe_id=str(ORDERS),
    )
    return replace(record, **facts)


@dataclass
class Operator:
    authority: TestAuthority
    ttls: list[int] = field(default_factory=list)

    async def mint(self, spiffe_id: SpiffeId) -> X509Svid:
        return self.authority.svid(spiffe_id)

    async def set_ttl(self, _: list[str], seconds: int) -> None:
        self.ttls.append(seconds)


@dataclass
class Stage:
    """A scene in memory.  It keeps every promise unless one of its answers is replaced."""

    authority: TestAuthority = field(default_factory=TestAuthority)
    edges: tuple[LiveEdge, ...] = (EDGE,)
    denied: tuple[Route, ...] = (DENIED,)
    silent: tuple[str, ...] = ()
    directory: Path = Path("/nonexistent")
    address: Address = NOWHERE
    log: list[AccessRecord] = field(default_factory=list)
    echo: str = ""

    def __post_init__(self) -> None:
        self.intent = intent()
        self.bundle = self.authority.bundle
        self.operator = Operator(self.authority)
        self.mesh: Any = SimpleNamespace(
            operator=self.operator, entry_ids={name: name for name in self.intent.services}, sidecars=[]
        )

    def host(self, route: Route) -> str:
        return route.callee

    def identity(self, service: str) -> SpiffeId:
        return self.intent.services[service].spiffe_id

    def egress(self, _: str) -> Address:
        return self.address

    def ingress(self, _: str, __: str) -> Address:
        return self.address

    async def call(self, route: Route, _: Request, request_id: str | None = None) -> Answer:
        if route == DENIED:
            return self.at_egress(request_id)
        self.log.append(self.noted(seen(request_id=request_id or "")))
        return answer(200, self.echo)

    async def ask_directly(
        self, _: Route, __: Request, svid: X509Svid | None, request_id: str | None = None
    ) -> Answer:
        if svid is None or svid.chain[0] in self.forged(svid):
            return self.to_forgers(request_id)
        if svid.spiffe_id != ORDERS:
            return self.to_strangers(svid.spiffe_id, request_id)
        return self.to_orders()

    def forged(self, svid: X509Svid) -> tuple[bytes, ...]:
        issuer = x509.load_der_x509_certificate(svid.chain[0]).issuer
        ours = x509.load_der_x509_certificate(self.authority.certificate).subject
        return () if issuer == ours else svid.chain

    async def record(
        self, wanted: Callable[[AccessRecord], bool], *, within: float = 0
    ) -> AccessRecord | None:
        return next((each for each in self.log if wanted(each)), None)

    # What a test replaces:

    def noted(self, record: AccessRecord) -> AccessRecord:
        return record

    def at_egress(self, request_id: str | None, /) -> Answer:
        return refused(request_id)

    def to_strangers(self, who: SpiffeId, request_id: str | None, /) -> Answer:
        self.log.append(seen(request_id=request_id, verdict=Verdict.DENIED, source_spiffe_id=str(who)))
        return refused(request_id)

    def to_forgers(self, request_id: str | None, /) -> Answer:
        raise NoAnswer("TLS: alert")

    def to_orders(self) -> Answer:
        return answer(200)


Attempt = Callable[[Scene], Awaitable[str]]


async def holds(attempt: Attempt, stage: Any) -> str:
    return await attempt(cast(Scene, stage))


async def fails(attempt: Attempt, stage: Any, why: str) -> None:
    with pytest.raises(Disproved, match=why):
        await attempt(cast(Scene, stage))


@contextmanager
def listening(reply: bytes, svid: X509Svid | None = None) -> Iterator[Address]:
    """A server that answers every connection with ``reply``, by TLS if it has an SVID."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_all() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                if svid is None:
                    _answer(connection, reply)
                else:
                    with server_context(svid).wrap_socket(connection, server_side=True) as tls:
                        _answer(tls, reply)

    thread = threading.Thread(target=serve_all, daemon=True)
    thread.start()
    try:
        yield Address(host="127.0.0.1", port=listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)


def _answer(connection: socket.socket, reply: bytes) -> None:
    connection.recv(1024)
    connection.sendall(reply)


class Entered:
    """Something that is entered and left without any effect."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


async def result(value: Any) -> Any:
    """A coroutine that has its result already."""
    return value
