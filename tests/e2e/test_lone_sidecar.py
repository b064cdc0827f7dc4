"""Two sidecars without a control plane, with real Envoys and certificates from an agent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.e2e.lone_lab import Stage, get, identity, ports, staged, until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


async def test_a_pair_calls_each_other_by_mutual_tls_and_what_no_rule_allows_is_denied(stage: Stage) -> None:
    await stage.entry("orders")
    await stage.entry("ledger")
    app, ingress, way_out, other_way_out = ports(4)
    await stage.app("ledger", app)
    ledger = await stage.lone(
        "ledger",
        f"""
        service: ledger
        identity: {identity("ledger")}
        ports: {{http: {{app: {app}, protocol: http, listen: {ingress}}}}}
        egress_port: {other_way_out}
        callers: {{orders: '{identity("orders")}'}}
        allow: [{{id: read, from: [orders], methods: [GET], paths: ['/v1/**']}}]
        """,
    )
    orders = await stage.lone(
        "orders",
        f"""
        service: orders
        identity: {identity("orders")}
        egress_port: {way_out}
        upstreams:
          ledger: {{addresses: ['127.0.0.1:{ingress}'], identity: '{identity("ledger")}', protocol: http}}
        """,
    )
    await ledger.ready()
    await orders.ready()

    answer = await get(way_out, "/v1/lines?secret=1", "ledger")
    assert answer.status_code == 200, answer.text
    assert answer.text.startswith("ledger /v1/lines?secret=1 ")
    assert f"URI={identity('orders')}" in answer.text

    denied = await get(way_out, "/v2/lines", "ledger")
    assert denied.status_code == 403
    assert "VST4001" in denied.text
    unknown = await get(way_out, "/", "nobody")
    assert unknown.status_code == 404

    # Both ends tell of both identities, in lines of JSON, without queries.
    def told() -> bool:
        return len(ledger.log) >= 2 and len(orders.log) >= 3

    await until(told, lambda: f"{ledger.text}\n{orders.text}")
    for log, direction in ((ledger.log, "inbound"), (orders.log, "outbound")):
        line = next(each for each in log if each.get("status") == 200)
        assert line["direction"] == direction
        assert line["source_spiffe_id"] == identity("orders")
        assert line["destination_spiffe_id"] == identity("ledger")
        assert line["path"] == "/v1/lines"
    assert next(each for each in ledger.log if each["status"] == 200)["rule"] == "ledger/read"
