"""The file of a lone sidecar: read as an intent is, with each problem at its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tests.unit.intent.lone.files import DOMAIN, LEDGER, ORDERS, lone
from tests.unit.intent.test_schemas import agrees

from vestibule.intent.lone import keys, read_lone
from vestibule.intent.outside import HostPort
from vestibule.policy import IdentityMatch
from vestibule.spiffe import SpiffeId


def test_a_file_says_what_a_service_and_those_that_it_calls_say_in_a_mesh() -> None:
    orders = lone(ORDERS)
    assert str(orders.identity) == f"{DOMAIN}/orders"
    assert set(orders.intent.services) == {"orders", "ledger"}
    assert (orders.intent.mesh.environment, orders.intent.mesh.name) == ("prod", "lone")
    assert orders.listen == {"http": HostPort(host="10.0.0.4", port=8443)}
    [rule] = orders.service.allow
    assert {each.id for each in rule.callers} == {
        SpiffeId.parse(f"{DOMAIN}/web"),
        SpiffeId.parse(f"{DOMAIN}/orders"),
    }
    [upstream] = orders.upstreams
    assert (upstream.port, upstream.addresses) == ("http", (HostPort(host="10.0.0.5", port=8443),))
    ledger = orders.intent.services["ledger"]
    assert str(ledger.traffic.timeout) == "0:00:02"
    assert [each.name for each in ledger.traffic.routes] == ["ledger/slow"]
    [outward] = orders.intent.externals["stripe"].allow
    assert outward.callers == (IdentityMatch(id=orders.identity),)


def test_an_upstream_has_the_identity_that_the_file_says_whatever_its_name() -> None:
    orders = lone(ORDERS.replace(f"{DOMAIN}/ledger", "spiffe://example.org/db"))
    assert str(orders.intent.services["ledger"].spiffe_id) == "spiffe://example.org/db"


def test_opaque_ports_are_carried_as_bytes_under_their_own_numbers() -> None:
    text = f"""
service: db
identity: {DOMAIN}/db
address: 10.0.0.9
opaque_ports: [5432, 9000-9001]
allow: [{{id: all, port: opaque-5432, from: ['{DOMAIN}/orders']}}]
"""
    db = lone(text)
    assert set(db.service.ports) == {"opaque-5432", "opaque-9000", "opaque-9001"}
    assert db.listen["opaque-9001"] == HostPort(host="10.0.0.9", port=9001)
    assert db.service.ports["opaque-5432"].app_port == 5432


def test_equal_files_have_equal_versions() -> None:
    assert lone(ORDERS).intent.version == lone(ORDERS).intent.version
    assert lone(ORDERS).intent.version != lone(ORDERS + "# later\n").intent.version


BAD = [
    ("service: orders", "servce: orders", "VST0020", 2, 1),
    (f"identity: {DOMAIN}/orders", "identity: example.org/orders", "VST0025", 3, 11),
    (f"identity: {DOMAIN}/orders", "identity: spiffe://example.org/spire/agent/x", "VST7322", 3, 11),
    ("listen: '10.0.0.4:8443'", "listen: 0", "VST0025", 5, 45),
    (", listen: '10.0.0.4:8443'", "", "VST0021", 5, 9),
    ("listen: '10.0.0.4:8443'", "listen: 'here:8443'", "VST0025", 5, 45),
    ("protocol: http, listen", "protokol: http, listen", "VST0020", 5, 21),
    ("roles: {readers: [web, orders]}", "roles: {readers: [wev, orders]}", "VST0040", 7, 19),
    ("methods: [GET]", "methods: [FETCH]", "VST0025", 9, 49),
    ("methods: [GET]", "methods: [GET], methods: [PUT]", "VST0012", 9, 55),
    ("addresses: ['10.0.0.5:8443']", "addresses: ['10.0.0.5']", "VST0025", 12, 17),
    ("addresses: ['10.0.0.5:8443']", "addresses: []", "VST0025", 12, 16),
    (f"identity: {DOMAIN}/ledger", "identity: spiffe://other.org/ledger", "VST7322", 13, 15),
    (f"identity: {DOMAIN}/ledger", "identity: spiffe://example.org", "VST7322", 13, 15),
    ("timeout: 2s", "timeout: 2", "VST0022", 15, 14),
    ("timeout: 10s", "timeout: 1h, split: {v1: 100}", "VST0040", 16, 71),
    ("  ledger:\n", "  orders:\n", "VST7323", 11, 3),
    ("id: charge, ", "", "VST0021", 18, 51),
    (", allow: [{id: charge, methods: [POST], paths: ['/v1/**']}]", "", "VST0021", 18, 11),
    ("egress:", "timeout: 1s\negress:", "VST0020", 17, 1),
    ("egress:", "health: {http: /ok}\negress:", "VST0020", 17, 1),
    ("egress:", "opaque_ports: [5432]\negress:", "VST7326", 17, 15),
    (
        "egress:",
        "issuers: {corp: {issuer: 'https://a.b', keys: 'https://a.b/k'}}\negress:",
        "VST7325",
        17,
        10,
    ),
    ("paths: ['/v1/**']}\nupstreams", "when: 'request.body.x == 1'}\nupstreams", "VST7324", 9, 5),
]


@pytest.mark.parametrize(("right", "wrong", "code", "line", "column"), BAD)
def test_what_is_wrong_is_told_with_its_place(
    right: str, wrong: str, code: str, line: int, column: int
) -> None:
    assert right in ORDERS
    loaded = read_lone(ORDERS.replace(right, wrong, 1).encode(), "orders.yaml")
    assert loaded.lone is None
    found = [(each.code.code, each.where.file, each.where.line, each.where.column) for each in loaded.errors]
    assert (code, "orders.yaml", line, column) in found, found


@pytest.mark.parametrize("content", [b"", b"- a\n", b"service: [", b"\xff\xfe", b"a: &x 1\nb: *x\n", b"\x00"])
def test_what_is_no_such_file_at_all_is_told(content: bytes) -> None:
    loaded = read_lone(content, "orders.yaml")
    assert loaded.lone is None
    assert loaded.errors


def test_what_only_callers_say_names_the_place_where_to_say_it() -> None:
    [problem] = read_lone((LEDGER + "retry: {attempts: 2}\n").encode(), "ledger.yaml").errors
    assert "upstreams: NAME: retry" in problem.advice


def test_the_schema_for_editors_takes_what_the_reader_takes() -> None:
    published = Path(__file__).parents[4] / "src/vestibule/intent/schemas/lone.schema.json"
    schema = json.loads(published.read_text(encoding="utf-8"))
    assert schema == keys.schema(), "rewrite it: make docs"
    for text in (ORDERS, LEDGER):
        document = YAML(typ="safe", pure=True).load(text)
        assert agrees(schema, document)
        assert not agrees(schema, {**document, "unknown": 1})
