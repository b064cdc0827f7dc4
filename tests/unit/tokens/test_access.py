"""Who may come by which token: default deny scope by scope, the narrowest of what rules say, the intent in force."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vestibule.intent import Intent, load_files
from vestibule.spiffe import SpiffeId
from vestibule.testing.clock import FakeClock
from vestibule.tokens.access import IntentIssuers, IntentTokenAccess
from vestibule.tokens.ports import Asked, TokenAccess, TokenDecision, Verb

START = datetime(2026, 1, 1, tzinfo=UTC)
SOON = START + timedelta(hours=1)
LOGIN = "https://login.example.com"
MESH: dict[str, Any] = {
    "mesh": "shop",
    "trust_domain": "example.org",
    "environment": "prod",
    "roles": {"staff": ["orders", {"who": "web", "until": "2026-01-01T01:00:00Z"}]},
    "issuers": {
        "internal": {"keys": "tokens"},
        "corp": {"issuer": LOGIN, "keys": f"{LOGIN}/jwks", "longest": "1h", "audiences": ["shop"]},
        "partner": {"issuer": "https://partner.example", "keys": "https://partner.example/jwks"},
    },
}
Group = Mapping[str, Any]


def identity(service: str) -> SpiffeId:
    return SpiffeId.parse(f"spiffe://example.org/ns/prod/sa/{service}")


def intent(*groups: Group, mesh: Mapping[str, Any] = MESH) -> Intent:
    files: dict[str, Any] = {f"tokens/{each['tokens']}.yaml": each for each in groups}
    files |= {f"services/{name}.yaml": {"service": name} for name in ("reports", "orders", "web")}
    loaded = load_files(
        {name: json.dumps(each).encode() for name, each in {**files, "mesh.yaml": mesh}.items()}
    )
    assert loaded.intent is not None, [str(each.error) for each in loaded.problems]
    return loaded.intent


def rule(number: int = 0, **keys: Any) -> dict[str, Any]:
    plain = {"id": f"r{number}", "from": ["web"], "may": ["mint"], "scopes": ["read"]}
    return plain | {name.rstrip("_"): value for name, value in keys.items()}


def group(*allow: Any, deny: Any = (), name: Any = "reports", **keys: Any) -> Group:
    return {
        "tokens": name,
        "audiences": [name],
        "scopes": ["read", "write"],
        "allow": list(allow),
        "deny": list(deny),
        **keys,
    }


def access(*groups: Group, clock: FakeClock | None = None) -> TokenAccess:
    found = intent(*groups)
    return IntentTokenAccess(lambda: found, clock or FakeClock())


def decided(
    of: TokenAccess, who: str = "web", verb: Verb = Verb.MINT, *scopes: str, **keys: Any
) -> TokenDecision:
    return of.decide(Asked(client=identity(who), verb=verb, audience="reports", scopes=scopes, **keys))


def test_what_no_rule_allows_is_denied() -> None:
    rules = access(group(rule()))
    assert decided(rules).allowed
    assert decided(rules, "web", Verb.MINT, "read").allowed
    for found in (
        decided(rules, "orders"),
        decided(rules, "web", Verb.RECEIVE, "read"),
        rules.decide(Asked(client=identity("web"), verb=Verb.MINT, audience="report")),
        rules.decide(Asked(client=identity("web"), verb=Verb.MINT, audience="reports/read")),
        rules.decide(Asked(client=identity("web"), verb=Verb.MINT, audience="")),
    ):
        assert (found.allowed, found.rule, found.scope, found.lasts) == (False, None, None, None)


def test_an_answer_names_rule_place_and_commit() -> None:
    found = decided(access(group(rule())))
    assert (found.rule, found.commit) == ("reports/r0", intent(group(rule())).version)
    assert found.where is not None
    assert found.where.file == "tokens/reports.yaml"


def test_what_is_denied_for_one_scope_is_denied_for_all_and_that_one_is_named() -> None:
    rules = access(group(rule()))
    found = decided(rules, "web", Verb.MINT, "read", "write", "admin")
    assert (found.allowed, found.scope, found.rule) == (False, "write", None)
    nobody = decided(rules, "orders", Verb.MINT, "read")
    assert (nobody.allowed, nobody.scope) == (False, None)


def test_a_denial_names_its_rule_and_the_scope_if_it_is_of_some_scopes_only() -> None:
    some = access(
        group(rule(scopes=["read", "write"]), deny=[{"id": "no", "from": ["web"], "scopes": ["write"]}])
    )
    found = decided(some, "web", Verb.MINT, "read", "write")
    assert (found.allowed, found.rule, found.scope) == (False, "reports/no", "write")
    assert decided(some, "web", Verb.MINT, "read").allowed
    every = access(group(rule(), deny=[{"id": "no", "from": ["web"]}]))
    found = decided(every, "web", Verb.MINT, "read")
    assert (found.allowed, found.rule, found.scope) == (False, "reports/no", None)


def test_of_several_rules_the_narrowest_of_what_they_say_holds() -> None:
    rules = access(
        group(
            rule(lasts="15m", may_act="orders"),
            rule(1, scopes=["write"], lasts="2m", binding="certificate"),
            depth=2,
        )
    )
    both = decided(rules, "web", Verb.MINT, "read", "write")
    assert (both.lasts, both.certificate, both.may_act, both.depth) == (timedelta(minutes=2), True, None, 2)
    one = decided(rules, "web", Verb.MINT, "read")
    assert (one.lasts, one.certificate, one.may_act) == (timedelta(minutes=15), False, identity("orders"))


def test_tokens_of_one_outside_issuer_are_admitted_and_not_those_of_another() -> None:
    rules = access(group(rule(may=["admit"], issuers=["corp"])))
    assert decided(rules, "web", Verb.ADMIT, "read", issuer="corp").allowed
    for issuer in ("partner", "internal", "", "corp/read"):
        assert not decided(rules, "web", Verb.ADMIT, "read", issuer=issuer).allowed
    assert not decided(rules, "web", Verb.MINT, "read").allowed


def test_a_condition_sees_the_given_token() -> None:
    when = "token.claims.email_verified == true && token.subject != 'mallory'"
    rules = access(group(rule(may=["admit"], issuers=["corp"], when=when)))

    def login(**claims: Any) -> bool:
        return decided(rules, "web", Verb.ADMIT, "read", issuer="corp", subject=claims).allowed

    assert login(sub="alice", email_verified=True)
    assert not login(sub="alice", email_verified=False)
    assert not login(sub="mallory", email_verified=True)
    assert not login(sub="alice")
    assert not login()
    assert login(sub="alice", email_verified=True)


def test_a_denial_that_cannot_be_judged_denies() -> None:
    allow = rule(may=["receive"])
    deny = {"id": "guests", "from": ["web"], "may": ["receive"], "when": "token.claims.guest == true"}
    rules = access(group(allow, deny=[deny]))
    assert decided(rules, "web", Verb.RECEIVE, "read", subject={"guest": False}).allowed
    for claims in ({"guest": True}, {}):
        found = decided(rules, "web", Verb.RECEIVE, "read", subject=claims)
        assert found.allowed is False
    assert decided(rules, "web", Verb.RECEIVE, "read", subject={}).rule == "reports/guests"


def test_a_rule_and_a_membership_end_by_the_clock() -> None:
    clock = FakeClock()
    rules = access(
        group(
            rule(from_=["orders"], expires="2026-01-01T01:00:00Z", lasts="5m"), rule(1, from_=["role:staff"])
        ),
        clock=clock,
    )
    assert decided(rules, "web").allowed
    assert decided(rules, "orders").rule == "reports/r0"
    clock._now = SOON
    assert not decided(rules, "web").allowed
    assert decided(rules, "orders").rule == "reports/r1"


def test_what_rules_in_shadow_mode_would_do_is_told_where_it_differs() -> None:
    rules = access(
        group(
            rule(),
            rule(1, scopes=["write"], mode="shadow"),
            deny=[{"id": "d", "from": ["web"], "scopes": ["read"], "mode": "shadow"}],
        )
    )
    assert decided(rules, "web", Verb.MINT).shadow is None
    found = decided(rules, "web", Verb.MINT, "read")
    assert (found.allowed, found.shadow) == (True, False)
    found = decided(rules, "web", Verb.MINT, "write")
    assert (found.allowed, found.shadow, found.scope) == (False, True, "write")
    found = decided(rules, "web", Verb.MINT, "read", "write")
    assert (found.allowed, found.shadow) == (False, None)


def test_tokens_are_made_for_those_whom_the_group_names_and_while_it_does() -> None:
    clock = FakeClock()
    rules = access(group(rule()), clock=clock)
    assert rules.owns(identity("reports"), "reports")
    assert not rules.owns(identity("web"), "reports")
    assert not rules.owns(identity("reports"), "other")
    rules = access(group(rule(), **{"for": ["role:staff"]}), clock=clock)
    assert rules.owns(identity("web"), "reports")
    assert not rules.owns(identity("reports"), "reports")
    clock._now = SOON
    assert not rules.owns(identity("web"), "reports")


def test_the_next_question_is_decided_by_the_new_intent_and_the_last_one_holds_while_there_is_none() -> None:
    current: list[Intent | None] = [None]
    rules = IntentTokenAccess(lambda: current[0], FakeClock())
    assert decided(rules) == TokenDecision(allowed=False)
    assert not rules.owns(identity("reports"), "reports")
    current[0] = intent(group(rule(lasts="5m")))
    assert decided(rules).lasts == timedelta(minutes=5)
    current[0] = intent(group(rule(lasts="6m")))
    assert decided(rules).lasts == timedelta(minutes=6)
    current[0] = None
    assert decided(rules).lasts == timedelta(minutes=6)
    assert rules.owns(identity("reports"), "reports")


@pytest.mark.parametrize(
    "scope", ["..", "read/../write", "%72ead", "read;x", "r\\", "re~61d", "READ", "**", "{any}"]
)
def test_a_scope_is_the_very_text_of_the_rule(scope: str) -> None:
    rules = access(group(rule(scopes=["read", "write"])))
    assert not decided(rules, "web", Verb.MINT, scope).allowed


# ------------------------------------------------------------------------------------- outside issuers


def test_an_outside_issuer_is_known_by_its_claim_once_its_keys_are() -> None:
    fetched: dict[str, str] = {}
    found = intent()
    issuers = IntentIssuers(lambda: found, lambda: fetched)
    assert issuers.of(LOGIN) is None
    fetched[f"{LOGIN}/jwks"] = '{"keys": []}'
    corp = issuers.of(LOGIN)
    assert corp is not None
    assert (corp.name, corp.issuer, corp.keys, corp.longest, corp.audiences) == (
        "corp",
        LOGIN,
        '{"keys": []}',
        timedelta(hours=1),
        ("shop",),
    )
    for iss in ("", "internal", "corp", f"{LOGIN}/", "https://partner.example"):
        assert issuers.of(iss) is None


def test_an_issuer_that_the_intent_no_longer_has_is_not_known() -> None:
    current = [intent()]
    issuers = IntentIssuers(lambda: current[0], lambda: {f"{LOGIN}/jwks": "{}"})
    assert issuers.of(LOGIN) is not None
    current[0] = intent(mesh={**MESH, "issuers": {}})
    assert issuers.of(LOGIN) is None
