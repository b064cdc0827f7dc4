"""``explain`` of a token, and cases of ``policy test`` about tokens: by a directory, without any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli

FILES = {
    "mesh.yaml": """\
mesh: shop
trust_domain: example.org
environment: prod
roles: {contractors: [audit]}
issuers:
  internal: {keys: tokens}
  corp: {issuer: https://login.example.com, keys: https://login.example.com/jwks}
""",
    "tokens/reports.yaml": """\
tokens: reports
audiences: [reports, 'https://reports.example.org/v1']
scopes: [report:read, report:write]
allow:
  - {id: own, from: [web], may: [mint], scopes: [report:read], lasts: 5m, may_act: orders, binding: certificate}
  - {id: tried, from: [web], may: [mint], scopes: [report:write], mode: shadow}
  - {id: chain, from: [orders, audit], may: [receive], scopes: [report:read], when: 'token.subject != "mallory"'}
  - {id: hand-on, from: [reports], may: [exchange]}
  - {id: login, from: [web], may: [admit], issuers: [corp], scopes: [], when: 'token.claims.email_verified == true'}
deny:
  - {id: no-contractors, from: ['role:contractors'], reason: they have reports of their own}
""",
    **{f"services/{name}.yaml": f"service: {name}\n" for name in ("reports", "orders", "web", "audit")},
}


@pytest.fixture
def intent(tmp_path: Path) -> Path:
    return written(tmp_path, FILES)


def written(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def ran(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli(list(words))
        return int(ended.value.code or 0), capsys.readouterr().out

    return ran


@pytest.fixture
def explain(run: Any, intent: Path) -> Any:
    def explained(*words: str) -> tuple[int, Any]:
        code, out = run("explain", *words, "--intent", str(intent), "--output", "json")
        return code, json.loads(out)

    return explained


def test_a_token_that_can_be_had_is_explained_with_what_it_is_like(explain: Any) -> None:
    code, found = explain("web", "token:reports", "mint", "--scope", "report:read")
    told = found["data"]
    assert (code, told["allowed"], told["rule"], told["scopes"]) == (0, True, "reports/own", ["report:read"])
    assert told["where"].endswith("tokens/reports.yaml:5:5")
    assert told["token"] == {
        "lasts_seconds": 300,
        "binding": "certificate",
        "may_act": "spiffe://example.org/ns/prod/sa/orders",
        "depth": 4,
    }


def test_to_mint_is_meant_where_nothing_is_said(explain: Any) -> None:
    assert explain("web", "token:https://reports.example.org/v1")[0] == 0


def test_the_scope_that_is_refused_is_named_with_the_nearest_rules(
    explain: Any, run: Any, intent: Path
) -> None:
    asked = ("web", "token:reports", "mint", "--scope", "report:read", "--scope", "report:write")
    code, found = explain(*asked)
    told = found["data"]
    assert (code, told["allowed"], told["scope"], told["rule"], told["token"]) == (
        1,
        False,
        "report:write",
        None,
        None,
    )
    assert told["shadow"] == {"allowed": True, "rule": "reports/own"}
    assert {"part": "mode", "told": "the rule is in shadow mode, and allows nothing yet", "saw": {}} in [
        miss for each in told["near"] for miss in each["misses"]
    ]
    shown = " ".join(run("explain", *asked, "--intent", str(intent))[1].split())
    assert "token service denies it (VST6011) for the scope report:write: no rule allows it" in shown
    assert "token: reports with report:write is not reports with report:read" in shown
    assert "if rules in shadow mode counted: allowed" in shown


def test_a_denial_is_named_with_its_reason_and_what_it_takes(explain: Any, run: Any, intent: Path) -> None:
    asked = ("audit", "token:reports", "receive", "--claims", 'internal={"sub": "alice"}')
    code, found = explain(*asked)
    told = found["data"]
    assert (code, told["rule"], told["otherwise"]) == (1, "reports/no-contractors", "reports/chain")
    shown = run("explain", *asked, "--intent", str(intent))[1]
    assert "they have reports of their own" in shown


def test_a_condition_is_explained_by_the_claims_of_the_given_token(explain: Any) -> None:
    def login(claims: str) -> tuple[int, Any]:
        code, found = explain("web", "token:reports", "admit", "--claims", f"corp={claims}")
        return code, found["data"]

    assert login('{"sub": "alice", "email_verified": true}')[0] == 0
    code, told = login('{"sub": "alice", "email_verified": false}')
    assert code == 1
    (near,) = (each for each in told["near"] if each["rule"] == "reports/login")
    (miss,) = near["misses"]
    assert miss["part"] == "condition"
    assert "alice" not in json.dumps(told)


def test_what_makes_no_sense_is_refused_with_what_was_meant(explain: Any) -> None:
    def refused(*words: str) -> tuple[str, str]:
        code, found = explain(*words)
        assert code not in (0, 1)
        (error,) = found["errors"]
        return error["code"], error["advice"]

    assert refused("web", "token:report") == ("VST0040", "Did you mean 'reports'?")
    assert refused("web", "token:reports", "--scope", "report:raed") == (
        "VST0040",
        "Did you mean 'report:read'?",
    )
    assert refused("web", "token:reports", "mnt") == ("VST0025", "Did you mean 'mint'?")
    assert refused("web", "token:reports", "admit")[0] == "VST0025"
    assert refused("web", "token:reports", "mint", "--claims", "corp={}")[0] == "VST0025"
    assert refused("web", "token:reports", "admit", "--claims", "crop={}") == (
        "VST0040",
        "Did you mean 'corp'?",
    )


# ----------------------------------------------------------------------------------------------- cases

CASES = """\
cases:
  - {name: web has its own, from: web, to: 'token:reports', method: mint, scopes: [report:read], expect: allow}
  - {name: not to write, from: web, to: 'token:reports', scopes: [report:read, report:write], expect: deny, rule: none,
     shadow: allow}
  - {name: contractors have none, from: audit, to: 'token:reports', method: receive, expect: deny,
     rule: reports/no-contractors}
  - {name: for a user, from: orders, to: 'token:reports', method: receive, scopes: [report:read], expect: allow,
     tokens: {internal: '{"sub": "alice"}'}}
  - {name: not for that one, from: orders, to: 'token:reports', method: receive, expect: deny,
     tokens: {internal: '{"sub": "mallory"}'}}
  - {name: login, from: web, to: 'token:reports', method: admit, expect: allow, rule: reports/login,
     tokens: {corp: '{"email_verified": true}'}}
"""


def test_cases_are_about_tokens_too(run: Any, intent: Path) -> None:
    written(intent, {"policy-tests/tokens.yaml": CASES})
    code, out = run("policy", "test", str(intent), "--output", "json")
    found = json.loads(out)["data"]
    assert [(each["name"], each["wrong"]) for each in found["cases"] if not each["holds"]] == []
    assert (code, len(found["cases"])) == (0, 6)


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("to: 'token:report', expect: allow", "VST0040"),
        ("to: 'token:reports', scopes: [other], expect: allow", "VST0040"),
        ("to: 'token:reports', method: GET, expect: allow", "VST0025"),
        ("to: 'token:reports', method: admit, expect: allow", "VST0025"),
        ("to: 'token:reports', method: mint, tokens: {corp: '{}'}, expect: allow", "VST0025"),
        ("to: 'secret:a/b', method: read, scopes: [report:read], expect: deny", "VST0054"),
    ],
)
def test_a_case_that_makes_no_sense_is_refused_where_it_stands(
    run: Any, intent: Path, case: str, code: str
) -> None:
    written(intent, {"policy-tests/tokens.yaml": f"cases:\n  - {{name: a, from: web, {case}}}\n"})
    ended, out = run("policy", "test", str(intent), "--output", "json")
    assert ended != 0
    assert code in out
