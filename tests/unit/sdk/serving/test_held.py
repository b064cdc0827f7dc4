"""A held connection is asked to end in three steps."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.sdk.codes import CONNECTION_ENDED
from vestibule.sdk.connections import Connection
from vestibule.sdk.serving.held import Held
from vestibule.sdk.serving.identified import Identified
from vestibule.spiffe import SpiffeId
from vestibule.testing import TestAuthority

AUTHORITY = TestAuthority("example.org")
ORDERS = AUTHORITY.svid("/orders")
PAYMENTS = AUTHORITY.svid("/payments")


class Watch:
    retired = False
    over = False

    def forget(self) -> None:
        self.over = True


@dataclass
class Book:
    """A source whose book calls nobody by itself."""

    made: Watch = field(default_factory=Watch)
    retire: Any = None
    cut: Any = None

    @property
    def connections(self) -> Book:
        return self

    def watch(self, _connection: Connection, *, retire: Any, cut: Any, lifetimes: Any) -> Watch:
        self.retire, self.cut = retire, cut
        return self.made


class Tls:
    """What a handshake left."""

    def __init__(self, left: timedelta) -> None:
        now = datetime.now(UTC)
        self.settled = Connection(
            peer=ORDERS.spiffe_id,
            own=PAYMENTS.spiffe_id,
            made=now,
            ends=now + left,
            chain=ORDERS.chain,
            own_chain=PAYMENTS.chain,
        )

    def cipher(self) -> tuple[str, str, int]:
        return ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)


class Owner:
    def __init__(self) -> None:
        self.steps: list[str] = []

    def retire(self) -> None:
        self.steps.append("retire")

    def press(self) -> None:
        self.steps.append("press")

    def cut(self, reason: VestibuleError) -> None:
        self.steps.append(f"cut {reason.code.code}")


@dataclass
class Scene:
    book: Book
    owner: Owner
    held: Held
    tls: Tls


def scene(left: timedelta = timedelta(hours=1)) -> Scene:
    book, owner, tls = Book(), Owner(), Tls(left)
    held = Held(book, tls, owner, None)  # type: ignore[arg-type]
    return Scene(book, owner, held, tls)


async def test_first_it_is_told_then_pressed_then_cut() -> None:
    it = scene(left=timedelta(seconds=0.02))
    assert it.owner.steps == []
    it.book.retire(it.held.connection)
    assert it.held.retired
    assert it.held.retiring.is_set()
    async with asyncio.timeout(60):
        while len(it.owner.steps) < 2:
            await asyncio.sleep(0.01)
    it.book.cut(it.held.connection, CONNECTION_ENDED.error("over"))
    assert it.owner.steps == ["retire", "press", "cut VST2411"]
    assert it.book.made.over


async def test_what_is_closed_in_time_is_not_pressed() -> None:
    it = scene(left=timedelta(seconds=0.02))
    it.book.retire(it.held.connection)
    it.held.release()
    it.held.release()
    assert it.held._pressing is None
    assert it.owner.steps == ["retire"]
    assert it.book.made.over


async def test_a_server_that_stops_tells_once() -> None:
    it = scene()
    it.held.retire()
    it.held.retire()
    assert it.owner.steps == ["retire"]


async def test_a_connection_of_another_context_is_not_held() -> None:
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    plain.check_hostname = False
    tls = plain.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    with pytest.raises(VestibuleError, match="VST2405"):
        Held(Book(), tls, Owner(), None)  # type: ignore[arg-type]


async def told(it: Scene, scope: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """What an app sees in its scope, and what it sends goes out as."""
    seen: dict[str, Any] = {}
    sent: list[Any] = []

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        seen.update(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await Identified(app, it.held)(scope, receive, send)
    return seen, sent


async def test_the_scope_says_who_calls_whatever_it_said_before() -> None:
    forged = {"vestibule": {"spiffe_id": "spiffe://example.org/admin"}, "http.response.push": {}}
    seen, _ = await told(scene(), {"type": "http", "http_version": "1.1", "extensions": forged})
    assert SpiffeId.parse(seen["extensions"]["vestibule"]["spiffe_id"]) == ORDERS.spiffe_id
    assert seen["extensions"]["http.response.push"] == {}
    tls = seen["extensions"]["tls"]
    assert (tls["tls_version"], tls["cipher_suite"]) == (0x0304, 0x1302)
    assert len(tls["client_cert_chain"]) == len(ORDERS.chain)


async def test_what_one_request_does_to_its_scope_is_not_seen_by_the_next() -> None:
    it = scene()
    first, _ = await told(it, {"type": "http", "http_version": "1.1"})
    first["extensions"]["vestibule"]["spiffe_id"] = "spiffe://example.org/admin"
    first["extensions"]["tls"].clear()
    second, _ = await told(it, {"type": "http", "http_version": "1.1"})
    assert second["extensions"]["vestibule"]["spiffe_id"] == str(ORDERS.spiffe_id)
    assert second["extensions"]["tls"]["tls_version"] == 0x0304


@pytest.mark.parametrize(("version", "closes"), [("1.1", True), ("1.0", True), ("2", False)])
async def test_a_retired_connection_says_so_where_the_protocol_has_a_header_for_it(
    version: str, closes: bool
) -> None:
    it = scene()
    _, before = await told(it, {"type": "http", "http_version": version})
    it.held.retire()
    _, after = await told(it, {"type": "http", "http_version": version})
    assert before[0]["headers"] == [(b"a", b"b")]
    assert ((b"connection", b"close") in after[0]["headers"]) is closes
