"""Matcher trees.  That they mean what the rules mean is shown on the real Envoy (tests/e2e)."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.e2e.mesh_lab import rule

from vestibule.envoy import rbac
from vestibule.envoy.protos import serialized
from vestibule.policy import Effect, PortPolicy, is_normal

PIECES = (
    "/",
    "a",
    "b.c",
    ".",
    "..",
    "%2e",
    "%2E",
    "%2f",
    "%5C",
    "%00",
    "%41",
    "%",
    "%g",
    ";",
    "\\",
    "#",
    "ä",
    "~",
)


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.sampled_from(("", "?", "?x=/../;%2f")))
def test_the_guard_refuses_exactly_the_paths_that_are_not_normal(path: str, query: str) -> None:
    refused = re.compile(rbac._REFUSED).fullmatch(path + query) is not None
    assert refused is not is_normal(path)


def test_without_rules_everybody_is_denied() -> None:
    assert not rbac.http_rbac(PortPolicy(service="app", port="http")).matcher.HasField("on_no_match")
    empty = rbac.network_rbac(PortPolicy(service="app", port="tcp", is_http=False))
    assert empty.HasField("rules")
    assert not empty.rules.policies


def test_ten_thousand_rules_compile_in_reasonable_time_to_a_flat_tree() -> None:
    rules = [
        rule(f"big/r{number}", f"s{number % 997}", methods="GET", paths=f"/v1/t{number}/x /v1/t{number}/y/**")
        for number in range(10_000)
    ]
    started = time.process_time()
    config = rbac.http_rbac(PortPolicy(service="big", port="http", allow=tuple(rules)))
    size = len(serialized(config))
    assert time.process_time() - started < 20
    assert len(config.matcher.on_no_match.matcher.matcher_tree.exact_match_map.map) == 20_000
    assert size < 30 * 2**20


def test_a_denial_of_connections_is_not_taken_for_the_permission_in_the_same_place_of_its_order() -> None:
    denial = replace(rule("db/no", "web"), effect=Effect.DENY)
    config = rbac.network_rbac(
        PortPolicy(service="db", port="sql", deny=(denial,), allow=(rule("db/yes", "web"),), is_http=False)
    )
    found = re.findall(rb"db/(?:no|yes)", config.SerializeToString(deterministic=True))
    assert sorted(found) == [b"db/no", b"db/yes"]
