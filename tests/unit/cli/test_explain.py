"""``vestibule explain``: which rule decides a call, in a terminal and for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.test_policy import line, record

from vestibule.app.main import cli
from vestibule.cli.explanations import Asked, explained
from vestibule.cli.intent_places import find
from vestibule.observe.access_record import Direction, Verdict
from vestibule.records import Emergency

FILES = {
    "mesh.yaml": "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
    "roles: {temps: ['spiffe://example.org/ns/temps/**']}\n",
    "services/orders.yaml": "service: orders\nlabels: {env: prod}\n",
    "services/web.yaml": "service: web\n",
    "services/payments.yaml": """service: payments
ports: {http: {protocol: http}}
routes: [{id: old, match: {path: /v0/**}, rewrite: {path: /v1}}]
allow:
  - {id: charge, from: [orders, role:temps], methods: [POST], paths: [/v1/charges]}
  - {id: look, from: [orders], methods: [GET], paths: ['/v1/charges/{id}']}
deny:
  - {id: no-temps, from: [role:temps], paths: [/v1/charges], reason: not in November, expires: 2096-12-01T00:00:00Z}
""",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli(["explain", *words])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def told(capsys: pytest.CaptureFixture[str], shop: Path, *words: str) -> Any:
    return json.loads(run(capsys, *words, "--intent", str(shop), "--output", "json")[1])["data"]


def test_an_allowed_call_names_its_rule_and_its_way(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "orders", "payments", "POST", "/v0/charges?x=1", "--intent", str(shop))
    assert code == 0
    lines = [each.strip() for each in out.splitlines()]
    assert lines[0].startswith("✓ orders → payments/http POST /v0/charges?x=1: allowed  intent ")
    assert lines[1:] == [
        f"caller's proxy sends it by payments/old ({shop}/services/payments.yaml:3:10), as /v1/charges?x=1, "
        "within 15 s, tries it up to 3 times",
        f"callee's proxy allows it by payments/charge ({shop}/services/payments.yaml:5:5)",
    ]


def test_a_denied_call_names_the_nearest_rules_and_what_they_miss(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "orders", "payments", "GET", "/v1/charges", "--intent", str(shop))
    assert code == 1
    assert [each.strip() for each in out.splitlines()[2:]] == [
        "callee's proxy denies it (VST4001): no rule allows it",
        f"near: payments/charge ({shop}/services/payments.yaml:5:5)",
        "✗ method: GET is not POST",
        f"near: payments/look ({shop}/services/payments.yaml:6:5)",
        "✗ path: /v1/charges is not /v1/charges/{id}",
    ]


def test_a_caller_whom_no_rule_names_is_refused_by_its_own_proxy(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = told(capsys, shop, "web", "payments", "POST", "/v1/charges")
    assert (data["allowed"], data["caller_proxy"]["sent"]) == (False, False)


def test_a_denial_says_what_it_goes_before_and_ends_in_time(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("spiffe://example.org/ns/temps/sa/joe", "payments", "POST", "/v1/charges", "--at")
    before = told(capsys, shop, *asked, "2096-11-30T23:59:59Z")["callee_proxy"]
    assert (before["rule"], before["reason"], before["otherwise"]) == (
        "payments/no-temps",
        "not in November",
        "payments/charge",
    )
    after = told(capsys, shop, *asked, "2096-12-01T01:00:00+01:00")
    assert (after["allowed"], after["callee_proxy"]["rule"]) == (True, "payments/charge")


def test_a_recorded_request_is_explained_from_both_sides(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        record(
            direction=Direction.OUTBOUND,
            reporter_spiffe_id="spiffe://example.org/ns/prod/sa/orders",
            request_id="r-1",
            method="DELETE",
            path="/v0/charges",
            status=403,
        ),
        record(
            request_id="r-1",
            method="DELETE",
            path="/v1/charges",
            status=403,
            verdict=Verdict.DENIED,
            intent_version="older",
        ),
        record(request_id="r-2"),
    ]
    log = tmp_path / "access.jsonl"
    log.write_text("".join(f"{line(each)}\n" for each in records))
    code, out, _ = run(capsys, "--request", "r-1", "--log", str(log), "--intent", str(shop))
    assert code == 1
    assert "✗ orders → payments/http DELETE /v1/charges: denied" in out
    assert "✗ method: DELETE is not POST" in out
    assert "by the caller's proxy: allowed with 403" in out
    assert "by the callee's proxy: denied with 403" in out
    assert "decided by intent older" in out


def test_a_port_that_needs_a_decision_service_says_why(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("orders", "payments", "POST", "/v1/charges")
    assert told(capsys, shop, *asked)["callee_proxy"]["decided"] == {"by": "proxy", "why": None}
    (shop / "mesh.yaml").write_text(FILES["mesh.yaml"] + "decide: central\n")
    assert told(capsys, shop, *asked)["callee_proxy"]["decided"] == {
        "by": "decision service",
        "why": "mesh.yaml says decide: central",
    }
    assert "decision service" in run(capsys, *asked, "--intent", str(shop))[1]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ((), 2, "VST9100"),
        (("orders",), 2, "VST9100"),
        (("orders", "payments", "--request", "x"), 2, "VST9100"),
        (("ordrs", "payments"), 2, "Did you mean 'orders'?"),
        (("orders", "payment"), 2, "Did you mean 'payments'?"),
        (("orders", "payments", "--at", "noon"), 2, "VST9100"),
        (("orders", "payments", "--at", "2026-11-22T09:00:00"), 2, "with its zone"),
        (("orders", "payments", "--header", "x"), 2, "NAME:VALUE"),
        (("orders", "payments", "--claims", "sts"), 2, "ISSUER=JSON"),
        (("orders", "payments", "--claims", "sts=[1]"), 2, "no JSON object"),
        (("orders", "payments", "--claims", "sts=@/nowhere"), 2, "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_fix(
    shop: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, error: str
) -> None:
    found, _, err = run(capsys, *words, "--intent", str(shop))
    assert (found, error in err) == (code, True), err


def test_a_request_that_was_not_recorded_says_where_it_was_looked_for(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "access.jsonl").write_text("")
    log = str(tmp_path / "access.jsonl")
    code, _, err = run(capsys, "--request", "r-9", "--log", log, "--intent", str(shop))
    assert (code, "VST9109" in err, log in err) == (4, True, True)


def test_what_break_glass_permits_leaves_the_callers_proxy(shop: Path) -> None:
    now = datetime.now(UTC)
    found = find(str(shop), None)
    web = found.held.identities["web"]
    permission = Emergency(
        id="x",
        callers=(str(web),),
        service="payments",
        reason="fire",
        ticket="T",
        approver="a",
        opener="b",
        opened_at=now,
        expires_at=now + timedelta(hours=1),
    )
    asked = Asked.of(
        found.held, "web", "payments", method="PUT", path="/x", headers={}, tokens={}, mcp=None, at=now
    )
    shut, opened = (explained(found, asked, given) for given in ((), (permission,)))
    assert (shut.allowed, shut.journey is not None and shut.journey.sent) == (False, False)
    assert opened.explanation.decision.rule == "break-glass/x"
    assert opened.journey is not None
    assert opened.journey.sent
