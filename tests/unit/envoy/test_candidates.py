"""Who has an entry in which place, and what stands in it.  That Envoy reads it so is shown by tests/differential."""

from __future__ import annotations

import pytest
from tests.e2e.mesh_lab import rule, spiffe_id

from vestibule.envoy import rbac
from vestibule.envoy.candidates import ANYONE, Places, wider_keys
from vestibule.envoy.predicates import OfRequests
from vestibule.errors import VestibuleError
from vestibule.policy import PortPolicy, Rule

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
