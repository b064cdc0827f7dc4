"""Sidecars without a control plane, with real Envoys and certificates from an agent; and their way into the mesh."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tests.e2e.lone_lab import Sidecar, Stage, command, get, identity, ports, staged, until
from tests.e2e.outside_lab import Outsider, PublicAuthority

pytestmark = pytest.mark.timeout(300)


@dataclass
class Pair:
    """Ledger and orders, who calls it; their addresses."""

    stage: Stage
    ledger_app: int
    ledger_http: int
    ledger_raw: int
    raw_app: int
    orders_out: int
    ledger_out: int
    raw_upstream: int
    outside: Outsider
    authority: Path

    def ledger(self, paths: str = "/v1/**") -> str:
        return f"""
        service: ledger
        identity: {identity("ledger")}
        ports:
          http: {{app: {self.ledger_app}, protocol: http, listen: {self.ledger_http}}}
          raw: {{app: {self.raw_app}, protocol: tcp, listen: '127.0.0.1:{self.ledger_raw}'}}
        egress_port: {self.ledger_out}
        callers: {{orders: '{identity("orders")}'}}
        allow:
          - {{id: read, from: [orders], port: http, methods: [GET], paths: ['{paths}']}}
          - {{id: copy, from: [orders], port: raw}}
        """

    @property
    def orders(self) -> str:
        return f"""
        service: orders
        identity: {identity("orders")}
        egress_port: {self.orders_out}
        upstreams:
          ledger:
            addresses: ['127.0.0.1:{self.ledger_http}']
            identity: {identity("ledger")}
            protocol: http
            timeout: 20s
          ledger-raw:
            addresses: ['localhost:{self.ledger_raw}']
            identity: {identity("ledger")}
            protocol: tcp
            port: raw
            listen: {self.raw_upstream}
          imposter:
            addresses: ['127.0.0.1:{self.ledger_http}']
            identity: {identity("somebody-else")}
            protocol: http
        egress:
          partner:
            hosts: ['api.partner.test:443']
            addresses: ['127.0.0.1:{self.outside.port}']
            allow: [{{id: ask, methods: [GET], paths: ['/open/**']}}]
        """

    async def start(self) -> tuple[Sidecar, Sidecar]:
        ledger = await self.stage.lone("ledger", self.ledger())
        orders = await self.stage.lone("orders", self.orders, "--ca-bundle", str(self.authority))
        await ledger.ready()
        await orders.ready()
        return ledger, orders

    async def calls(self, path: str = "/v1/lines", method: str = "GET") -> httpx.Response:
        return await get(self.orders_out, path, "ledger", method)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with staged() as stage:
        await stage.entry("orders")
        await stage.entry("ledger")
        authority = PublicAuthority("Public")
        bundle = stage.directory / "public.pem"
        bundle.write_text(authority.pem)
        outside = Outsider(authority.issue(stage.directory, "api.partner.test"))
        await outside.start()
        app, raw_app, *others = ports(7)
        await stage.app("ledger", app)
        echo = await asyncio.start_server(_echo, "127.0.0.1", raw_app)
        try:
            http, raw, out, ledger_out, upstream = others
            yield Pair(stage, app, http, raw, raw_app, out, ledger_out, upstream, outside, bundle)
        finally:
            echo.close()
            await outside.stop()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(100):
            writer.write(data.upper())
            await writer.drain()
    writer.close()


async def raw_answer(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"hello")
        async with asyncio.timeout(60):
            return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_pair_calls_each_other_by_mutual_tls_guided_by_files_alone(pair: Pair) -> None:
    ledger, orders = await pair.start()

    answer = await pair.calls("/v1/lines?secret=1")
    assert answer.status_code == 200, answer.text
    assert answer.text.startswith("ledger /v1/lines?secret=1 ")
    assert f"URI={identity('orders')}" in answer.text
    denied = await pair.calls("/v2/lines")
    assert denied.status_code == 403
    assert "VST4001" in denied.text
    assert (await get(pair.orders_out, "/", "nobody")).status_code == 404
    assert await raw_answer(pair.raw_upstream) == b"HELLO"
    # Whoever answers at an address is not thereby who is meant.
    assert (await get(pair.orders_out, "/v1/lines", "imposter")).status_code == 503

    # A host outside: by its public certificate, which is shown none of ours.
    assert (await get(pair.orders_out, "/open/1", "partner")).status_code == 200
    assert (await get(pair.orders_out, "/other", "partner")).status_code == 403
    assert pair.outside.seen[-1].headers["host"] == "api.partner.test"
    # And nobody speaks to the ledger without a certificate.
    with pytest.raises(httpx.TransportError):
        await get(pair.ledger_http, "/v1/lines", "ledger")

    await _both_ends_tell_of_it(ledger, orders)

    async with httpx.AsyncClient(timeout=45, trust_env=False) as client:

        async def status(path: str) -> int:
            # On one connection of the app; its sidecar keeps its own to the ledger.
            url = f"http://127.0.0.1:{pair.orders_out}{path}"
            return (await client.get(url, headers={"host": "ledger"})).status_code

        # A file with a mistake changes nothing, and says why; a good one counts without a restart.
        file = pair.stage.directory / "ledger.yaml"
        file.write_text(pair.ledger().replace("methods", "method"))
        await ledger.says("VST0020")
        assert "nothing is changed" in ledger.text
        assert (await status("/v1/lines"), await status("/v2/lines")) == (200, 403)
        file.write_text(pair.ledger("/**"))
        await until(lambda: _is(status, "/v2/lines", 200), lambda: ledger.text)

        # What is revoked is refused, on connections that are open.
        await pair.stage.revoke("orders")
        await until(lambda: _is(status, "/v1/lines", 403), lambda: ledger.text)


async def _is(status: Callable[[str], Awaitable[int]], path: str, wanted: int) -> bool:
    return await status(path) == wanted


async def _both_ends_tell_of_it(ledger: Sidecar, orders: Sidecar) -> None:
    """In lines of JSON with both identities, without queries."""

    def told() -> bool:
        return len(ledger.log) >= 3 and len(orders.log) >= 7

    await until(told, lambda: f"{ledger.text}\n{orders.text}")
    for log, direction in ((ledger.log, "inbound"), (orders.log, "outbound")):
        line = next(each for each in log if each.get("status") == 200)
        assert (line["direction"], line["path"]) == (direction, "/v1/lines")
        assert line["source_spiffe_id"] == identity("orders")
        assert line["destination_spiffe_id"] == identity("ledger")
    served = next(each for each in ledger.log if each.get("status") == 200)
    assert served["rule"] == "ledger/read"
    outside = next(each for each in orders.log if each.get("destination") == "external:partner")
    assert outside["source_spiffe_id"] == identity("orders")
    assert (outside["path"], outside["rule"]) == ("/open/1", "egress/partner/ask")


async def test_one_command_moves_a_pair_into_the_mesh_where_the_same_calls_are_made(pair: Pair) -> None:
    ledger, orders = await pair.start()
    before = [(await pair.calls()).status_code, (await pair.calls("/v2")).status_code]
    before_raw = await raw_answer(pair.raw_upstream)

    directory = pair.stage.directory
    files = [str(directory / f"{name}.yaml") for name in ("ledger", "orders")]
    moved = await command(
        "import", "sidecars", *files, "--out", str(directory / "intent"), "--output", "json"
    )
    commands = moved["data"]["commands"]
    # Of a service with two ports each has a name, in the mesh.
    assert {each["code"] for each in moved["data"]["findings"]} == {"VST7342", "VST7345"}
    await pair.stage.follow(directory / "intent")

    async def goes() -> bool:
        return (await pair.calls()).status_code == 200

    # One after the other: a mixed pair goes on calling.
    await ledger.stop()
    moved_ledger = await pair.stage.start(*commands["ledger"].split()[2:])
    await moved_ledger.ready()
    await until(goes, lambda: f"{orders.text}\n{moved_ledger.text}")
    assert (await pair.calls("/v2")).status_code == 403
    await orders.stop()
    moved_orders = await pair.stage.start(*commands["orders"].split()[2:], "--ca-bundle", str(pair.authority))
    await moved_orders.ready()
    await until(goes, lambda: moved_orders.text)
    assert [(await pair.calls()).status_code, (await pair.calls("/v2")).status_code] == before == [200, 403]
    assert before_raw == b"HELLO"

    async def echoes() -> bool:
        return await raw_answer(pair.raw_upstream) == before_raw

    await until(echoes, lambda: moved_orders.text)
    assert (await get(pair.orders_out, "/open/1", "partner")).status_code == 200
