"""Who has an entry in which place, and what stands in it.  That Envoy reads it so is shown by tests/differential."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.e2e.mesh_lab import rule, spiffe_id

from vestibule.envoy import rbac
from vestibule.envoy.candidates import ANYONE, Places, wider_keys
from vestibule.envoy.predicates import OfRequests, less_than
from vestibule.errors import VestibuleError
from vestibule.policy import Condition, Effect, PortPolicy, Rule
from vestibule.policy.crowding import MOST_IN_A_ROW

ASK = OfRequests(PortPolicy(service="app", port="http"))
WEB, BELOW = str(spiffe_id("web")), "spiffe://example.org/ns/prod/"


def entries(path: str, *rules: Rule) -> dict[str, list[str]]:
    places = Places.of(list(enumerate(rules)), ASK)
    place = dict(places.paths())[path]
    return {
        key: [each.rule.name for each in choices] for key, choices in place.entries(ASK).items() if choices
    }


def test_the_keys_that_mean_a_caller_and_others_are_tried_from_the_narrowest() -> None:
    assert wider_keys("spiffe://example.org/a/b") == (
        "spiffe://example.org/a/",
        "spiffe://example.org/",
        ANYONE,
    )
    assert wider_keys("spiffe://example.org/a/") == ("spiffe://example.org/", ANYONE)
    assert wider_keys("spiffe://example.org") == (ANYONE,)
    assert wider_keys(ANYONE) == ()


def test_a_place_has_entries_only_for_those_whom_its_own_rules_name() -> None:
    found = entries("/a", rule("x/all", "orders"), rule("x/a", "web", paths="/a"))
    assert found == {WEB: ["x/a"]}


def test_an_entry_holds_what_wider_places_say_in_the_order_of_the_intent() -> None:
    early = entries("/a", rule("x/all", "web", methods="GET"), rule("x/a", "web", paths="/a"))
    assert early == {WEB: ["x/all", "x/a"]}
    late = entries("/a", rule("x/a", "web", paths="/a"), rule("x/all", "web", methods="GET"))
    assert late == {WEB: ["x/a"]}


def test_somebody_whom_an_earlier_rule_names_is_told_from_the_many_of_a_later_one() -> None:
    rules = rule("x/web", "web"), rule("x/many", f"{BELOW}**", paths="/a")
    assert entries("/a", *rules) == {
        BELOW: ["x/many"],
        "spiffe://example.org/ns/prod": ["x/many"],
        WEB: ["x/web"],
    }
    assert WEB not in entries("/a", rules[1], rules[0])


def test_templates_that_fit_a_written_path_are_not_asked_for_again() -> None:
    found = entries(
        "/a/b", rule("x/t", "web", paths="/a/{id}"), rule("x/b", "web", paths="/a/b", methods="GET")
    )
    assert found == {WEB: ["x/t"]}


def test_more_rules_in_a_row_than_a_call_may_cost_are_not_compiled() -> None:
    rules = tuple(rule(f"x/r{number}", "web", paths=f"/{{tenant}}/a{number}") for number in range(150))
    with pytest.raises(VestibuleError, match="VST4050"):
        rbac.http_rbac(PortPolicy(service="x", port="http", allow=rules))


def test_break_glass_keeps_nothing_from_a_proxy_however_many_are_open() -> None:
    ends = datetime(2090, 1, 1, tzinfo=UTC)
    ending = tuple(replace(rule(f"x/r{n}", "web"), expires=ends) for n in range(MOST_IN_A_ROW))
    opened = tuple(replace(rule(f"break-glass/{n}", "web"), expires=ends) for n in range(MOST_IN_A_ROW))
    policy = PortPolicy(service="x", port="http", allow=ending, emergencies=opened)
    assert b"break-glass/99" in rbac.http_rbac(policy).SerializeToString()
    connections = PortPolicy(service="x", port="tcp", allow=ending, emergencies=opened, is_http=False)
    assert b"break-glass/99" in rbac.network_rbac(connections).SerializeToString()


def test_labels_of_many_callers_are_put_into_many_rules_in_reasonable_time() -> None:
    callers = {spiffe_id(f"s{n}"): {"env": "prod" if n % 2 else "test"} for n in range(300)}
    when = Condition.parse("caller.labels.env == 'prod'")
    rules = tuple(
        replace(rule(f"x/r{n}", paths=f"/v{n}/a"), anyone=True, when=when, effect=Effect.DENY)
        for n in range(100)
    )
    started = time.process_time()
    rbac.http_rbac(PortPolicy(service="x", port="http", deny=rules, callers=callers))
    assert time.process_time() - started < 8


def labelled(conditions: list[str], labels: dict[str, list[str]]) -> PortPolicy:
    callers = {
        spiffe_id(f"service-{n}"): {name: values[n % len(values)] for name, values in labels.items()}
        for n in range(400)
    }
    rules = tuple(
        replace(rule(f"x/r{n}", paths=f"/v{n}/**"), anyone=True, when=Condition.parse(each))
        for n, each in enumerate(conditions)
    )
    return PortPolicy(service="x", port="http", allow=rules, callers=callers)


def test_callers_for_whom_the_same_is_left_of_a_condition_are_written_once() -> None:
    asking = [f"caller.labels.tier == 'gold' && request.headers['x'] == '{n}'" for n in range(40)]
    few = rbac.http_rbac(labelled(asking, {"tier": ["gold", "silver"]})).ByteSize()
    assert few < 40 * 400 * 40
    many = rbac.http_rbac(labelled(asking, {"tier": ["gold", "silver"], "me": list(map(str, range(400)))}))
    assert many.ByteSize() == few


def test_what_is_too_large_to_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = [f"caller.labels.me == request.headers['x{n}']" for n in range(3)]
    everybody = labelled(asking, {"me": list(map(str, range(400)))})
    rbac.http_rbac(everybody)
    monkeypatch.setattr(rbac, "MOST_BYTES", 2**16)
    with pytest.raises(VestibuleError, match="VST4052"):
        rbac.http_rbac(everybody)


def test_an_end_in_the_distant_past_is_one() -> None:
    ended = less_than(int(datetime(1960, 1, 1, tzinfo=UTC).timestamp() * 1000))
    assert re.fullmatch(ended, "0" * 13) is None
    assert re.fullmatch(ended, "1790000000000") is None


@pytest.mark.parametrize(
    ("callers", "known"),
    [
        (("web",), ["web"]),
        (("spiffe://example.org/ns/prod/**",), ["web", "orders"]),
        (("spiffe://example.org/**", "web"), ["web", "orders"]),
        (("spiffe://example.org/ns/pro/**", "ledger"), []),
    ],
)
def test_callers_whose_labels_are_asked_for_are_those_that_the_rule_names(
    callers: tuple[str, ...], known: list[str]
) -> None:
    labelled = {spiffe_id(name): {"env": "prod"} for name in ("web", "orders")}
    ask = OfRequests(PortPolicy(service="app", port="http", callers=labelled))
    asking = replace(rule("x/r", *callers), when=Condition.parse("caller.labels.env == 'prod'"))
    assert sorted(ask.known_callers(asking)) == sorted(str(spiffe_id(name)) for name in known)
    assert not list(ask.known_callers(rule("x/r", *callers)))
