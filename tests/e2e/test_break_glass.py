"""Break-glass on the real Envoy: it allows what it says, ends by Envoy's own clock, and every use of it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.e2e.mesh_lab import (
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

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.observe.access_record import AccessRecord, Verdict
from vestibule.policy import Effect
from vestibule.records import Emergency

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

    async def set(self, *emergencies: Emergency) -> None:
        self.lab.world = replace(self.lab.world, emergencies=emergencies)
        await self.lab.tell()

    async def ask(self, method: str = "GET", path: str = "/") -> int:
        """What orders is answered when it calls payments."""
        async with wire(self.orders.instance.egress) as connection:
            return (await connection.ask(method, path, host="http.payments")).status

    async def direct(self) -> Wire:
        """A caller with the identity of orders, beside its proxy."""
        tls = client_tls(self.lab.issue(spiffe_id("orders")), self.lab.directory)
        return await Wire.open(self.payments.instance.ingress["http"], tls)

    async def until_answered(self, status: int, method: str = "GET", path: str = "/") -> None:
        async with asyncio.timeout(10):
            while await self.ask(method, path) != status:
                await asyncio.sleep(0.02)

    async def talk(self) -> bytes:
        """What comes back of a TCP connection from orders; nothing if it is refused."""
        reader, writer = await asyncio.open_connection(self.upstream.host, self.upstream.port)
        try:
            writer.write(b"hello")
            async with asyncio.timeout(10):
                return await reader.read(100)
        except ConnectionError:
            return b""
        finally:
            writer.close()


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
        await connection.close()
        await mesh.payments.come_back()

        def told() -> list[dict[str, Any]]:
            printed = [json.loads(each) for each in mesh.payments.log.splitlines() if "/away/" in each]
            return printed if len(printed) >= 50 else []

        found = await until(told, "every use")
        assert sorted(each["path"] for each in found) == sorted(f"/away/{number}" for number in range(50))
        assert {(each["break_glass"], each["caller"]) for each in found} == {
            (emergency.rule, str(spiffe_id("orders")))
        }
        await mesh.set()

    mesh.run(story)


def test_it_ends_by_the_proxys_own_clock_without_a_push(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        await mesh.open(2.0, port="http")
        connection = await mesh.direct()
        async with asyncio.timeout(10):
            while (await connection.ask("GET", "/x")).status != 200:
                await asyncio.sleep(0.02)
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
        emergency = await mesh.open(3.0, port="raw")
        async with asyncio.timeout(10):
            while True:
                try:
                    if await mesh.talk() == b"payments:hello":
                        break
                except OSError:
                    pass
                await asyncio.sleep(0.02)
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
        async with asyncio.timeout(10):
            while await mesh.talk():
                await asyncio.sleep(0.05)
        assert datetime.now(UTC) >= emergency.expires_at
        writer.close()
        told = [each.source_address for each in uses(mesh.payments, emergency)]
        assert len(told) == len(set(told)), "each connection is one use"
        await mesh.set()

    mesh.run(story)


def test_no_proxy_refused_any_of_it(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        for proxy in mesh.lab.proxies.values():
            assert not proxy.refused

    mesh.run(story)
