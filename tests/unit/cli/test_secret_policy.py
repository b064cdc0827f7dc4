"""``explain`` of a secret, ``secret who-can-read`` and ``what-can``: by a directory, without any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli

MESH = """\
mesh: shop
trust_domain: example.org
environment: prod
roles: {dba: [orders, {who: web, until: 2099-01-01T00:00:00Z}]}
"""
GROUP = """\
secrets: payments
allow:
  - {id: own, from: [payments], may: [read, list], paths: [secret/payments/**]}
  - {id: dba, from: ['role:dba'], may: [read, write], paths: ['secret/payments/{db}']}
  - {id: ended, from: [web], may: [rotate], paths: [secret/old], expires: 2020-01-01T00:00:00Z}
deny:
  - {id: not-root, from: anyone, paths: [secret/payments/root]}
"""


@pytest.fixture
def intent(tmp_path: Path) -> Path:
    files = {"mesh.yaml": MESH, "secrets/payments.yaml": GROUP}
    files |= {f"services/{name}.yaml": f"service: {name}\n" for name in ("payments", "orders", "web")}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture(autouse=True)
def _captured(capsys: pytest.CaptureFixture[str]) -> None:
    CAPTURED[:] = [capsys]


CAPTURED: list[pytest.CaptureFixture[str]] = []


def run(*words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli(list(words))
    return int(ended.value.code or 0), CAPTURED[0].readouterr().out


def told(intent: Path, *words: str) -> tuple[int, Any]:
    code, out = run(*words, "--intent", str(intent), "--output", "json")
    return code, json.loads(out)["data"]


def text(intent: Path, *words: str) -> str:
    return run(*words, "--intent", str(intent))[1]


def test_explain_names_rule_place_and_version(intent: Path) -> None:
    code, found = told(intent, "explain", "payments", "secret:secret/payments/db", "read")
    assert (code, found["allowed"], found["rule"]) == (0, True, "payments/own")
    assert found["where"] == f"{intent}/secrets/payments.yaml:3:5"
    assert len(found["intent"]) == 12


def test_reading_is_meant_where_no_verb_is_said_and_secret_where_no_mount_is(intent: Path) -> None:
    assert told(intent, "explain", "payments", "secret:payments/db")[0] == 0


def test_explain_says_what_the_nearest_rule_misses(intent: Path) -> None:
    code, found = told(intent, "explain", "payments", "secret:payments/db", "write")
    assert (code, found["rule"]) == (1, None)
    nearest = found["near"][0]
    assert (nearest["rule"], [each["part"] for each in nearest["misses"]]) == ("payments/own", ["verb"])
    shown = text(intent, "explain", "web", "secret:other/db")
    assert "denies it (VST5300): no rule allows it" in shown
    assert "path: secret/other/db is not secret/payments/{db}" in shown


def test_explain_says_which_rule_denies_and_which_would_have_allowed(intent: Path) -> None:
    code, found = told(intent, "explain", "payments", "secret:payments/root")
    assert (code, found["rule"], found["otherwise"]) == (1, "payments/not-root", "payments/own")


@pytest.mark.parametrize(
    "words", [("payments", "secret:a/../b"), ("payments", "secret:a", "raed"), ("payments", "secret:")]
)
def test_what_makes_no_sense_is_refused(intent: Path, words: tuple[str, ...]) -> None:
    assert told(intent, "explain", *words)[0] == 2


def test_who_can_read_says_by_which_rule_and_until_when(intent: Path) -> None:
    code, found = told(intent, "secret", "who-can-read", "payments/db")
    assert code == 0
    assert [(each["who"], each["rule"], each["until"]) for each in found["callers"]] == [
        ("orders", "payments/dba", None),
        ("payments", "payments/own", None),
        ("web", "payments/dba", "2099-01-01T00:00:00+00:00"),
    ]
    assert told(intent, "secret", "who-can-read", "payments/root")[0] == 1
    writers = told(intent, "secret", "who-can-read", "payments/db", "--verb", "write")[1]["callers"]
    assert [each["who"] for each in writers] == ["orders", "web"]


def test_what_can_leaves_out_what_is_denied_and_what_has_ended(intent: Path) -> None:
    code, found = told(intent, "secret", "what-can", "web")
    assert code == 0
    assert [(each["may"], each["paths"]) for each in found["permissions"]] == [
        (["read", "write"], "secret/payments/{db} but secret/payments/root until 2099-01-01 00:00 UTC")
    ]
    assert told(intent, "secret", "what-can", "spiffe://example.org/nobody")[0] == 1
    assert "may do nothing with any secret" in text(
        intent, "secret", "what-can", "spiffe://example.org/nobody"
    )


CASES = """\
cases:
  - {name: its own, from: payments, to: 'secret:payments/db', expect: allow, rule: payments/own}
  - {name: not to be written, from: payments, to: 'secret:secret/payments/db', method: write, expect: deny, rule: none}
  - {name: not the root, from: payments, to: 'secret:payments/root', expect: deny, rule: payments/not-root}
  - {name: ended, from: web, to: 'secret:old', method: rotate, at: 2019-01-01T00:00:00Z, expect: allow}
"""


def test_cases_beside_the_policy_may_be_about_secrets(intent: Path) -> None:
    (intent / "policy-tests").mkdir()
    (intent / "policy-tests" / "secrets.yaml").write_text(CASES)
    code, out = run("policy", "test", str(intent), "--output", "json")
    assert [each["wrong"] for each in json.loads(out)["data"]["cases"]] == [None] * 4
    assert code == 0
    (intent / "policy-tests" / "secrets.yaml").write_text(CASES.replace("method: rotate", "method: rotat"))
    assert run("policy", "test", str(intent), "--output", "json")[0] == 1
