"""Routes, splits, timeouts, retries: what is said comes out as the model, and what cannot be meant is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.intent.reading import MESH, PAYMENTS, accepted, errors, found, only, read, whole_language

from vestibule.intent import Severity
from vestibule.intent.traffic import (
    Fault,
    Hedge,
    Mirror,
    Redirect,
    Retry,
    RetryOn,
    Rewrite,
    RouteMatch,
    Share,
    ValueMatch,
)
from vestibule.policy import PathPattern

PAGES = """\
service: payments
ports: {http: {protocol: http}}
versions: [v1, v2]
allow: [{id: look, from: [orders], methods: [GET]}]
"""


@pytest.fixture(autouse=True)
def _whole_language() -> Iterator[None]:
    with whole_language():
        yield


def with_route(*lines: str, service: str = PAGES) -> str:
    return service + "routes:\n  - id: a\n" + "".join(f"    {line}\n" for line in lines)


def test_a_route_says_which_requests_go_where_and_how() -> None:
    route = with_route(
        "port: http",
        "match:",
        "  path: /v1/**",
        "  methods: [GET, HEAD]",
        "  headers: {x-beta: {equals: '1'}, x-old: {present: false}}",
        "  query: {debug: {present: true}, page: {prefix: a}}",
        "split: {v1: 90, v2: 10}",
        "rewrite: {path: /v2, host: other.example.com}",
        "timeout: 2s",
        "idle_timeout: 30s",
        "retry: {attempts: 2, per_try: 500ms, on: [connect-failure, 5xx, 429], backoff: 10ms}",
        "mirror: [{to: v2, percent: 12.5}, {to: 'service:orders'}]",
        "fault: {until: 2026-11-23T13:00:00+01:00, delay: {for: 2s, percent: 10}, abort: {status: 503}}",
    )
    orders = "service: orders\nports: {http: {protocol: http}}\nallow: [{id: a, from: [orders]}]\n"
    (read_route,) = accepted(read(route, orders=orders)).services["payments"].traffic.routes
    assert (read_route.name, read_route.port) == ("payments/a", "http")
    assert str(read_route.where) == "services/payments.yaml:6:5"
    assert read_route.match == RouteMatch(
        path=PathPattern.parse("/v1/**"),
        methods=frozenset({"GET", "HEAD"}),
        headers=(ValueMatch(name="x-beta", equals="1"), ValueMatch(name="x-old", absent=True)),
        query=(ValueMatch(name="debug"), ValueMatch(name="page", prefix="a")),
    )
    assert read_route.split == (Share(version="v1", weight=90), Share(version="v2", weight=10))
    assert read_route.rewrite == Rewrite(path="/v2", host="other.example.com")
    assert (read_route.timeout, read_route.idle_timeout) == (timedelta(seconds=2), timedelta(seconds=30))
    assert read_route.retry == Retry(
        attempts=2,
        on=(RetryOn.CONNECT_FAILURE, RetryOn.SERVER_ERROR),
        statuses=(429,),
        per_try=timedelta(milliseconds=500),
        backoff=timedelta(milliseconds=10),
    )
    assert read_route.mirror == (
        Mirror(percent=12.5, version="v2"),
        Mirror(percent=100.0, service="orders", port="http"),
    )
    assert read_route.fault == Fault(
        until=datetime(2026, 11, 23, 12, tzinfo=UTC),
        delay=timedelta(seconds=2),
        delay_percent=10.0,
        abort=503,
    )


def test_a_route_may_redirect_or_hedge() -> None:
    lines = with_route("match: {path: /old}", "redirect: {path: /new, status: 308}")
    lines += "  - {id: b, match: {path: /up}, redirect: {https: true, host: 'a.example.com:8443'}}\n"
    lines += "  - {id: c, hedge: {after: 200ms, attempts: 3}}\n"
    first, second, third = accepted(read(lines)).services["payments"].traffic.routes
    assert first.redirect == Redirect(path="/new", status=308)
    assert second.redirect == Redirect(https=True, host="a.example.com:8443")
    assert third.hedge == Hedge(after=timedelta(milliseconds=200), attempts=3)


def test_a_service_and_the_mesh_may_have_a_timeout_and_retries_of_their_own() -> None:
    mesh = MESH + "defaults: {timeout: 5s, retry: {attempts: 4, per_try: 1s}}\n"
    intent = read(PAYMENTS + "timeout: 6s\nretry: {attempts: 1}\n", mesh).intent
    assert intent is not None
    assert intent.mesh.defaults.retry == Retry(attempts=4, per_try=timedelta(seconds=1))
    traffic = intent.services["payments"].traffic
    assert (traffic.timeout, traffic.retry) == (timedelta(seconds=6), Retry(attempts=1))


def test_without_a_word_about_it_calls_travel_as_the_mesh_says() -> None:
    traffic = accepted(read()).services["payments"].traffic
    assert (traffic.versions, traffic.routes, traffic.timeout, traffic.retry) == ((), (), None, None)


@pytest.mark.parametrize(
    ("lines", "code", "why"),
    [
        (["split: {v1: 90, v2: 20}"], "VST0055", "add up to 110"),
        (["split: {}"], "VST0055", "add up to 0"),
        (["split: {v1: 90, v3: 10}"], "VST0040", "no version 'v3'"),
        (["split: {v1: 101}"], "VST0025", "from 0 to 100"),
        (["mirror: [{to: v3}]"], "VST0040", "no version 'v3'"),
        (["mirror: [{to: 'service:ordres'}]"], "VST0040", "no service 'ordres'"),
        (["mirror: [{to: 'service:orders'}]"], "VST0044", "no ports"),
        (["mirror: [{to: 'service:payments/htp'}]"], "VST0040", "no port 'htp'"),
        (["mirror: [{to: v1, percent: 0}]"], "VST0025", "hundred"),
        (["mirror: [{to: v1, percent: '10%'}]"], "VST0022", "a number"),
        (["mirror: [{to: v1}, {to: v1}, {to: v1}, {to: v1}, {to: v1}]"], "VST0025", "at most 4"),
        (["port: htp"], "VST0040", "no port 'htp'"),
        (["match: {path: '/a/*'}"], "VST4010", "trailing"),
        (["match: {path: /a, paht: /b}"], "VST0020", "no key 'paht'"),
        (["match: {headers: {X-Beta: {equals: a}}}"], "VST0025", "lower case"),
        (["match: {headers: {x-envoy-retries: {equals: a}}}"], "VST0025", "belongs to the proxies"),
        (["match: {headers: {host: {equals: a}}}"], "VST0025", "belongs to the proxies"),
        (["match: {headers: {x-a: {equals: a, prefix: b}}}"], "VST0027", "equals and prefix"),
        (["match: {headers: {x-a: {}}}"], "VST0021", "says nothing"),
        (["match: {headers: {x-a: {equals: 1}}}"], "VST0022", "a text"),
        (["match: {headers: {x-a: {equals: ' a'}}}"], "VST0025", "compared"),
        (["match: {query: {'a b': {present: true}}}"], "VST0025", "query parameter"),
        (["match: {methods: [TRACE]}"], "VST0025", "not a method"),
        (["rewrite: {}"], "VST0021", "says nothing"),
        (["rewrite: {path: '/a/{b}'}"], "VST0025", "a pattern"),
        (["rewrite: {path: '/a/**'}"], "VST0025", "a pattern"),
        (["rewrite: {path: a}"], "VST4010", "start"),
        (["rewrite: {host: 'a b'}"], "VST0025", "not a host"),
        (["rewrite: {host: 'a:70000'}"], "VST0025", "not a host"),
        (["redirect: {status: 308}"], "VST0021", "says nothing"),
        (["redirect: {path: /b, status: 200}"], "VST0025", "one of 301"),
        (["match: {path: /a}", "redirect: {path: /a}"], "VST0057", "own redirect"),
        (["match: {path: /a/**}", "redirect: {path: /a/b}"], "VST0057", "own redirect"),
        (["redirect: {path: /b}"], "VST0057", "own redirect"),
        (["match: {path: /a}", "redirect: {path: /b}", "split: {v1: 100}"], "VST0054", "split means nothing"),
        (["match: {path: /a}", "redirect: {path: /b}", "timeout: 1s"], "VST0054", "timeout means nothing"),
        (["timeout: 2"], "VST0022", "found the integer"),
        (["retry: {attempts: 0}"], "VST0025", "from 1 to 10"),
        (["retry: {attempts: 1, on: [reset]}"], "VST0054", "once only"),
        (["retry: {on: []}"], "VST0025", "empty"),
        (["retry: {on: [connect-failed]}"], "VST0025", "not one of"),
        (["retry: {on: [200]}"], "VST0025", "from 400 to 599"),
        (["retry: {on: [unavailable]}"], "VST0054", "status of gRPC"),
        (["retry: {on: [reset, reset]}"], "VST0026", "twice"),
        (["timeout: 1s", "retry: {attempts: 3, per_try: 500ms}"], "VST0056", "3 tries of 500ms .* 1s"),
        (["timeout: 1500ms", "retry: {attempts: 4, per_try: 500ms}"], "VST0056", "1500ms"),
        (["retry: {attempts: 2, per_try: 8s}"], "VST0056", "longer than the timeout, 15s"),
        (["hedge: {attempts: 2}"], "VST0021", "'after'"),
        (["hedge: {after: 1s, attempts: 1}"], "VST0025", "from 2 to 10"),
        (["timeout: 1s", "hedge: {after: 500ms, attempts: 3}"], "VST0056", "after the timeout"),
        (["hedge: {after: 1s}", "retry: {per_try: 1s}"], "VST0054", "per_try of retry means nothing"),
        (["hedge: {after: 1s}", "retry: {attempts: 2}"], "VST0054", "attempts of retry means nothing"),
        (["fault: {delay: {for: 1s}}"], "VST0021", "'until'"),
        (["fault: {until: 2026-11-23T12:00:00Z}"], "VST0021", "says nothing"),
        (["fault: {until: 2026-11-23, abort: {status: 503}}"], "VST0025", "not an instant"),
        (["fault: {until: 2026-02-30T12:00:00Z, abort: {status: 503}}"], "VST0025", "not an instant"),
        (["fault: {until: 2026-11-23T12:00:00, abort: {status: 503}}"], "VST0025", "not an instant"),
        (["fault: {until: 2026-11-23T12:00:00Z, abort: {status: 200}}"], "VST0025", "from 400"),
        (["fault: {until: 2026-11-23T12:00:00Z, abort: {percent: 5}}"], "VST0021", "'status'"),
        (["weight: 3"], "VST0020", "no key"),
    ],
)
def test_a_route_that_cannot_be_meant_is_refused(lines: list[str], code: str, why: str) -> None:
    place, message, fix = only(read(with_route(*lines)))
    assert place.endswith(code)
    assert re.search(why, message), message
    assert fix


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{}", "{path: /a}"),
        ("{path: /a/**}", "{path: /a/b, methods: [GET]}"),
        ("{path: /**}", "{methods: [GET]}"),
        ("{path: /a, methods: [GET, HEAD]}", "{path: /a, methods: [GET]}"),
        ("{headers: {x-a: {present: true}}}", "{headers: {x-a: {equals: '1'}}, path: /a}"),
        ("{headers: {x-a: {prefix: ab}}}", "{headers: {x-a: {prefix: abc}}}"),
        ("{headers: {x-a: {prefix: ab}}}", "{headers: {x-a: {equals: ab}}}"),
        ("{query: {q: {present: false}}}", "{query: {q: {present: false}, r: {present: true}}}"),
    ],
)
def test_a_route_that_an_earlier_one_leaves_nothing_is_refused(first: str, second: str) -> None:
    routes = PAGES + f"routes:\n  - {{id: a, match: {first}}}\n  - {{id: b, match: {second}}}\n"
    place, message, _ = only(read(routes))
    assert place == "services/payments.yaml:7:5 VST0053"
    assert "payments/a takes all" in message
    turned = PAGES + f"routes:\n  - {{id: a, match: {second}}}\n  - {{id: b, match: {first}}}\n"
    accepted(read(turned))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{path: /a, methods: [GET]}", "{path: /a}"),
        ("{headers: {x-a: {equals: '1'}}}", "{headers: {x-a: {equals: '2'}}}"),
        ("{headers: {x-a: {present: true}}}", "{headers: {x-a: {present: false}}}"),
        ("{headers: {x-a: {prefix: ab}}}", "{headers: {x-a: {prefix: a}}}"),
        ("{headers: {x-a: {present: true}}}", "{query: {x-a: {present: true}}}"),
        ("{path: '/{id}'}", "{path: /a/b}"),
    ],
)
def test_routes_that_leave_each_other_something_are_accepted(first: str, second: str) -> None:
    accepted(
        read(PAGES + f"routes:\n  - {{id: a, match: {first}}}\n  - {{id: b, match: {second}}}\n"),
    )


def test_routes_of_different_ports_do_not_hide_each_other() -> None:
    two = "service: payments\nports: {a: {protocol: http}, b: {protocol: http}}\nallow: []\n"
    accepted(read(two + "routes: [{id: one, port: a}, {id: two, port: b}]\n"))
    assert only(read(two + "routes: [{id: one}]\n"))[0] == "services/payments.yaml:4:10 VST0044"


def test_a_route_id_is_taken_once_and_is_no_port() -> None:
    twice = PAGES + "routes: [{id: a, match: {path: /a}}, {id: a}]\n"
    assert only(read(twice))[0] == "services/payments.yaml:5:43 VST0026"
    assert "name of a port" in only(read(PAGES + "routes: [{id: http}]\n"))[1]


def test_a_split_needs_versions_that_are_listed() -> None:
    place, _, fix = only(
        read(with_route("split: {v1: 100}", service=PAGES.replace("versions: [v1, v2]\n", "")))
    )
    assert place.endswith(":6:13 VST0040")
    assert fix == "List them: versions: [v1, …]."


@pytest.mark.parametrize("line", ["timeout: 1s", "retry: {attempts: 2}"])
def test_requests_are_not_spoken_of_where_there_are_none(line: str) -> None:
    tcp = "service: payments\nports: {raw: {protocol: tcp}}\nallow: []\n"
    assert only(read(tcp + line + "\n"))[0] == "services/payments.yaml:4:1 VST0050"
    assert only(read("service: payments\n" + line + "\n"))[0] == "services/payments.yaml:2:1 VST0054"
    mixed = "service: payments\nports: {raw: {protocol: tcp}, http: {protocol: http}}\nallow: []\n"
    accepted(read(mixed + line + "\n"))


def test_a_tcp_port_has_no_requests_to_route() -> None:
    tcp = "service: payments\nports: {raw: {protocol: tcp}}\nallow: []\n"
    assert only(read(tcp + "routes: [{id: a}]\n"))[0] == "services/payments.yaml:4:10 VST0050"


def test_a_grpc_port_knows_neither_other_methods_nor_redirects() -> None:
    grpc = "service: payments\nports: {rpc: {protocol: grpc}}\nallow: []\n"
    routes = "routes: [{id: a, match: {path: /a, methods: [GET]}, redirect: {path: /b}}]\n"
    assert found(read(grpc + routes)) == [
        "services/payments.yaml:4:46 VST0051",
        "services/payments.yaml:4:53 VST0054",
    ]
    accepted(read(grpc + "routes: [{id: a, match: {path: /a.B/**}, retry: {on: [unavailable]}}]\n"))
    # Streams last, so that tries have no timeout to exceed unless the service says one.
    accepted(read(grpc + "retry: {attempts: 10, per_try: 1h}\n"))
    late = "timeout: 1s\nretry: {attempts: 10, per_try: 1h}\n"
    assert only(read(grpc + late))[0].endswith("VST0056")


def test_answers_of_an_mcp_server_last_as_well() -> None:
    mcp = "service: payments\nports: {main: {protocol: mcp}}\nallow: [{id: a, from: [orders], methods: [GET]}]\n"
    accepted(read(mcp + "retry: {attempts: 10, per_try: 1h}\nhealth: {http: /healthz}\n"))
    assert errors(read(mcp + "timeout: 1s\nretry: {attempts: 10, per_try: 1h}\n"))[0].endswith("VST0056")


def test_tries_are_held_against_whatever_timeout_holds() -> None:
    mesh = MESH + "defaults: {timeout: 5s, retry: {attempts: 3, per_try: 1s}}\n"
    assert errors(read(PAGES + "timeout: 2s\n", mesh)) == ["services/payments.yaml:5:10 VST0056"]
    assert errors(read(with_route("timeout: 2s"), mesh)) == ["services/payments.yaml:7:14 VST0056"]
    assert errors(read(with_route("timeout: 2s", "retry: {attempts: 1}"), mesh)) == []
    wrong = MESH + "defaults: {timeout: 2s, retry: {attempts: 3, per_try: 1s}}\n"
    assert errors(read(mesh=wrong)) == ["mesh.yaml:4:32 VST0056"]


@pytest.mark.parametrize(
    ("service", "said"),
    [
        (PAYMENTS + "retry: {on: [503]}\n", "POST requests are tried again after 503"),
        (PAYMENTS + "retry: {on: [connect-failure, gateway-error]}\n", "after gateway-error"),
        (PAYMENTS.replace("    methods: [POST]\n", "") + "retry: {on: [reset]}\n", "POST"),
        (with_route("match: {methods: [PATCH]}", "retry: {on: [5xx]}"), "PATCH"),
        (PAYMENTS + "retry: {per_try: 1s}\n", "after a try that ran out of time"),
        (with_route("hedge: {after: 1s}", service=PAYMENTS), "sent again while they are under way"),
    ],
)
def test_trying_again_what_may_be_carried_out_twice_is_warned_of(service: str, said: str) -> None:
    loaded = read(service)
    place, message, _ = only(loaded)
    assert place.endswith("VST0061")
    assert said in message
    assert loaded.problems[0].severity is Severity.WARNING


@pytest.mark.parametrize(
    "service",
    [
        PAYMENTS + "retry: {on: [connect-failure, refused-stream, reset-before-request]}\n",
        PAYMENTS + "retry: {attempts: 1}\n",
        PAGES + "retry: {on: [5xx, reset, 503]}\n",
        with_route("match: {methods: [GET]}", "retry: {on: [5xx]}", service=PAYMENTS),
    ],
)
def test_trying_again_what_is_safe_is_not_warned_of(service: str) -> None:
    accepted(read(service))


def test_a_default_that_may_repeat_every_request_is_warned_of_once() -> None:
    assert only(read(mesh=MESH + "defaults: {retry: {on: [503]}}\n"))[0] == "mesh.yaml:4:19 VST0061"


def test_more_routes_than_anyone_can_review_are_refused() -> None:
    routes = "".join(f"  - {{id: r{n}, match: {{path: /r{n}}}}}\n" for n in range(501))
    assert only(read(PAGES + "routes:\n" + routes))[0].endswith("VST0025")
