"""``vestibule policy``: cases, the matrix, and what access logs say about rules."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli
from vestibule.observe.access_record import SCHEMA, AccessRecord, Direction, Layer, Verdict

NOW = datetime.now(UTC)
ORDERS = "spiffe://example.org/ns/prod/sa/orders"
REPORTS = "spiffe://example.org/ns/prod/sa/reports"
FILES = {
    "mesh.yaml": "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n",
    "services/orders.yaml": "service: orders\n",
    "services/reports.yaml": "service: reports\n",
    "services/web.yaml": "service: web\nports: {http: {protocol: http}}\nallow: [{id: all, from: [orders]}]\n",
    "services/payments.yaml": """service: payments
ports: {http: {protocol: http}, db: {protocol: tcp}}
allow:
  - {id: charge, from: [orders], port: http, methods: [POST], paths: [/v1/charges]}
  - {id: look, from: [orders], port: http, methods: [GET], paths: ['/v1/charges/{id}']}
  - {id: sql, from: [reports, 'spiffe://example.org/ns/bi/**'], port: db}
""",
}
CASES = """cases:
  - {name: orders may charge, from: orders, to: payments/http, method: POST, path: /v1/charges?x=1, expect: allow}
  - name: reports may not
    from: reports
    to: payments/http
    method: POST
    path: /v1/charges
    expect: deny
    rule: none
  - {name: nor is a doubled slash, from: orders, to: payments/http, method: POST, path: /v1//charges, expect: deny}
  - {name: below bi, from: 'spiffe://example.org/ns/bi/x', to: payments/db, expect: allow, rule: payments/sql}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in (FILES | {"policy-tests/payments.yaml": CASES}).items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli(["policy", *words])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


# ------------------------------------------------------------------------------------------------ cases


def test_cases_that_hold_are_listed_with_the_rules_that_decide(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "test", str(shop))
    assert (code, out.splitlines()) == (
        0,
        [
            "✓ orders may charge  payments/charge",
            "✓ reports may not  no rule",
            "✓ nor is a doubled slash  vestibule/path-not-normal",
            "✓ below bi  payments/sql",
            "4 cases: all as expected",
        ],
    )


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (
            "from: reports, to: payments/http, expect: allow",
            "expected allow, got deny, since no rule allows it",
        ),
        (
            "from: orders, to: payments/http, method: POST, path: /v1/charges, expect: deny",
            "expected deny, got allow by payments/charge",
        ),
        (
            "from: orders, to: payments/http, method: POST, path: /v1/charges, expect: allow, rule: payments/look",
            "decided by payments/charge, not by payments/look",
        ),
        (
            "from: reports, to: payments/http, expect: deny, rule: payments/look",
            "decided by no rule, not by payments/look",
        ),
        (
            "from: reports, to: payments/http, expect: deny, shadow: allow",
            "expected allow in shadow, got deny",
        ),
    ],
)
def test_a_case_that_fails_says_how_and_where(
    shop: Path, capsys: pytest.CaptureFixture[str], case: str, told: str
) -> None:
    (shop / "policy-tests/payments.yaml").write_text(f"cases:\n  - {{name: it, {case}}}\n")
    code, out, _ = run(capsys, "test", str(shop))
    assert (code, out.splitlines()) == (
        1,
        [f"✗ it: {told}  {shop}/policy-tests/payments.yaml:2:5", "1 case: 1 not as expected"],
    )


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("from: order, to: web, expect: deny", "VST0040 there is no service 'order'"),
        ("from: orders, to: wep, expect: deny", "VST0040 there is no service 'wep'"),
        ("from: orders, to: payments, expect: deny", "VST0040 payments has 2 ports"),
        ("from: orders, to: payments/grpc, expect: deny", "VST0040 payments has no port 'grpc'"),
        ("from: orders, to: web, expect: maybe", "VST0025 'maybe' is not one of allow, deny"),
        ("from: orders, to: web, expect: deny, rule: web/al", "VST0040 there is no rule 'web/al'"),
        ("from: orders, to: web, expect: deny, path: v1", "VST0025 'v1' is not the path of a request"),
        (
            "from: orders, to: web, expect: deny, headers: {X-A: b}",
            "VST0025 'X-A' is not a header name in lower case",
        ),
        ("from: orders, to: web, expect: deny, tokens: {sts: 'no'}", "VST0025 the claims are not JSON"),
        ("from: orders, to: web, expect: deny, when: x", "VST0020 a case has no key 'when'"),
        ("from: 'spiffe://', to: web, expect: deny", "VST1400"),
    ],
)
def test_a_case_that_cannot_be_read_is_an_error_with_its_place(
    shop: Path, capsys: pytest.CaptureFixture[str], case: str, told: str
) -> None:
    (shop / "policy-tests/payments.yaml").write_text(f"cases:\n  - {{name: it, {case}}}\n")
    code, _, err = run(capsys, "test", str(shop))
    assert code == 1
    assert f"{shop}/policy-tests/payments.yaml:2:" in err
    assert told in err


def test_an_intent_without_cases_says_how_to_write_some(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "policy-tests/payments.yaml").unlink()
    code, _, err = run(capsys, "test", str(shop))
    assert (code, "VST9107" in err) == (4, True)


def test_a_broken_intent_is_told_instead_of_cases(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "services/web.yaml").write_text("service: web\nallow: [{id: a, from: [nobody]}]\n")
    code, _, err = run(capsys, "test", str(shop))
    assert (code, "VST0040" in err) == (1, True)


# ----------------------------------------------------------------------------------------------- matrix


def test_the_matrix_shows_who_may_call_what(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "matrix", str(shop))
    assert (code, [line.split() for line in out.splitlines()]) == (
        0,
        [
            ["MAY", "CALL", "orders", "reports", "OTHERS"],
            ["payments/db", "·", "all", "spiffe://example.org/ns/bi/**"],
            ["payments/http", "some", "·", "·"],
            ["web/http", "all", "·", "·"],
            ["may", "call", "nothing:", "payments,", "web"],
        ],
    )


# ------------------------------------------------------------------------------------------------- logs


def record(**more: Any) -> AccessRecord:
    plain: dict[str, Any] = {
        "time": NOW,
        "layer": Layer.HTTP,
        "direction": Direction.INBOUND,
        "verdict": Verdict.ALLOWED,
        "reporter_service": "payments",
        "reporter_spiffe_id": "",
        "reporter_instance": "",
        "source_spiffe_id": ORDERS,
        "destination_service": "payments",
        "destination_port": "http",
        "method": "GET",
        "path": "/v1/charges/17",
    }
    return AccessRecord(**{**plain, **more})


def line(each: AccessRecord) -> str:
    written = {field.name: getattr(each, field.name) for field in fields(each)}
    told = {name: value.value if isinstance(value, Enum) else value for name, value in written.items()}
    return json.dumps({"schema": SCHEMA, **told, "time": each.time.isoformat()})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    records = [
        *[record(path=f"/v1/charges/{number}") for number in range(5)],
        record(direction=Direction.OUTBOUND),
        record(verdict=Verdict.DENIED, method="DELETE"),
        record(plaintext=True, source_spiffe_id=""),
        record(method="POST", path="/v1/charges", time=NOW - timedelta(days=2)),
        record(layer=Layer.TCP, method="", path="", destination_port="db", source_spiffe_id=REPORTS),
        record(layer=Layer.TCP, method="", path="", destination_port="db", source_spiffe_id=f"{REPORTS}/x"),
    ]
    (tmp_path / "access.jsonl").write_text("".join(f"{line(each)}\n" for each in records))
    return tmp_path / "access.jsonl"


def test_suggested_rules_are_yaml_that_allows_what_was_called(
    shop: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "suggest", str(log), "--intent", str(shop))
    assert code == 0
    assert (
        out
        == """# services/payments.yaml
allow:
  - id: reports-1  # 2 calls
    from: [reports, 'spiffe://example.org/ns/prod/sa/reports/x']
    port: db
  - id: orders-1  # 1 call
    from: [orders]
    port: http
    methods: [POST]
    paths: [/v1/charges]
  - id: orders-2  # 5 calls
    from: [orders]
    port: http
    methods: [GET]
    paths: ['/v1/charges/{id}']
"""
    )


def test_what_is_suggested_is_an_intent_that_holds(
    shop: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "suggest", str(log), "--intent", str(shop))
    ports = "service: payments\nports: {http: {protocol: http}, db: {protocol: tcp}}\n"
    (shop / "services/payments.yaml").write_text(ports + out)
    (shop / "policy-tests/payments.yaml").write_text(
        "cases:\n  - {name: seen, from: orders, to: payments/http, path: /v1/charges/9, expect: allow}\n"
    )
    assert run(capsys, "test", str(shop))[0] == 0


def test_suggestions_leave_out_what_was_denied_unless_it_is_wanted(
    shop: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "DELETE" not in run(capsys, "suggest", str(log), "--intent", str(shop))[1]
    assert "DELETE" in run(capsys, "suggest", str(log), "--intent", str(shop), "--include-denied")[1]


def test_rules_that_no_call_needed_are_findings(
    shop: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "unused", str(log), "--intent", str(shop), "--service", "payments")
    assert (code, out) == (0, "every rule was needed\n")
    code, out, _ = run(capsys, "unused", str(log), "--intent", str(shop), "--since", "1d")
    assert (code, out.splitlines()[0]) == (
        1,
        f"! payments/charge  {shop}/services/payments.yaml:4:5",
    )
    assert "! web/all" in out


def test_what_shadow_rules_would_change_is_told_by_kind(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    would_stop = {"shadow_verdict": "denied", "shadow_rule": "payments/stop"}
    records = [
        *[record(**would_stop)] * 3,
        record(shadow_verdict="allowed", shadow_rule="payments/look"),
        record(verdict=Verdict.DENIED, shadow_verdict="allowed", shadow_rule="payments/more", method="PUT"),
        record(direction=Direction.OUTBOUND, **would_stop),
        record(),
    ]
    log = tmp_path / "access.jsonl"
    log.write_text("".join(f"{line(each)}\n" for each in records))
    code, out, _ = run(capsys, "shadow", str(log), "--intent", str(shop))
    assert (code, out.splitlines()) == (
        1,
        [
            "- orders GET on payments/http: 3 calls allowed now, denied then by payments/stop",
            "+ orders PUT on payments/http: 1 call denied now, allowed then by payments/more",
        ],
    )


def test_where_shadow_rules_agree_nothing_would_change(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text(f"{line(record(shadow_verdict='allowed', shadow_rule='payments/look'))}\n")
    code, out, _ = run(capsys, "shadow", str(log), "--intent", str(shop))
    assert (code, out) == (0, "nothing would change for 1 recorded call\n")
    log.write_text(f"{line(record())}\n")
    code, out, _ = run(capsys, "shadow", str(log), "--intent", str(shop))
    assert (code, out) == (0, "no recorded call met a rule in shadow mode\n")


def test_rules_that_are_probably_not_meant_are_told(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "lint", str(shop))[:2] == (0, "✓ nothing to tell\n")
    file = shop / "services" / "payments.yaml"
    file.write_text(f"{file.read_text()}deny: [{{id: nobody, from: [web], port: http}}]\n")
    code, out, _ = run(capsys, "lint", str(shop), "--output", "json")
    findings = json.loads(out)["data"]["findings"]
    assert (code, [each["code"] for each in findings]) == (1, ["VST0076"])
    assert findings[0]["where"].endswith("payments.yaml:7:8")
