"""What a proxy decides alone, and what it asks a decision service about."""

from __future__ import annotations

import re
from dataclasses import replace

from vestibule.envoy import central
from vestibule.envoy.names import ASKED
from vestibule.intent.model import Decide
from vestibule.intent.words import NOT_SERVICES
from vestibule.policy import Condition, Effect, IdentityMatch, Mode, PortPolicy, Rule
from vestibule.policy.central import MANY_CALLERS
from vestibule.spiffe import SpiffeId

ORDERS = IdentityMatch(id=SpiffeId.parse("spiffe://example.org/orders"))


def rule(name: str, when: str = "", *, deny: bool = False, mode: Mode = Mode.ENFORCE) -> Rule:
    return Rule(
        name=f"payments/{name}",
        callers=(ORDERS,),
        when=Condition.parse(when) if when else None,
        effect=Effect.DENY if deny else Effect.ALLOW,
        mode=mode,
    )


def policy(*allow: Rule, deny: tuple[Rule, ...] = (), emergencies: tuple[Rule, ...] = ()) -> PortPolicy:
    return PortPolicy(service="payments", port="http", allow=allow, deny=deny, emergencies=emergencies)


BODY = rule("body", "request.body.amount < 5.0")
NO_BODY = rule("no-body", "request.body.amount > 5.0", deny=True)
PLAIN, NO = rule("plain"), rule("no", deny=True)
OPENED = Rule(name="break-glass/1", callers=(ORDERS,))


def names(rules: tuple[Rule, ...]) -> list[str]:
    return [each.name for each in rules]


def test_a_proxy_decides_what_it_can() -> None:
    assert central.decided_where(policy(PLAIN, deny=(NO,)), Decide.LOCAL) is None


def test_permissions_before_the_first_that_is_central_stay_in_the_proxy() -> None:
    found = central.decided_where(
        policy(PLAIN, BODY, rule("later"), deny=(NO,), emergencies=(OPENED,)), Decide.LOCAL
    )
    assert found is not None
    assert names(found.local.deny) == ["payments/no"]
    assert names(found.local.emergencies) == ["break-glass/1"]
    assert names(found.local.allow) == ["payments/plain", ASKED]
    assert found.why == "payments/body asks for request.body, which no proxy knows"


def test_after_a_central_denial_nothing_is_allowed_by_the_proxy() -> None:
    found = central.decided_where(
        policy(PLAIN, deny=(NO, NO_BODY, rule("late", deny=True)), emergencies=(OPENED,)), Decide.LOCAL
    )
    assert found is not None
    assert names(found.local.deny) == ["payments/no"]
    assert found.local.emergencies == ()
    assert names(found.local.allow) == [ASKED]


def test_a_rule_in_shadow_mode_does_not_change_who_decides() -> None:
    shadow = replace(NO_BODY, mode=Mode.SHADOW)
    tried = policy(PLAIN, deny=(shadow, NO))
    assert central.decided_where(tried, Decide.LOCAL) is None
    # Of calls that it may be about the proxy says nothing that it does not know.
    alone = central.without_unjudged(tried)
    assert [(each.name, each.mode, each.when) for each in alone.deny] == [
        (ASKED, Mode.SHADOW, None),
        ("payments/no", Mode.ENFORCE, None),
    ]
    assert central.without_unjudged(policy(PLAIN, deny=(NO,))) == policy(PLAIN, deny=(NO,))


def test_where_a_decision_service_is_asked_anyway_a_shadow_rule_takes_nothing_from_the_proxy() -> None:
    shadow = replace(NO_BODY, mode=Mode.SHADOW)
    found = central.decided_where(policy(PLAIN, BODY, deny=(shadow, NO)), Decide.LOCAL)
    assert found is not None
    assert names(found.local.deny) == [ASKED, "payments/no"]
    assert names(found.local.allow) == ["payments/plain", ASKED, ASKED]
    assert [each.mode for each in found.local.allow] == [Mode.ENFORCE, Mode.ENFORCE, Mode.SHADOW]
    assert found.why == "payments/body asks for request.body, which no proxy knows"


def test_nobody_is_refused_for_a_long_body_that_only_a_shadow_rule_looks_at() -> None:
    shadow = replace(NO_BODY, mode=Mode.SHADOW)
    asked = central.question(policy(PLAIN, deny=(shadow,))).with_request_body
    assert (asked.max_request_bytes, asked.allow_partial_message) == (65536, True)
    assert not central.question(policy(BODY, deny=(shadow,))).with_request_body.allow_partial_message


def test_a_mesh_that_says_so_keeps_denials_and_break_glass_in_the_proxy() -> None:
    found = central.decided_where(policy(PLAIN, deny=(NO,), emergencies=(OPENED,)), Decide.CENTRAL)
    assert found is not None
    assert names(found.local.deny) == ["payments/no"]
    assert names(found.local.emergencies) == ["break-glass/1"]
    assert names(found.local.allow) == [ASKED]
    assert found.why == "mesh.yaml says decide: central"


def test_tcp_is_always_decided_by_the_proxy() -> None:
    assert central.decided_where(replace(policy(PLAIN), is_http=False), Decide.CENTRAL) is None


def test_a_rule_that_names_thousands_is_not_sent_to_proxies() -> None:
    many = tuple(
        IdentityMatch(id=SpiffeId.parse(f"spiffe://example.org/u{number}"))
        for number in range(MANY_CALLERS + 1)
    )
    found = central.decided_where(policy(replace(PLAIN, callers=many)), Decide.LOCAL)
    tried = central.without_unjudged(policy(replace(PLAIN, callers=many, mode=Mode.SHADOW)))
    assert [(each.name, each.callers, each.anyone) for each in tried.allow] == [(ASKED, (), True)]
    assert found is not None
    assert found.why == "payments/plain names 2001 callers, which are not sent to every proxy"
    assert central.decided_where(policy(replace(PLAIN, callers=many[:-1])), Decide.LOCAL) is None


def test_the_question_fails_closed_and_changes_nothing() -> None:
    asked = central.question(policy(PLAIN))
    assert not asked.failure_mode_allow
    assert asked.status_on_error.code == 503
    assert asked.decoder_header_mutation_rules.disallow_all.value
    assert not asked.HasField("with_request_body")


def test_a_body_is_sent_only_where_a_rule_asks_for_it() -> None:
    asked = central.question(policy(BODY)).with_request_body
    assert (asked.max_request_bytes, asked.pack_as_bytes, asked.allow_partial_message) == (65536, True, False)


def headers(*conditions: str) -> list[str]:
    config = central.question(policy(*(rule(str(n), each) for n, each in enumerate(conditions))))
    return [each.exact for each in config.allowed_headers.patterns]


def test_only_headers_that_rules_ask_for_are_sent() -> None:
    assert headers("request.method == 'GET'") == ["x-request-id"]
    assert headers("request.headers['x-t'] == 'a'", "'x-u' in request.headers && has(request.headers.v)") == [
        "v",
        "x-request-id",
        "x-t",
        "x-u",
    ]


def test_all_headers_are_sent_where_rules_may_ask_for_any() -> None:
    assert headers("size(request.body) > 1 && request.headers.exists(name, name == 'x')") == []
    assert headers("request.headers[string(request.body.header)] == 'x'") == []


def test_the_question_is_skipped_only_for_names_of_rules() -> None:
    matcher = central.question(policy(PLAIN)).filter_enabled_metadata
    assert matcher.invert
    assert matcher.value.string_match.safe_regex.regex == "(?:payments|break-glass)/.*"


def test_the_policy_that_is_sent_is_the_whole_one() -> None:
    resource = central.decisions(policy(PLAIN, BODY))
    assert resource.name == "http"
    assert b"payments/body" in resource.body


def test_the_rule_that_lets_through_to_the_question_is_never_taken_for_one_that_allowed() -> None:
    """A service of that name would make the question go unasked."""
    assert ASKED.partition("/")[0] in NOT_SERVICES
    never_asked = central.question(policy(BODY)).filter_enabled_metadata
    assert never_asked.invert
    decided = re.compile(never_asked.value.string_match.safe_regex.regex)
    assert decided.fullmatch("payments/plain")
    assert decided.fullmatch("break-glass/1")
    assert not decided.fullmatch(ASKED)
    assert not decided.fullmatch("vestibule/not-revoked")
