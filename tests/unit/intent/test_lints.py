"""What is allowed and probably not meant."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from time import process_time
from typing import Any

import pytest
from tests.unit.intent.reading import CALLER, MESH, accepted, read

from vestibule.intent import Intent, expired
from vestibule.intent.lints import hints, weaknesses
from vestibule.intent.problems import Problem
from vestibule.policy import Condition, IdentityMatch, PathPattern, Rule

NOW = datetime(2027, 1, 1, tzinfo=UTC)
PAST, FUTURE = "2026-12-31T18:00:00Z", "2027-12-31T18:00:00Z"


def intent(rules: str, mesh: str = "") -> Intent:
    service = "service: payments\nports: {http: {protocol: http}}\n" + rules
    return accepted(read(service, MESH + mesh, bob=CALLER.format("bob")))


def told(problems: tuple[Problem, ...]) -> list[str]:
    return [f"{each.where} {each.code.code} {each.message}" for each in problems]


def weak(rules: str, mesh: str = "") -> list[str]:
    return told(weaknesses(intent(rules, mesh), NOW))


def test_an_intent_as_it_should_be_has_no_weakness() -> None:
    assert weaknesses(accepted(read()), NOW) == ()
    assert hints(accepted(read())) == ()


def test_a_rule_that_is_denied_whole_allows_nothing() -> None:
    rules = "allow: [{id: a, from: [orders], methods: [PUT], paths: [/v1/**]}, {id: b, from: [bob], paths: [/v1/**]}]\n"
    deny = "deny:\n- {id: no, from: ['spiffe://example.org/ns/prod/sa/**'], methods: [PUT, DELETE]}\n"
    assert weak(rules + deny) == [
        "services/payments.yaml:3:9 VST0071 the rule payments/a allows nothing: payments/no denies all of it"
    ]
    assert weak(rules + deny.replace("DELETE]", "DELETE], mode: shadow")) == []
    assert weak(rules + deny.replace("DELETE]", f"DELETE], expires: {FUTURE}")) == []
    assert weak(rules + deny.replace("DELETE]", "DELETE], when: request.host == 'a'")) == []


def test_a_shadow_rule_that_no_proxy_can_judge_is_told_of() -> None:
    tried = "{id: a, from: [orders], when: 'request.body.n > 1', mode: shadow}"
    (told_of,) = weak(f"allow: [{tried}]\n")
    assert "VST0077 payments/a asks for request.body, which no proxy knows" in told_of
    assert weak(f"allow: [{tried}]\n", "decide: central\n") == []
    enforced = "{id: b, from: [bob], when: 'request.body.n > 2'}"
    assert weak(f"allow: [{tried}, {enforced}]\n") == []


@pytest.mark.parametrize(
    ("rule", "is_told"),
    [
        ("{id: a, from: ['spiffe://example.org/ns/prod/**']}", True),
        ("{id: a, from: ['spiffe://example.org/ns/**'], paths: ['/**']}", True),
        (f"{{id: a, from: anyone, reason: a, expires: {FUTURE}}}", True),
        ("{id: a, from: ['spiffe://example.org/ns/prod/**'], methods: [GET, HEAD]}", False),
        ("{id: a, from: ['spiffe://example.org/ns/prod/**'], paths: [/public/**]}", False),
        ("{id: a, from: ['spiffe://example.org/ns/prod/**'], when: request.host == 'a'}", False),
        ("{id: a, from: ['spiffe://example.org/ns/prod/**'], mode: shadow}", False),
        ("{id: a, from: ['spiffe://example.org/ns/partners/**']}", False),
        ("{id: a, from: [orders]}", False),
    ],
)
def test_a_rule_that_lets_every_service_make_every_call_is_too_broad(rule: str, is_told: bool) -> None:
    found = weak(f"allow:\n- {rule}\n")
    assert [each.split()[1] for each in found] == ["VST0072"] * is_told


def test_an_identity_that_would_be_a_services_and_is_none_names_nobody() -> None:
    rules = "allow:\n- {id: a, from: ['spiffe://example.org/ns/prod/sa/ordes']}\n"
    assert weak(rules) == [
        "services/payments.yaml:4:3 VST0073 the rule payments/a names spiffe://example.org/ns/prod/sa/ordes, and "
        "there is no service 'ordes'; did you mean 'orders'?"
    ]
    assert weak(rules.replace("prod/sa", "batch/sa")) == []


def test_a_rule_whose_members_all_left_names_nobody() -> None:
    mesh = f"roles: {{temps: [{{who: bob, until: {PAST}}}], others: [{{who: bob, until: {PAST}}}, orders]}}\n"
    both = "- {id: b, from: ['role:others'], paths: [/a]}\n"
    found = intent("allow:\n- {id: a, from: ['role:temps']}\n" + both, mesh)
    assert [each.split()[0] for each in told(weaknesses(found, NOW))] == ["services/payments.yaml:4:3"]
    assert [each.message for each in expired(found, NOW)] == [
        f"the membership of spiffe://example.org/ns/prod/sa/bob in the role {role} ended at 2026-12-31 18:00 UTC"
        for role in ("temps", "others")
    ]


def test_a_rule_that_ended_is_told() -> None:
    found = intent(f"allow:\n- {{id: a, from: [bob], expires: {PAST}}}\n")
    (ended,) = expired(found, NOW)
    assert ended.message == "the rule payments/a ended at 2026-12-31 18:00 UTC"


def test_a_role_that_no_rule_speaks_of_is_told_even_if_another_such_role_does() -> None:
    mesh = "roles:\n  used: ['role:inner']\n  inner: [bob]\n  idle: ['role:lost']\n  lost: [bob]\n"
    assert weak("allow:\n- {id: a, from: ['role:used']}\n", mesh) == [
        "mesh.yaml:7:3 VST0074 no rule speaks of the role 'idle'",
        "mesh.yaml:8:3 VST0074 no rule speaks of the role 'lost'",
    ]


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("from: [orders], methods: [GET]", "from: [orders], paths: [/a]", True),
        ("from: [orders, bob], paths: [/a]", "from: [orders], paths: ['/{x}']", True),
        ("from: ['spiffe://example.org/ns/**'], paths: [/a/**]", "from: [orders], paths: ['/{x}/b']", True),
        ("from: [orders], methods: [GET]", "from: [orders], methods: [PUT], paths: [/a]", False),
        ("from: [orders], paths: [/a]", "from: [orders], paths: [/b]", False),
        ("from: [orders], paths: [/a]", "from: [bob], paths: ['/{x}']", False),
        ("from: ['spiffe://example.org/ns/x/**'], paths: [/a]", "from: [bob], paths: ['/{x}']", False),
    ],
)
def test_rules_that_allow_the_same_call_are_told_to_those_who_ask(
    one: str, other: str, overlap: bool
) -> None:
    found = hints(intent(f"allow:\n- {{id: a, {one}}}\n- {{id: b, {other}}}\n"))
    assert [each.code.code for each in found] == ["VST0075"] * overlap


def test_a_denial_of_what_nobody_allows_is_told_to_those_who_ask() -> None:
    rules = "allow: [{id: a, from: [orders], methods: [GET]}]\n"
    for deny, is_told in (
        ("from: [bob]", True),
        ("from: [orders], methods: [PUT]", True),
        ("from: anyone", False),
    ):
        found = hints(intent(f"{rules}deny: [{{id: b, {deny}}}]\n"))
        assert [each.code.code for each in found] == ["VST0076"] * is_told


def made(name: str, caller: str, path: str, **more: Any) -> Rule:
    callers, paths = (IdentityMatch.parse(caller),), (PathPattern.parse(path),)
    return Rule(name=f"payments/{name}", callers=callers, paths=paths, port="http", **more)


def test_ten_thousand_rules_are_looked_at_while_somebody_waits() -> None:
    """Of one caller, of callers of their own, of patterns of callers; with conditions; and many that deny."""
    orders = "spiffe://example.org/ns/prod/sa/orders"
    some = [made(f"a{n}", orders, f"/a{n}/b") for n in range(3000)]
    some += [made(f"b{n}", f"spiffe://example.org/w/{n}", "/**") for n in range(3000)]
    some += [made(f"c{n}", f"spiffe://example.org/v/{n}/**", f"/{{x}}/c{n}") for n in range(3000)]
    some += [made(f"e{n}", orders, "/e", when=Condition(source=f"{n} > 1")) for n in range(1000)]
    deny = [made(f"d{n}", orders, f"/a{n}/**", methods=frozenset({"PUT"})) for n in range(3000)]
    plain = accepted(read())
    service = replace(plain.services["payments"], allow=tuple(some), deny=tuple(deny))
    many = replace(plain, services={**plain.services, "payments": service})
    began = process_time()
    assert weaknesses(many, NOW) == ()
    assert hints(many)
    assert process_time() - began < 30
