"""The engine: order, groups, ends, shadows and errors; and that its index finds what a plain reading finds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.policy import (
    NOT_NORMAL,
    Call,
    Condition,
    Effect,
    Engine,
    IdentityMatch,
    McpCall,
    McpDemand,
    Mode,
    PathPattern,
    PortPolicy,
    Rule,
    TokenDemand,
    Verdict,
    decide,
    is_normal,
)
from vestibule.policy.demanding import meets_token
from vestibule.spiffe import SpiffeId

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
CALL = Call(caller=WEB, port="http", method="GET", path="/v1/a", time=NOW)


def rule(name: str, caller: str = str(WEB), **parts: Any) -> Rule:
    paths = tuple(map(PathPattern.parse, parts.pop("paths", "").split()))
    methods = frozenset(parts.pop("methods", "").split())
    when = parts.pop("when", None)
    return Rule(
        name=name,
        callers=(IdentityMatch.parse(caller),),
        paths=paths,
        methods=methods,
        when=None if when is None else Condition.parse(when),
        **parts,
    )


def policy(
    *allow: Rule, deny: tuple[Rule, ...] = (), emergencies: tuple[Rule, ...] = (), **more: Any
) -> PortPolicy:
    return PortPolicy(service="app", port="http", allow=allow, deny=deny, emergencies=emergencies, **more)


def told(made: PortPolicy, call: Call = CALL) -> tuple[bool, str | None]:
    decision = decide(made, call)
    return decision.allowed, decision.rule


def test_denials_go_before_emergencies_and_those_before_permissions() -> None:
    deny, emergency, allow = rule("app/d", effect=Effect.DENY), rule("break-glass/1"), rule("app/a")
    assert told(policy(allow, deny=(deny,), emergencies=(emergency,))) == (False, "app/d")
    assert told(policy(allow, emergencies=(emergency,))) == (True, "break-glass/1")
    assert told(policy(allow)) == (True, "app/a")
    assert told(policy()) == (False, None)


def test_the_first_rule_in_the_order_of_the_intent_gives_its_name_whatever_its_paths_are() -> None:
    rules = [
        rule(f"app/{name}", paths=name) for name in ("/v1/{x}", "/v1/a", "/v1/**", "/**", "/{x}/a", "/{x}/**")
    ]
    for first in rules:
        others = [each for each in rules if each is not first]
        assert told(policy(first, *others)) == (True, first.name)


def test_a_path_that_is_not_normal_is_refused_by_that_name_before_denials() -> None:
    everything = policy(rule("app/a"), deny=(rule("app/d", effect=Effect.DENY),))
    assert told(everything, replace(CALL, path="/%61")) == (False, NOT_NORMAL)
    assert told(everything, replace(CALL, path="/a?x=/../%61")) == (False, "app/d")


@pytest.mark.parametrize(
    ("time", "allowed"), [(NOW - timedelta(seconds=1), True), (NOW, False), (None, False)]
)
def test_a_permission_and_a_membership_end_at_their_instant(time: datetime | None, allowed: bool) -> None:
    call = replace(CALL, time=time)
    assert told(policy(rule("app/a", expires=NOW)), call)[0] is allowed
    member = replace(rule("app/a"), callers=(IdentityMatch(id=WEB, until=NOW),))
    assert told(policy(member), call)[0] is allowed
    twice = (IdentityMatch(id=WEB, until=NOW), IdentityMatch.parse("spiffe://example.org/ns/**"))
    assert told(policy(replace(member, callers=twice)), call)[0]


def test_a_denial_holds_until_it_ends_and_where_no_time_is_known() -> None:
    made = policy(rule("app/a"), deny=(rule("app/d", effect=Effect.DENY, expires=NOW),))
    assert told(made, replace(CALL, time=NOW - timedelta(seconds=1))) == (False, "app/d")
    assert told(made, replace(CALL, time=None)) == (False, "app/d")
    assert told(made, CALL) == (True, "app/a")


def test_a_condition_that_fails_denies_and_does_not_permit() -> None:
    fails = "request.headers['x-tenant'] == 'a'"
    assert told(policy(rule("app/a", when=fails))) == (False, None)
    assert told(policy(rule("app/a"), deny=(rule("app/d", effect=Effect.DENY, when=fails),))) == (
        False,
        "app/d",
    )
    other = replace(CALL, headers={"x-tenant": "b"})
    assert told(policy(rule("app/a"), deny=(rule("app/d", effect=Effect.DENY, when=fails),)), other) == (
        True,
        "app/a",
    )


def test_conditions_know_the_labels_of_both_sides() -> None:
    when = "caller.labels.team == service.labels.team && environment == 'prod' && service.name == 'app'"
    labels = {"team": "pay"}
    made = policy(rule("app/a", when=when), labels=labels, callers={WEB: labels}, environment="prod")
    assert told(made) == (True, "app/a")
    assert told(replace(made, callers={})) == (False, None)


def test_shadow_rules_only_say_what_they_would_do() -> None:
    shadow = rule("app/s", effect=Effect.DENY, mode=Mode.SHADOW)
    decision = decide(policy(rule("app/a"), deny=(shadow,)), CALL)
    assert (decision.allowed, decision.rule) == (True, "app/a")
    assert decision.shadow == Verdict(allowed=False, rule="app/s")
    assert decide(policy(rule("app/a")), CALL).shadow is None
    would = decide(policy(rule("app/a", mode=Mode.SHADOW)), CALL)
    assert (would.allowed, would.rule, would.shadow) == (False, None, Verdict(allowed=True, rule="app/a"))
    refused = decide(policy(rule("app/a", mode=Mode.SHADOW)), replace(CALL, path="//"))
    assert refused.shadow == Verdict(allowed=False, rule=NOT_NORMAL)


def test_a_connection_has_neither_method_nor_path() -> None:
    call = Call(caller=WEB, port="raw", time=NOW)
    assert told(policy(rule("app/a")), call) == (True, "app/a")
    assert told(policy(rule("app/a", paths="/**")), call) == (False, None)
    assert told(policy(rule("app/a", methods="GET")), call) == (False, None)


def test_an_mcp_permission_lets_its_callers_keep_a_session_and_call_what_it_names() -> None:
    made = policy(rule("app/a", mcp=McpDemand(tools=("read_*",))), is_mcp=True)
    post = replace(CALL, method="POST")
    for method, target, allowed in (
        ("tools/call", "read_file", True),
        ("tools/call", "delete_file", False),
        ("initialize", None, True),
        (None, None, True),
        ("prompts/get", "read_file", False),
    ):
        assert told(made, replace(post, mcp=McpCall(method=method, target=target)))[0] is allowed, method
    assert told(made, CALL)[0]
    assert told(made, replace(post, mcp=McpCall(method="no/such")))[1] == "vestibule/mcp-unknown-method"
    denied = replace(made, deny=(rule("app/d", effect=Effect.DENY, mcp=McpDemand(tools=("read_secret",))),))
    assert told(denied, replace(post, mcp=McpCall(method="tools/call", target="read_secret"))) == (
        False,
        "app/d",
    )
    assert told(denied, replace(post, mcp=McpCall(method="initialize")))[0]


DEMAND = TokenDemand(issuer="internal", audience="app", scopes=("read",), claims=(("dept", "fin"),))
CLAIMS: dict[str, Any] = {"aud": ["app"], "scope": "read write", "client_id": str(WEB), "dept": "fin"}


@pytest.mark.parametrize(
    ("change", "meets"),
    [
        ({}, True),
        ({"aud": "app"}, True),
        ({"aud": ["other"]}, False),
        ({"aud": 5}, None),
        ({"aud": ["app", 5]}, None),
        ({"scope": "readwrite"}, False),
        ({"scope": ""}, False),
        ({"scope": ["read"]}, None),
        ({"scope": ["read"], "dept": "sales"}, False),
        ({"scope": 7, "client_id": "spiffe://example.org/other"}, False),
        ({"act": {}, "dept": "sales"}, False),
        ({"dept": "sales"}, False),
        ({"dept": ["fin"]}, False),
        ({"client_id": "spiffe://example.org/other"}, False),
        ({"client_id": 5}, None),
        ({"act": {"sub": str(WEB)}, "client_id": "x"}, True),
        ({"act": {"sub": "spiffe://example.org/other", "act": {"sub": str(WEB)}}}, False),
        ({"act": "web"}, None),
        ({"act": None}, None),
    ],
)
def test_a_token_is_what_is_demanded_or_not_or_cannot_be_judged(
    change: dict[str, Any], meets: bool | None
) -> None:
    call = replace(CALL, tokens={"internal": {**CLAIMS, **change}})
    allow, deny = rule("app/a", token=DEMAND), rule("app/d", effect=Effect.DENY, token=DEMAND)
    assert told(policy(allow), call)[0] is (meets is True)
    assert told(policy(rule("app/x"), deny=(deny,)), call)[0] is (meets is False)
    if meets is None:
        with pytest.raises(VestibuleError):
            meets_token(DEMAND, call)


def test_a_call_without_a_token_meets_no_demand_and_no_denial() -> None:
    assert not told(policy(rule("app/a", token=DEMAND)))[0]
    assert told(policy(rule("app/x"), deny=(rule("app/d", effect=Effect.DENY, token=DEMAND),)))[0]
    assert told(
        policy(rule("app/a", token=replace(DEMAND, bound=False, scopes=(), claims=()))),
        replace(CALL, tokens={"internal": {"aud": "app"}}),
    )[0]


CALLERS = tuple(
    SpiffeId.parse(f"spiffe://{each}")
    for each in ("a.org/x", "a.org/x/y", "a.org/xy", "a.org", "b.org/x", "a.org/x/y/z")
)
SEGMENTS = ("v1", "a", "{id}", "{other}")


def _some_rule(number: int, chance: Random) -> Rule:
    def pattern() -> PathPattern:
        parts = [chance.choice(SEGMENTS) for _ in range(chance.randrange(4))]
        end = chance.choice(("", "/", "/**"))
        return PathPattern.parse("/" + "/".join(parts) + end if parts else end or "/")

    until = chance.choice((None, None, NOW, NOW + timedelta(hours=1)))
    matches = tuple(
        IdentityMatch(id=chance.choice(CALLERS), below=chance.random() < 0.5, until=until)
        for _ in range(chance.randrange(3))
    )
    return Rule(
        name=f"app/{number}",
        callers=matches,
        anyone=not matches and chance.random() < 0.7,
        methods=frozenset(chance.sample(("GET", "POST", "PUT"), chance.randrange(3))),
        paths=tuple(pattern() for _ in range(chance.randrange(3))),
        mode=chance.choice((Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW)),
        expires=chance.choice((None, None, None, NOW, NOW + timedelta(hours=1))),
        port=chance.choice((None, "http", "http", "raw")),
    )


def _plainly(made: PortPolicy, call: Call, *, shadow: bool) -> Verdict:
    """One rule after the other, by what they say of themselves."""
    path = (call.path or "").partition("?")[0]
    if not is_normal(path):
        return Verdict(allowed=False, rule=NOT_NORMAL)
    for rules, allowed in ((made.deny, False), (made.emergencies, True), (made.allow, True)):
        for each in rules:
            speaks = each.mode is Mode.ENFORCE or shadow
            holds = each.anyone or any(m.matches(call.caller) and m.holds(NOW) for m in each.callers)
            lasts = each.expires is None or each.expires > NOW
            asked = (not each.methods or call.method in each.methods) and (
                not each.paths or any(pattern.matches(path) for pattern in each.paths)
            )
            if speaks and holds and lasts and asked and each.port in (None, "http"):
                return Verdict(allowed=allowed, rule=each.name)
    return Verdict(allowed=False)


@pytest.mark.parametrize("seed", range(3))
def test_the_index_finds_what_a_plain_reading_finds(seed: int) -> None:
    chance = Random(seed)
    for _ in range(120):
        rules = [_some_rule(number, chance) for number in range(chance.randrange(12))]
        one, other = sorted((chance.randrange(4), chance.randrange(8)))
        made = PortPolicy(
            service="app",
            port="http",
            deny=tuple(rules[:one]),
            emergencies=tuple(rules[one:other]),
            allow=tuple(rules[other:]),
        )
        engine = Engine(made)
        for _ in range(40):
            parts = [chance.choice(("v1", "a", "b", "", "%61", ".")) for _ in range(chance.randrange(5))]
            path = (
                "/"
                + "/".join(chance.choice((parts, ["v1", "a"], ["a"], ["v1", "b", "a"])))
                + chance.choice(("", "?q"))
            )
            method = chance.choice(("GET", "POST", "DELETE"))
            call = Call(caller=chance.choice(CALLERS), port="http", method=method, path=path, time=NOW)
            decision = engine.decide(call)
            assert Verdict(allowed=decision.allowed, rule=decision.rule) == _plainly(
                made, call, shadow=False
            ), call
            if decision.shadow is not None:
                assert decision.shadow == _plainly(made, call, shadow=True), call


def test_a_path_of_any_length_is_decided_about() -> None:
    engine = Engine(policy(rule("app/a", paths="/a/**"), rule("app/b", paths="/b" + "/{x}" * 200)))
    assert engine.decide(replace(CALL, path="/a" * 4000)).rule == "app/a"
    assert engine.decide(replace(CALL, path="/b" + "/x" * 200)).rule == "app/b"
    assert engine.decide(replace(CALL, path="/b" + "/x" * 3000)).rule is None
