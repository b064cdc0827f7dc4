"""For whom the caller is looked at before the path.  That nobody's verdict changes is shown by tests/differential."""

from __future__ import annotations

from dataclasses import replace

from tests.e2e.mesh_lab import rule, spiffe_id

from vestibule.envoy import frequent, rbac
from vestibule.envoy.candidates import Places
from vestibule.envoy.predicates import OfRequests
from vestibule.envoy.protos import serialized
from vestibule.policy import PortPolicy, Rule

WEB, ORDERS = str(spiffe_id("web")), str(spiffe_id("orders"))
MANY = frequent.MANY_PLACES


def callers(*rules: Rule) -> list[str]:
    ask = OfRequests(PortPolicy(service="app", port="http"))
    return frequent.frequent(list(frequent.spots(Places.of(list(enumerate(rules)), ask), ask)))


def many(*who: str, methods: str = "GET", count: int = MANY) -> list[Rule]:
    return [rule(f"app/r{each}", *who, methods=methods, paths=f"/a{each}") for each in range(count)]


def test_a_caller_named_in_very_many_places_has_a_tree_of_its_own() -> None:
    assert callers(*many("web"), rule("app/o", "orders", paths="/o")) == [WEB]


def test_a_caller_named_in_few_has_none() -> None:
    assert callers(*many("web", count=MANY - 1)) == []


def test_callers_who_share_plain_rules_have_one_each() -> None:
    assert callers(*many("web", "orders")) == sorted((WEB, ORDERS))


def test_very_many_callers_who_share_rules_have_none() -> None:
    assert callers(*many(*(f"s{each}" for each in range(20)))) == []


def test_nobody_has_one_where_most_is_said_of_everybody() -> None:
    everybody = [
        replace(rule(f"app/e{each}", methods="GET", paths=f"/e{each}"), anyone=True) for each in range(MANY)
    ]
    assert callers(*many("web"), *everybody[: MANY // 4]) == [WEB]
    assert callers(*many("web"), *everybody) == []


def test_methods_come_before_paths_unless_most_rules_are_for_all_methods() -> None:
    policy = PortPolicy(service="app", port="http", allow=tuple(many("web", methods="GET POST")))
    tree = rbac.http_rbac(policy).matcher.on_no_match.matcher.matcher_tree
    (of_web,) = tree.exact_match_map.map.values()
    assert set(of_web.matcher.matcher_tree.exact_match_map.map) == {"GET", "POST"}
    half = [*many("web", methods="GET"), rule("app/any", "web", paths="/any")]
    ask = OfRequests(policy)
    told = [
        frequent.about(WEB, entries)
        for _, entries in frequent.spots(Places.of(list(enumerate(half)), ask), ask)
    ]
    assert frequent.methods_first(told) == ["GET"]
    assert (
        frequent.methods_first([choices for choices in told if choices[:1] and not choices[0].rule.methods])
        is None
    )


def test_ten_thousand_rules_of_one_caller_take_little_room() -> None:
    policy = PortPolicy(service="app", port="http", allow=tuple(many("web", count=10_000)))
    assert len(serialized(rbac.http_rbac(policy))) < 2.5 * 2**20
