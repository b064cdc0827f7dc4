"""Rules that no index can tell apart."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from tests.e2e.mesh_lab import rule

from vestibule.policy import McpDemand, Rule
from vestibule.policy.crowding import MOST_IN_A_ROW, crowded

TOO_MANY = range(MOST_IN_A_ROW + 1)


def _ending(made: Rule) -> Rule:
    return replace(made, expires=datetime(2090, 1, 1, tzinfo=UTC))


def test_templates_that_begin_alike_are_too_many() -> None:
    assert crowded([rule(f"a/r{n}", "web", paths=f"/{{tenant}}/a{n}") for n in TOO_MANY]) is not None
    assert crowded([rule(f"a/r{n}", "web", paths=f"/{{tenant}}/a{n}") for n in TOO_MANY[1:]]) is None


def test_templates_that_begin_otherwise_and_those_about_others_are_not() -> None:
    assert crowded([rule(f"a/r{n}", "web", paths=f"/v{n}/{{id}}") for n in TOO_MANY]) is None
    assert crowded([rule(f"a/r{n}", f"s{n}", paths=f"/{{id}}/a{n}") for n in TOO_MANY]) is None


def test_what_is_asked_counts_and_what_maps_hold_does_not() -> None:
    assert crowded([_ending(rule(f"a/r{n}", "web", paths="/v1/**")) for n in TOO_MANY]) is not None
    tools = [McpDemand(tools=(f"tool{n}",)) for n in TOO_MANY]
    assert crowded([replace(rule(f"a/r{n}", "web"), mcp=each) for n, each in enumerate(tools)]) is not None
    assert crowded([_ending(rule(f"a/r{n}", "web", paths=f"/v1/{n}")) for n in TOO_MANY]) is None
    assert crowded([rule(f"a/r{n}", "web", paths=f"/v1/{n}/**") for n in range(5000)]) is None


def test_rules_about_wider_places_and_more_callers_count_too() -> None:
    wide = [_ending(rule(f"a/w{n}", "spiffe://example.org/**")) for n in TOO_MANY[1:]]
    assert crowded(wide) is None
    assert crowded([*wide, _ending(rule("a/web", "web", paths="/v1/x"))]) is not None
    assert crowded([*wide, rule("a/web", "web", paths="/v1/x")]) is None
