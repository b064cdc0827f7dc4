"""``vestibule policy test --envoy``: cases on a real Envoy, which answers as the engine does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vestibule.app.main import cli
from vestibule.intent import Intent
from vestibule.proxy import trial

FILES = {
    "mesh.yaml": "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n",
    "services/orders.yaml": "service: orders\n",
    "services/reports.yaml": "service: reports\n",
    "services/payments.yaml": """service: payments
ports: {http: {protocol: http}, grpc: {protocol: grpc}, db: {protocol: tcp}, tools: {protocol: mcp}}
allow:
  - {id: charge, from: [orders], port: http, methods: [POST], paths: [/v1/charges/**]}
  - {id: rpc, from: [orders], port: grpc, paths: [/a.B/C]}
  - {id: sql, from: [reports], port: db}
  - {id: read, from: [orders], port: tools, tools: [read_file]}
deny:
  - {id: not-17, from: [orders], port: http, paths: ['/v1/charges/17/**']}
""",
    "policy-tests/all.yaml": """cases:
  - {name: a, from: orders, to: payments/http, method: POST, path: /v1/charges, expect: allow, rule: payments/charge}
  - {name: b, from: orders, to: payments/http, method: POST, path: /v1/charges/17, expect: deny, rule: payments/not-17}
  - {name: c, from: reports, to: payments/http, method: POST, path: /v1/charges, expect: deny, rule: none}
  - {name: d, from: plaintext, to: payments/http, method: POST, path: /v1/charges, expect: deny}
  - {name: e, from: orders, to: payments/grpc, method: POST, path: /a.B/C, expect: allow, rule: payments/rpc}
  - {name: f, from: reports, to: payments/db, expect: allow}
  - {name: g, from: orders, to: payments/db, expect: deny}
  - {name: h, from: orders, to: payments/tools, mcp: {method: tools/call, target: read_file}, expect: allow}
  - {name: i, from: orders, to: payments/tools, mcp: {method: tools/call, target: rm}, expect: deny, rule: none}
  - {name: j, from: orders, to: payments/http, at: 2026-01-01T00:00:00Z, expect: deny}
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
        cli(["policy", "test", *words])
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err


def test_every_kind_of_port_answers_on_envoy_as_in_the_engine(
    shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, str(shop), "--envoy", "--output", "json")
    cases = {each["name"]: each for each in json.loads(out)["data"]["cases"]}
    assert {name: each["wrong"] for name, each in cases.items()} == dict.fromkeys("abcdefghij"), err
    assert {name: each["envoy"] for name, each in cases.items()} == {
        **dict.fromkeys("aefh", "allow"),
        **dict.fromkeys("bcdgi", "deny"),
        "j": "not asked, whose clock cannot be set",
    }
    assert code == 0


def test_an_envoy_that_decides_otherwise_is_a_failure(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trial._with_issuer_keys

    def without_denials(intent: Intent, key: object) -> Intent:
        from dataclasses import replace
        from types import MappingProxyType

        payments = replace(intent.services["payments"], deny=())
        services = MappingProxyType({**intent.services, "payments": payments})
        return whole(replace(intent, services=services), key)  # type: ignore[arg-type]

    monkeypatch.setattr(trial, "_with_issuer_keys", without_denials)
    cases = (shop / "policy-tests/all.yaml").read_text().splitlines()
    (shop / "policy-tests/all.yaml").write_text("\n".join((cases[0], cases[2])) + "\n")
    code, out, _ = run(capsys, str(shop), "--envoy")
    assert (code, "✗ b: Envoy: allow (200), engine: deny" in out) == (1, True), out


def test_without_an_envoy_the_error_says_which(
    shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vestibule.proxy.binary._installed", lambda: Path("/nowhere/envoy"))
    code, _, err = run(capsys, str(shop), "--envoy")
    assert (code, "VST7100" in err) == (4, True)
