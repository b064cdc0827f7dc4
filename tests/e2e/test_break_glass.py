"""Break-glass on the real Envoy: it allows what it says, ends by Envoy's own clock, and every use of it is told."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.e2e.mesh_lab import (
    PATIENCE,
    Echo,
    Lab,
    Proxy,
    Wire,
    client_tls,
    free_address,
    intent_of,
    rule,
    service,
    spiffe_id,
    until,
    wire,
)
from tests.e2e.shared_mesh import Shared
from tests.whole_lines import whole_lines

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.observe.access_record import AccessRecord, Verdict
from vestibule.policy import Effect
from vestibule.records import LONGEST_TOLD, Emergency

BOUND = PATIENCE
"""Seconds within which what was under way has ended: the drain time, 1 s here, and patience with a busy machine."""
DENIED = replace(rule("payments/never", "orders", paths="/admin/**", port="http"), effect=Effect.DENY)


class Mesh:
    """Orders, which no rule lets call payments, neither by HTTP nor by TCP."""

    def __init__(self) -> None:
        payments = replace(service("payments", http="http", raw="tcp"), deny=(DENIED,))
        self.lab = Lab(intent_of(payments, service("orders")))

    async def __aenter__(self) -> Mesh:
        await self.lab.__aenter__()
        self.echo = Echo("payments")
        await self.echo.start()
        self.lab.also(self.echo.stop)
        self.payments = await self.lab.add("payments")
        instance = self.payments.instance
        self.payments.instance = replace(instance, apps={**instance.apps, "raw": self.echo.address})
        self.upstream = free_address()
        self.lab.world = replace(self.lab.world, instances=(self.payments.instance,))
        self.orders = await self.lab.add("orders", upstreams={"payments/raw": self.upstream})
        await self.lab.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.lab.__aexit__()

    async def open(self, lasts: float = 3600, **other: Any) -> Emergency:
        """Open break-glass, pushed to everybody."""
        now = datetime.now(UTC)
        emergency = Emergency(
            id=f"id{len(self.lab.world.emergencies)}{now.microsecond}",
            callers=(str(spiffe_id("orders")),),
            service="payments",
            reason="a test",
            ticket="INC-1",
            approver="ann",
            opener="local:uid=0",
            opened_at=now,
            expires_at=now + timedelta(seconds=lasts),
        )
        emergency = replace(emergency, **other)
        await self.set(emergency)
        return emergency

    async def open_for_a_moment(self, is_open: Callable[[], Awaitable[bool]], **other: Any) -> Emergency:
        """One that is open and soon ends by itself; longer where that is too soon for the machine."""
        for lasts in (2.0, 6.0, 18.0):
            emergency = await self.open(lasts, **other)
            while datetime.now(UTC) < emergency.expires_at - timedelta(seconds=lasts / 4):
                if await is_open():
                    return emergency
                await asyncio.sleep(0.02)
        raise AssertionError("it does not open")

    async def set(self, *emergencies: Emergency) -> None:
        self.lab.world = replace(self.lab.world, emergencies=emergencies)
        await self.lab.tell()

    async def end(self, ended: Emergency) -> None:
        """It is closed, and the server says so."""
        left = tuple(each for each in self.lab.world.emergencies if each != ended)
        closed = replace(ended, closed_at=datetime.now(UTC), closed_by="local:uid=0")
        self.lab.world = replace(self.lab.world, emergencies=left, ended=(*self.lab.world.ended, closed))
        await self.lab.tell()

    async def ask(self, method: str = "GET", path: str = "/") -> int:
        """What orders is answered when it calls payments."""
        async with wire(self.orders.instance.egress) as connection:
            return (await connection.ask(method, path, host="http.payments")).status

    async def direct(self) -> Wire:
        """A caller with the identity of orders, beside its proxy."""
        return await Wire.open(self.payments.instance.ingress["http"], self.tls())

    def tls(self) -> ssl.SSLContext:
        """The identity of orders."""
        return client_tls(self.lab.issue(spiffe_id("orders")), self.lab.directory)

    async def is_asked(self) -> bool:
        """Whether a request is under way at payments."""
        return "rq_active: 1" in await self.payments.ask("/stats?filter=ingress.downstream_rq_active")

    async def until_answered(self, status: int, method: str = "GET", path: str = "/") -> None:
        async with asyncio.timeout(PATIENCE):
            while await self.ask(method, path) != status:
                await asyncio.sleep(0.02)

    async def talk(self) -> bytes:
        """What comes back of a TCP connection from orders; nothing if it is refused."""
        reader, writer = await asyncio.open_connection(self.upstream.host, self.upstream.port)
        try:
            writer.write(b"hello")
            async with asyncio.timeout(PATIENCE):
                return await reader.read(100)
        except ConnectionError:
            return b""
        finally:
            writer.close()


async def until_async(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Mesh]]:
    with Shared(Mesh) as shared:
        yield shared


def records(proxy: Proxy) -> list[tuple[AccessRecord, bool]]:
    """What the agent makes of what a proxy logged, and whether it is a use of break-glass."""
    reporter = Reporter("payments", str(spiffe_id("payments")), "payments-1")
    found = []
    for name, entry in proxy.requests:
        line = EntryLines(LogName.parse(name), reporter).http(entry)
        found.append((AccessRecord.from_json(line.text), line.by_break_glass))
    tcp = EntryLines(LogName.parse("vestibule/inbound/payments/raw"), reporter)
    for connection in filter(None, (tcp.connection(entry) for _, entry in proxy.connections)):
        found.append((AccessRecord.from_json(connection.text), connection.by_break_glass))
    return found


def uses(proxy: Proxy, emergency: Emergency) -> list[AccessRecord]:
    return [record for record, used in records(proxy) if used and record.rule == emergency.rule]


def test_it_allows_what_it_says_and_nothing_else(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        assert await mesh.ask() == 403
        await mesh.open(port="http", method="POST", path="/v1/refunds/**")
        await mesh.until_answered(200, "POST", "/v1/refunds/7")
        assert await mesh.ask("GET", "/v1/refunds/7") == 403
        assert await mesh.ask("POST", "/v1/charges") == 403
        await mesh.set()
        await mesh.until_answered(403, "POST", "/v1/refunds/7")

    mesh.run(story)


def test_what_a_rule_denies_stays_denied(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.open()
        await mesh.until_answered(200)
        assert await mesh.ask("GET", "/admin/users") == 403
        await mesh.set()

    mesh.run(story)


def test_every_single_use_is_logged_once_however_many_there_are(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        emergency = await mesh.open(port="http")
        await mesh.until_answered(200)
        before = len(mesh.lab.apps["payments"].seen)
        connection = await mesh.direct()
        # Many times what is logged of what rules allow.
        for number in range(400):
            assert (await connection.ask("GET", f"/{number}")).status == 200
        await connection.close()
        assert len(mesh.lab.apps["payments"].seen) == before + 400

        def told() -> list[str]:
            found = [each.path for each in uses(mesh.payments, emergency) if each.path != "/"]
            return found if len(found) >= 400 else []

        assert sorted(await until(told, "every use")) == sorted(f"/{number}" for number in range(400))
        paths = [each.path for each, _ in records(mesh.payments) if each.path == "/399"]
        assert len(paths) == 1, "no use is logged twice"
        await mesh.set()

    mesh.run(story)


def test_uses_while_the_agent_is_away_are_in_the_proxys_own_output(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        emergency = await mesh.open(port="http")
        await mesh.until_answered(200)
        connection = await mesh.direct()
        await mesh.payments.leave()
        for number in range(50):
            assert (await connection.ask("GET", f"/away/{number}?secret=1")).status == 200
        long = {"x__request__id": "i" * 3000}
        assert (await connection.ask("GET", "/away/" + "%22" * 2000, **long)).status == 200
        await connection.close()
        await mesh.payments.come_back()

        def told() -> list[dict[str, Any]]:
            printed = [json.loads(each) for each in whole_lines(mesh.payments.log) if "/away/" in each]
            return printed if len(printed) >= 51 else []

        found = await until(told, "every use")
        (cut,) = [each for each in found if "%22" in each["path"]]
        found.remove(cut)
        assert (len(cut["path"]), len(cut["request_id"])) == (LONGEST_TOLD, 100)
        assert sorted(each["path"] for each in found) == sorted(f"/away/{number}" for number in range(50))
        assert {(each["break_glass"], each["caller"]) for each in found} == {
            (emergency.rule, str(spiffe_id("orders")))
        }
        await mesh.set()

    mesh.run(story)


def test_it_ends_by_the_proxys_own_clock_without_a_push(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        connection = await mesh.direct()

        async def is_open() -> bool:
            return (await connection.ask("GET", "/x")).status == 200

        await mesh.open_for_a_moment(is_open, port="http")
        async with asyncio.timeout(PATIENCE):
            # Nothing is told to the proxy from here on, and the connection stays open.
            while (await connection.ask("GET", "/x")).status == 200:
                await asyncio.sleep(0.02)
        assert datetime.now(UTC) >= mesh.lab.world.emergencies[0].expires_at
        assert (await connection.ask("GET", "/x")).status == 403
        await connection.close()
        await mesh.set()

    mesh.run(story)


def test_it_is_for_tcp_too_where_a_use_is_told_while_the_connection_lasts(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        async def is_open() -> bool:
            with suppress(OSError):
                return await mesh.talk() == b"payments:hello"
            return False

        emergency = await mesh.open_for_a_moment(is_open, port="raw")
        reader, writer = await asyncio.open_connection(mesh.upstream.host, mesh.upstream.port)
        seen = len(uses(mesh.payments, emergency))
        writer.write(b"still here")
        assert await reader.read(100) == b"payments:still here"
        found = await until(
            lambda: uses(mesh.payments, emergency)[seen:], "a use of a connection that is open"
        )
        assert found[-1].destination_port == "raw"
        assert found[-1].source_spiffe_id == str(spiffe_id("orders"))
        assert found[-1].verdict is Verdict.ALLOWED
        async with asyncio.timeout(PATIENCE):
            while await mesh.talk():
                await asyncio.sleep(0.05)
        assert datetime.now(UTC) >= emergency.expires_at
        writer.close()
        told = [each.source_address for each in uses(mesh.payments, emergency)]
        assert len(told) == len(set(told)), "each connection is one use"
        await mesh.set()

    mesh.run(story)


def test_its_end_cuts_what_is_under_way_on_its_port_and_nothing_elsewhere(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        tcp = await mesh.open(port="raw")
        http = replace(tcp, id="http", port="http")
        await mesh.set(tcp, http)
        await mesh.until_answered(200)
        place, tls = mesh.payments.instance.ingress["raw"], mesh.tls()
        async with asyncio.timeout(PATIENCE):
            while True:
                reader, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
                writer.write(b"x")
                with suppress(ConnectionError):
                    if await reader.read(100) == b"payments:x":
                        break
        connection = await mesh.direct()
        assert (await connection.ask("GET", "/")).status == 200
        await mesh.end(tcp)
        async with asyncio.timeout(BOUND):
            assert await reader.read(1) == b""
        writer.close()
        assert (await connection.ask("GET", "/")).status == 200
        # A body that never ends.
        asking = asyncio.create_task(connection.ask("POST", "/", content__length="10"))
        await until_async(mesh.is_asked)
        await mesh.end(http)
        async with asyncio.timeout(BOUND):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await asking
        await connection.close()
        assert await mesh.ask() == 403

    mesh.run(story)


def test_no_proxy_refused_any_of_it(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        for proxy in mesh.lab.proxies.values():
            assert not proxy.refused

    mesh.run(story)
