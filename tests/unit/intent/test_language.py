"""The language: what it says comes out as the model, and everything else is refused where it stands."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from tests.unit.intent.reading import CALLER, MESH, PAYMENTS, accepted, found, only, read, records

from vestibule.intent import DenyDetail, Protocol, codes
from vestibule.intent.nodes import START, Kind, Mapping, Scalar
from vestibule.intent.not_yet import NOT_YET
from vestibule.intent.problems import Findings
from vestibule.policy import Call
from vestibule.spiffe import SpiffeId
from vestibule.testing.deciding import decided


def with_rule(line: str) -> str:
    return PAYMENTS + f"    {line}\n"


def test_an_intent_says_who_may_call_whom() -> None:
    intent = accepted(read())
    payments = intent.services["payments"]
    assert payments.spiffe_id == SpiffeId.parse("spiffe://example.org/ns/prod/sa/payments")
    assert payments.ports["http"].protocol is Protocol.HTTP
    assert payments.ports["http"].app_port == 8080
    (rule,) = payments.allow
    assert (rule.name, rule.port, str(rule.where)) == (
        "payments/orders-charge",
        "http",
        "services/payments.yaml:4:5",
    )
    orders = intent.services["orders"].spiffe_id
    assert decided(
        payments.allow, Call(caller=orders, port="http", method="POST", path="/v1/charges")
    ).allowed


def test_all_keys_of_this_version_are_kept() -> None:
    mesh = (
        "mesh: shop\ntrust_domain: example.org\nenvironment: prod\nidentity: /{mesh}/{environment}/{service}\n"
        "defaults: {timeout: 500ms, mtls: strict}\n"
        "roles: {readers: [orders, 'spiffe://example.org/ns/partners/**']}\n"
    )
    payments = (
        "service: payments\nowner: team-payments\nlabels: {data: pci}\ndeny_detail: caller\n"
        "ports: {http: {protocol: http2}, raw: {app: 9000, protocol: tcp}}\n"
        "allow:\n- {id: read, from: ['role:readers', payments], port: http, mode: enforce, paths: ['/a/{id}/**']}\n"
        "- {id: raw, from: ['spiffe://example.org/ns/x'], port: raw}\n"
    )
    intent = accepted(read(payments, mesh))
    service = intent.services["payments"]
    assert intent.mesh.defaults.timeout == timedelta(milliseconds=500)
    assert str(service.spiffe_id) == "spiffe://example.org/shop/prod/payments"
    assert (service.owner, service.deny_detail, dict(service.labels)) == (
        "team-payments",
        DenyDetail.CALLER,
        {"data": "pci"},
    )
    assert [str(caller) for caller in service.allow[0].callers] == [
        "spiffe://example.org/shop/prod/orders",
        "spiffe://example.org/ns/partners/**",
        "spiffe://example.org/shop/prod/payments",
    ]
    assert [rule.name for rule in service.rules_for("raw")] == ["payments/raw"]


def test_every_problem_is_reported_at_once() -> None:
    payments = (
        "service: payments\nowner: 12\nlabel: {a: b}\nports: {http: {app: 0, protocol: htp}}\ndecide: []\n"
        "allow:\n  - from: [ordres]\n    methods: [post]\n    paths: [/a/../b, /c]\n"
    )
    loaded = read(payments, MESH.replace("prod", "Prod"))
    assert found(loaded) == [
        "mesh.yaml:3:14 VST0024",
        "services/payments.yaml:2:8 VST0022",
        "services/payments.yaml:3:1 VST0020",
        "services/payments.yaml:4:21 VST0025",
        "services/payments.yaml:4:34 VST0025",
        "services/payments.yaml:5:1 VST0020",
        "services/payments.yaml:7:5 VST0021",
        "services/payments.yaml:7:12 VST0040",
        "services/payments.yaml:8:15 VST0025",
        "services/payments.yaml:9:13 VST4010",
    ]
    assert all(problem.advice for problem in loaded.problems)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        (PAYMENTS.replace("allow:", "alow:"), "'allow'"),
        (PAYMENTS.replace("methods:", "method:"), "'methods'"),
        (PAYMENTS.replace("protocol: http", "protocl: http"), "'protocol'"),
        (PAYMENTS.replace("protocol: http", "protocol: htttp"), "'http'"),
        (PAYMENTS.replace("[POST]", "[Post]"), "'POST'"),
        (PAYMENTS.replace("[orders]", "[oders]"), "'orders'"),
        (with_rule("port: htp"), "'http'"),
        (PAYMENTS.replace("[orders]", "['role:reader']"), "'readers'"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest_one(wrong: str, nearest: str) -> None:
    loaded = read(wrong, MESH + "roles: {readers: [orders]}\n")
    assert any(f"Did you mean {nearest}?" == problem.advice for problem in loaded.problems), found(loaded)


@pytest.mark.parametrize(
    "line",
    ["when: request.body.amount < 100", "when: attributes.risk == 'low'"],
)
def test_a_condition_may_ask_for_what_no_proxy_knows(line: str) -> None:
    loaded = read(with_rule(line))
    assert not loaded.problems
    assert loaded.intent is not None
    when = loaded.intent.services["payments"].allow[0].when
    assert when is not None
    assert when.central


def test_every_key_that_is_read_is_acted_upon() -> None:
    assert set() == NOT_YET


@pytest.mark.parametrize("entry", ["a service: routes", "defaults: retry", "mesh.yaml: roles"])
def test_a_key_that_no_compiler_acts_on_would_be_refused_and_no_editor_offered_it(entry: str) -> None:
    NOT_YET.add(entry)
    try:
        title, _, name = entry.partition(": ")
        record = next(each for each in records() if each.title == title)
        findings = Findings("a.yaml")
        written = ((Scalar(START, name, Kind.TEXT), Scalar(START, "", Kind.NULL)),)
        record.read(Mapping(START, written), findings)
        assert codes.NOT_SUPPORTED in [found.code for found in findings.problems()]
        assert name not in record.schema()["properties"]
    finally:
        NOT_YET.discard(entry)


@pytest.mark.parametrize(
    ("payments", "code", "why"),
    [
        (with_rule("port: raw"), "VST0040", "no port 'raw'"),
        (PAYMENTS.replace("[orders]", "orders"), "VST0022", "a list"),
        (PAYMENTS.replace("[orders]", "[]"), "VST0025", "empty"),
        (PAYMENTS.replace("[POST]", "[]"), "VST0025", "empty"),
        (PAYMENTS.replace("[/v1/charges]", "[]"), "VST0025", "empty"),
        (PAYMENTS.replace("[orders]", "[orders, orders]"), "VST0026", "twice"),
        (PAYMENTS.replace("[POST]", "[CONNECT]"), "VST0025", "not a method"),
        (PAYMENTS.replace("[orders]", "['spiffe://example.org/**']"), "VST0043", "whole trust domain"),
        (PAYMENTS.replace("[orders]", "['spiffe://example.org']"), "VST0043", "only a trust domain"),
        (PAYMENTS.replace("[orders]", "['spiffe://example.org/spire/agent/**']"), "VST0043", "agents"),
        (PAYMENTS.replace("[orders]", "['spiffe://other.org/a']"), "VST0043", "not in the trust domain"),
        (PAYMENTS.replace("[orders]", "['spiffe://example.org/a/*']"), "VST4011", "wildcard"),
        (PAYMENTS.replace("[orders]", "['role:readers']"), "VST0040", "no role 'readers'"),
        (
            PAYMENTS.replace("protocol: http", "protocol: tcp").replace("    methods: [POST]\n", ""),
            "VST0050",
            "paths",
        ),
        (PAYMENTS.replace("protocol: http", "protocol: grpc").replace("POST", "GET"), "VST0051", "GET"),
        (PAYMENTS.replace("{http: {app: 8080, protocol: http}}", "{}"), "VST0044", "no ports"),
        (
            PAYMENTS.replace("protocol: http}", "protocol: http}, b: {protocol: http}"),
            "VST0044",
            "has 2 ports",
        ),
        (
            PAYMENTS.replace("protocol: http}", "protocol: http}, b: {app: 8080, protocol: tcp}")
            + "    port: http\n",
            "VST0026",
            "same app port",
        ),
        (PAYMENTS.replace("8080", "70000"), "VST0025", "from 1 to 65535"),
        (PAYMENTS.replace("8080", "'8080'"), "VST0022", "whole number"),
        (PAYMENTS.replace("8080", "80.5"), "VST0022", "whole number"),
        (PAYMENTS.replace("8080", "9" * 5000), "VST0025", "whole number"),
        (PAYMENTS.replace("orders-charge", "Orders"), "VST0024", "not a name"),
        (PAYMENTS.replace("[/v1/charges]", "[/v1/**, /v1/charges]"), "VST0052", "/v1/charges is matched by"),
        (PAYMENTS + "deny_detail: all\n", "VST0025", "not one of code, caller"),
        (PAYMENTS + "labels: {tier: 1}\n", "VST0022", "a text"),
        (PAYMENTS + "owner: ''\n", "VST0025", "empty"),
        (PAYMENTS + 'owner: "a\\nb"\n', "VST0025", "several lines"),
        (PAYMENTS + 'owner: "team\u202epay"\n', "VST0014", "U\\+202E"),
        (PAYMENTS + "service: payments\n", "VST0012", "twice, first in line 1"),
        (PAYMENTS.replace("service: payments", "service: payment"), "VST0004", "'payments'.*'payment'"),
    ],
)
def test_a_service_that_makes_no_sense_is_refused(payments: str, code: str, why: str) -> None:
    place, message, advice = only(read(payments))
    assert place.endswith(code)
    assert re.search(why, message), message
    assert advice


@pytest.mark.parametrize(
    ("mesh", "code"),
    [
        (MESH.replace("example.org", "Example.org"), "VST0025"),
        (MESH.replace("example.org", "spiffe://example.org"), "VST0025"),
        (MESH.replace("example.org", "ex ample"), "VST1400"),
        (MESH.replace("environment: prod\n", ""), "VST0021"),
        (MESH + "defaults: {timeout: 5}\n", "VST0022"),
        (MESH + "defaults: {mtls: permissive}\n", "VST0025"),
        (MESH + "defaults: {timeout: 5 s}\n", "VST0025"),
        (MESH + "defaults: {timeout: 0s}\n", "VST0025"),
        (MESH + "defaults: {timeout: 2h}\n", "VST0025"),
        (MESH + "roles: {a: []}\n", "VST0025"),
        (MESH + "roles: {a: ['role:b']}\n", "VST0040"),
        (MESH + "roles: {a: ['role:a']}\n", "VST0069"),
        (MESH + "roles: {a: [anyone]}\n", "VST0025"),
        (MESH + "roles: {a: [nobody]}\n", "VST0040"),
        (MESH + "identity: /sa/shared\n", "VST0041"),
        (MESH + "identity: /sa/{servce}\n", "VST0041"),
        (MESH + "identity: sa/{service}\n", "VST0041"),
        (MESH + "identity: /sa//{service}\n", "VST0041"),
        (MESH + "identity: /sa/{service}/\n", "VST0041"),
        (MESH + "identity: /sa/{service\n", "VST0041"),
        (MESH + "identity: /sä/{service}\n", "VST0041"),
        (MESH + "identity: /spire/{service}\n", "VST0042"),
        (MESH + "identity: /vestibule/{service}\n", "VST0042"),
    ],
)
def test_a_mesh_that_makes_no_sense_is_refused_once(mesh: str, code: str) -> None:
    assert only(read(mesh=mesh))[0].endswith(code)


def test_a_service_whose_identity_would_be_reserved_is_refused() -> None:
    spire = CALLER.format("spire")
    loaded = read(mesh=MESH + "identity: /{service}\n", spire=spire)
    assert only(loaded)[0] == "services/spire.yaml:1:10 VST0042"
    accepted(read(mesh=MESH + "identity: /sa/{service}\n", spire=spire))


@pytest.mark.parametrize(
    "name",
    ["localhost", "anyone", "vestibule", "break-glass", "Orders", "a_b", "1a", "a-", "a.b", "a" * 64, "ä"],
)
def test_a_name_that_cannot_be_a_host_is_refused(name: str) -> None:
    assert "VST0024" in "".join(found(read(**{name: CALLER.format(f"'{name}'")})))


def test_two_rules_with_one_id_are_refused_even_on_one_line() -> None:
    rules = "allow: [{id: a, from: [orders], paths: [/a]}, {id: a, from: [orders], paths: [/b]}]\n"
    place, message, _ = only(read("service: payments\nports: {http: {protocol: http}}\n" + rules))
    assert place == "services/payments.yaml:3:52 VST0026"
    assert "line 3" in message


def test_a_rule_that_changes_nothing_is_refused_and_the_other_named() -> None:
    more = PAYMENTS + "  - {id: all, from: [orders]}\n"
    place, message, _ = only(read(more))
    assert place == "services/payments.yaml:4:5 VST0052"
    assert "payments/all allows all of it" in message
    same = PAYMENTS + "  - {id: again, from: [orders], methods: [POST], paths: [/v1/charges]}\n"
    assert only(read(same))[0] == "services/payments.yaml:8:5 VST0052"


def test_a_rule_that_is_wrong_itself_makes_no_other_superfluous() -> None:
    more = PAYMENTS + "  - {id: all, from: [orders], paths: [//]}\n"
    assert only(read(more))[0].endswith(":8:39 VST4010")


def test_a_service_with_ports_and_no_rules_is_warned_about_and_works() -> None:
    loaded = read("service: payments\nports: {http: {protocol: http}}\n")
    assert only(loaded)[0] == "services/payments.yaml:2:1 VST0060"
    assert loaded.intent is not None
    accepted(read("service: payments\nports: {http: {protocol: http}}\nallow: []\n"))


def test_a_broken_mesh_does_not_make_every_role_unknown() -> None:
    loaded = read(PAYMENTS.replace("[orders]", "['role:readers']"), "- a\n")
    assert found(loaded) == ["mesh.yaml:1:1 VST0022"]


def test_a_service_whose_file_is_broken_still_counts_as_declared() -> None:
    assert found(read(orders="- no\n")) == ["services/orders.yaml:1:1 VST0022"]


def test_the_version_follows_the_content() -> None:
    first, again, other = accepted(read()), accepted(read()), accepted(read(with_rule("port: http")))
    assert first == again
    assert hash(first) == hash(again)
    assert first.version != other.version
    assert first.services == other.services, "the same meaning, said differently"


def test_a_file_full_of_problems_is_cut_short() -> None:
    loaded = read(PAYMENTS + "".join(f"k{n}: 1\n" for n in range(5000)))
    assert len(loaded.problems) == 101
    assert any(problem.code.code == "VST0005" for problem in loaded.problems)


def test_a_service_is_built_anew_only_if_it_or_what_it_refers_to_changed() -> None:
    first = accepted(read())
    owned = accepted(read(orders=CALLER.format("orders") + "owner: me\n"))
    assert owned.services["payments"] is first.services["payments"]
    assert owned.services["orders"] is not first.services["orders"]
    slower = accepted(read(mesh=MESH + "defaults: {timeout: 1s}\n"))
    assert slower.services["payments"] is not first.services["payments"]
    elsewhere = accepted(read(mesh=MESH.replace("prod", "test")))
    assert str(elsewhere.services["payments"].spiffe_id).endswith("/ns/test/sa/payments")


def test_problems_are_told_again_each_time() -> None:
    wrong = with_rule("port: raw")
    assert found(read(wrong)) == found(read(wrong)) == ["services/payments.yaml:8:11 VST0040"]
    assert found(read(wrong, orders=CALLER.format("orders") + "alow: []\n")) == [
        "services/orders.yaml:2:1 VST0020",
        "services/payments.yaml:8:11 VST0040",
    ]
