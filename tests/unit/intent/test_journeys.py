"""What a caller's proxy does with a request, as the language says it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from tests.unit.intent.reading import accepted, read

from vestibule.intent.journeys import Journey, journey
from vestibule.intent.port_policies import port_policy

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAYMENTS = """\
service: payments
versions: [v1, v2]
ports: {http: {protocol: http}, events: {protocol: grpc}}
timeout: 3s
allow:
  - {id: a, from: [orders], port: http}
  - {id: b, from: [orders], port: events}
routes:
  - id: beta
    port: http
    match: {path: /v1/**, methods: [GET], headers: {x-beta: {equals: "1"}}, query: {debug: {present: true}}}
    split: {v2: 100}
    rewrite: {path: /v2, host: beta}
    timeout: 2s
    retry: {attempts: 2}
  - {id: moved, port: http, match: {path: /old}, redirect: {path: /new, status: 308}}
  - {id: root, port: http, match: {path: /strip/**}, rewrite: {path: /}}
  - id: canary
    port: http
    match: {path: /v1/**}
    split: {v1: 90, v2: 10}
"""


def travels(method: str = "GET", path: str = "/v1/a", port: str = "http", **more: Any) -> Journey:
    intent = accepted(read(PAYMENTS))
    service = intent.services["payments"]
    return journey(
        intent,
        intent.services[more.pop("caller", "orders")].spiffe_id,
        service,
        service.ports[port],
        port_policy(intent, service, service.ports[port]),
        method=method,
        path=path,
        headers=more,
        now=NOW,
    )


def test_the_first_route_that_matches_takes_the_request() -> None:
    found = travels(path="/v1/a?x=1&debug", **{"x-beta": "1"})
    assert (found.route, found.versions, found.path, found.host, found.attempts) == (
        "payments/beta",
        (("v2", 100),),
        "/v2/a?x=1&debug",
        "beta",
        2,
    )
    assert found.timeout is not None
    assert found.timeout.total_seconds() == 2


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/v1/a?debug", {"x-beta": "1"}),
        ("GET", "/v1/a?debug", {"x-beta": "2"}),
        ("GET", "/v1/a?debug", {}),
        ("GET", "/v1/a", {"x-beta": "1"}),
    ],
)
def test_a_route_that_asks_for_more_lets_the_next_one_take_it(
    method: str, path: str, headers: dict[str, str]
) -> None:
    found = travels(method, path, **headers)
    assert (found.route, found.versions) == ("payments/canary", (("v1", 90), ("v2", 10)))


def test_what_no_route_takes_goes_to_the_service() -> None:
    found = travels(path="/other")
    assert (found.sent, found.route, found.path, found.host) == (True, "payments/http", "/other", "payments")


def test_a_redirect_is_answered_by_the_callers_proxy() -> None:
    found = travels(path="/old")
    assert (found.sent, found.redirect, found.route) == (False, 308, "payments/moved")


@pytest.mark.parametrize(("path", "seen"), [("/strip", "/"), ("/strip/a/b?c=/d", "/a/b?c=/d")])
def test_the_callee_sees_the_rewritten_path(path: str, seen: str) -> None:
    assert travels(path=path).path == seen


def test_a_caller_whom_no_rule_names_gets_nowhere() -> None:
    assert travels(caller="payments") == Journey(sent=False)


def test_streams_have_the_services_timeout_only() -> None:
    found = travels("POST", "/a.B/C", port="events")
    assert (found.route, found.timeout is not None) == ("payments/events", True)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/a//b", "/a/b"),
        ("//a", "/a"),
        ("/a/./b/../c", "/a/c"),
        ("/a/b/..", "/a/"),
        ("/a/%2E%2e/b/", "/b/"),
        ("/a\\b?x=//", "/a/b?x=//"),
        ("/", "/"),
        ("/..", "/"),
        ("/a%2Fb", "/a%2Fb"),
        ("/%61/%7e%20", "/a/~%20"),
    ],
)
def test_the_callers_proxy_makes_paths_normal_as_far_as_nothing_is_lost(path: str, seen: str) -> None:
    assert travels(path=path).path == seen
