"""Questions of Envoys, and the answers to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from vestibule.doors.checks import MOST_HEADERS, Answering, headers_of, json_of
from vestibule.doors.ext_authz import Attested
from vestibule.policy import Condition, Effect, IdentityMatch, Mode, PathPattern, PortPolicy, Rule
from vestibule.policy.deciders import Decider
from vestibule.policy.engine import Engine
from vestibule.spiffe import SpiffeId

ORDERS = "spiffe://example.org/orders"


def rule(name: str, when: str = "", **more: Any) -> Rule:
    return Rule(
        name=f"payments/{name}",
        callers=(IdentityMatch(id=SpiffeId.parse(ORDERS)),),
        when=Condition.parse(when) if when else None,
        **more,
    )


POLICY = PortPolicy(
    service="payments",
    port="http",
    deny=(rule("no", "request.body.amount > 100.0", effect=Effect.DENY),),
    allow=(
        rule("risk", "attributes.risk == 'low'", paths=(PathPattern.parse("/risk"),)),
        rule("header", "request.headers['x-t'] == 'a'", paths=(PathPattern.parse("/header"),)),
        rule("small", "request.body.amount <= 100.0", methods=frozenset({"POST"})),
        rule("shadow", mode=Mode.SHADOW),
    ),
)


def answering(*, tells_rule: bool = False, explains: bool = True, version: str = "v7") -> Answering:
    decider = Decider(Engine(POLICY), "example.org", version=version, tells_rule=tells_rule)
    known = {("payments", "http"): decider}
    return Answering(lambda service, port: known.get((service, port)), explains=explains)


def question(path: str = "/v1", body: bytes = b"", **changes: Any) -> pb.CheckRequest:
    request = pb.CheckRequest()
    asked = request.attributes
    asked.source.principal = changes.get("principal", ORDERS)
    http = asked.request.http
    http.id, http.method, http.path, http.host = "r-1", "POST", path, "payments"
    http.raw_body = body
    for name, value in changes.get("headers", ()):
        http.header_map.headers.add(key=name, raw_value=value)
    asked.request.time.GetCurrentTime()
    asked.context_extensions.update(
        changes.get("extensions", {"vestibule.service": "payments", "vestibule.port": "http"})
    )
    return request


def ask(request: pb.CheckRequest, by: Answering | None = None) -> pb.CheckResponse:
    return pb.CheckResponse.FromString((by or answering()).answer(request.SerializeToString()))


def said(response: pb.CheckResponse) -> dict[str, str]:
    return {name: value.string_value for name, value in response.dynamic_metadata.fields.items()}


def status(response: pb.CheckResponse) -> int:
    """200, or that of the refusal."""
    if response.status.code == 0:
        assert response.HasField("ok_response")
        return 200
    assert not response.HasField("ok_response")
    return int(response.denied_response.status.code)


def test_a_call_that_a_rule_allows_goes_through_and_the_rule_is_noted() -> None:
    response = ask(question(body=b'{"amount": 5}'))
    assert status(response) == 200
    noted = said(response)
    assert len(noted.pop("decision_id")) == 16
    assert noted == {
        "verdict": "allowed",
        "rule": "payments/small",
        "shadow_verdict": "allowed",
        "shadow_rule": "payments/small",
        "intent_version": "v7",
    }


def test_a_denial_names_its_rule_in_the_metadata_and_nothing_to_the_caller() -> None:
    response = ask(question(body=b'{"amount": 500}'))
    assert status(response) == 403
    assert said(response)["rule"] == "payments/no"
    body = json.loads(response.denied_response.body)
    assert body == {
        "error": "VST4001",
        "message": "payments does not allow this call",
        "request_id": "r-1",
    }


def test_a_caller_who_may_know_is_told_the_rule() -> None:
    response = ask(question(body=b'{"amount": 500}'), answering(tells_rule=True))
    body = json.loads(response.denied_response.body)
    assert (body["rule"], body["intent_version"]) == ("payments/no", "v7")


def test_where_the_proxy_explains_there_is_no_body() -> None:
    assert ask(question(body=b'{"amount": 500}'), answering(explains=False)).denied_response.body == ""


def test_every_decision_has_an_id_of_its_own() -> None:
    ids = {said(ask(question()))["decision_id"] for _ in range(50)}
    assert len(ids) == 50


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"amount": "5"}',
        b'{"amount": 5, "amount": 500}',
        b'{"amount": NaN}',
        b'{"amount": 1' + b"0" * 400 + b"}",
        b"[" * 60_000,
        '{"amount": 5}'.encode("utf-16"),
        b'\xef\xbb\xbf{"amount": 5}',
        b'{"amount": 5}{"amount": 500}',
        b"\xff\xfe",
    ],
)
def test_a_body_that_cannot_be_judged_is_denied_by_the_rule_that_wanted_to(body: bytes) -> None:
    response = ask(question(body=body))
    assert status(response) == 403
    assert said(response)["rule"] == "payments/no"


def test_what_the_asking_envoy_adds_are_attributes() -> None:
    extensions = {"vestibule.service": "payments", "vestibule.port": "http", "risk": "low"}
    allowed = ask(question("/risk", b'{"amount": 5}', extensions=extensions))
    assert said(allowed)["rule"] == "payments/risk"


def test_headers_of_one_name_are_one_text() -> None:
    once = question("/header", b'{"amount": 5}', headers=[("X-T", b"a")])
    twice = question("/header", b'{"amount": 5}', headers=[("x-t", b"a"), ("x-t", b"a")])
    assert said(ask(once))["rule"] == "payments/header"
    assert said(ask(twice))["rule"] == "payments/small"
    assert headers_of(twice.attributes.request.http) == {"x-t": "a,a"}


def test_a_header_that_is_no_text_fits_no_condition() -> None:
    response = ask(question("/header", b'{"amount": 5}', headers=[("x-t", b"\xff")]))
    assert said(response)["rule"] == "payments/small"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (question(principal=""), "VST4132"),
        (question(principal="CN=orders"), "VST4132"),
        (question(principal="spiffe://example.org/a/../b"), "VST1400"),
        (question(extensions={}), "VST4132"),
        (question(extensions={"vestibule.service": "payments"}), "VST4131"),
        (question(extensions={"vestibule.service": "other", "vestibule.port": "http"}), "VST4131"),
        (question(headers=[(f"x-{n}", b"") for n in range(MOST_HEADERS + 1)]), "VST4132"),
    ],
)
def test_who_cannot_be_judged_is_refused_with_another_status(request_: pb.CheckRequest, code: str) -> None:
    response = ask(request_)
    assert status(response) == 503
    assert said(response)["error"] == code
    assert json.loads(response.denied_response.body)["error"] == "VST4133"


def test_a_sidecar_says_by_its_route_what_is_meant() -> None:
    request = question(body=b'{"amount": 5}', extensions={})
    request.attributes.route_metadata_context.filter_metadata["vestibule"].update(
        {"service": "payments", "port": "http"}
    )
    assert status(ask(request)) == 200


def test_a_bug_is_a_refusal_too() -> None:
    def broken(_service: str, _port: str) -> Decider:
        raise ZeroDivisionError

    assert status(ask(question(), Answering(broken, explains=True))) == 503


def test_a_question_without_a_time_is_judged_by_the_own_clock() -> None:
    request = question(body=b'{"amount": 5}')
    request.attributes.request.ClearField("time")
    assert status(ask(request)) == 200


@given(st.binary(max_size=300))
def test_whatever_comes_is_answered_and_never_allowed(data: bytes) -> None:
    assert status(pb.CheckResponse.FromString(answering().answer(data))) in (403, 503)


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(), st.lists))
def test_json_is_read_as_it_was_written(value: Any) -> None:
    assert json_of(json.dumps(value).encode()) == value


def test_a_connection_is_looked_at_again_every_second() -> None:
    now, looks = [0.0], [0]

    def look() -> Answering:
        looks[0] += 1
        if looks[0] == 3:
            raise PermissionError
        return answering()

    attested = Attested(look, _clock(now))
    data = question().SerializeToString()
    attested.answer(data)
    attested.answer(data)
    assert looks == [1]
    now[0] = 1.0
    attested.answer(data)
    assert looks == [2]
    now[0] = 2.0
    with pytest.raises(PermissionError):
        attested.answer(data)


def _clock(now: list[float]) -> Callable[[], float]:
    return lambda: now[0]
