"""The decision log: what is in it, what is masked, what is sampled, and what never is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.observe.test_emergency_uses import line

from vestibule.observe.access_log import AccessLine
from vestibule.observe.decision_settings import DecisionLogSettings
from vestibule.observe.decisions import SCHEMA, DecisionLog
from vestibule.observe.masking import MASKED, Mask


class Sink:
    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.droppable: list[bool] = []

    def take(self, text: str, *, allowed: bool) -> None:
        self.found.append(json.loads(text))
        self.droppable.append(allowed)


def decided(*lines: AccessLine, chance: float = 0.5, **settings: Any) -> Sink:
    sink = Sink()
    DecisionLog(DecisionLogSettings(**settings), [sink], lambda: chance).append(lines)
    return sink


def ordinary(path: str = "/x", **other: Any) -> AccessLine:
    return line(path, by_break_glass=False, **{"rule": "payments/pay", **other})


def test_a_line_says_who_called_what_where_and_by_which_rule_that_was_decided() -> None:
    more = {
        "destination_service": "payments",
        "intent_version": "abc",
        "trace_id": "t" * 32,
        "duration_ms": 1.5,
        "status": 200,
        "shadow_verdict": "denied",
        "shadow_rule": "payments/no-get",
    }
    (found,) = decided(ordinary("/v1/charges", **more)).found
    assert found["schema"] == SCHEMA
    assert found["verdict"] == "allowed"
    assert found["caller"] == "spiffe://example.org/ns/prod/sa/orders"
    assert (found["service"], found["port"]) == ("payments", "http")
    assert (found["method"], found["path"]) == ("GET", "/v1/charges")
    assert (found["rule"], found["intent_version"]) == ("payments/pay", "abc")
    assert (found["request_id"], found["trace_id"], found["latency_ms"]) == ("r-1", "t" * 32, 1.5)
    assert (found["shadow_verdict"], found["shadow_rule"]) == ("denied", "payments/no-get")
    assert (found["decided_by"], found["proxy"], found["break_glass"]) == ("inbound", "i-1", False)


def test_every_decision_has_an_id_of_its_own() -> None:
    first, second = decided(ordinary(), ordinary()).found
    assert first["id"] != second["id"]


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        ({"verdict": "allowed"}, "allowed"),
        ({"verdict": "failed"}, "allowed"),
        ({"verdict": "denied"}, "denied"),
        ({"verdict": "refused", "layer": "listener"}, "refused"),
        ({"verdict": "denied", "direction": "outbound"}, "denied"),
        (
            {"verdict": "allowed", "direction": "outbound", "destination_service": "external:stripe"},
            "allowed",
        ),
    ],
)
def test_who_decides_logs_it(record: dict[str, Any], verdict: str) -> None:
    assert [each["verdict"] for each in decided(ordinary(**record)).found] == [verdict]


def test_what_the_callee_decides_is_not_logged_by_the_caller_too() -> None:
    assert decided(ordinary(direction="outbound", destination_service="payments")).found == []


def test_allowed_calls_are_sampled_and_what_is_left_out_is_counted() -> None:
    sink = Sink()
    chances = iter([0.05, 0.5, 0.09, 0.95])
    log = DecisionLog(DecisionLogSettings(sample=10), [sink], lambda: next(chances))
    log.append([ordinary(f"/{number}") for number in range(4)])
    assert [each["path"] for each in sink.found] == ["/0", "/2"]
    assert log.left_out == 2


def test_denials_break_glass_and_what_would_be_denied_are_never_sampled() -> None:
    lines = [
        ordinary("/denied", verdict="denied"),
        ordinary("/refused", verdict="refused"),
        ordinary("/shadow", shadow_verdict="denied"),
        line("/emergency"),
        ordinary("/ordinary"),
    ]
    sink = decided(*lines, sample=0, chance=0.0)
    assert [each["path"] for each in sink.found] == ["/denied", "/refused", "/shadow", "/emergency"]
    assert sink.droppable == [False, False, True, False]


def test_a_connection_by_break_glass_is_one_decision() -> None:
    began = line(by_break_glass=True, layer="tcp")
    ended = line(by_break_glass=False, layer="tcp")
    assert len(decided(began, ended).found) == 1


def test_claims_are_logged_only_if_they_are_asked_for() -> None:
    claims = {"internal": {"sub": "alice", "email": "alice@example.org", "dept": "fin"}}
    asked = AccessLine(ordinary().text, None, tokens=lambda: claims)
    assert decided(asked).found[0]["claims"] == {}
    assert decided(asked, claims=("sub", "dept")).found[0]["claims"] == {"sub": "alice", "dept": "fin"}
    (found,) = decided(asked, claims=("sub", "email"), mask=("claims.email",)).found
    assert found["claims"] == {"sub": "alice", "email": MASKED}
    assert found["masked"] == ["claims.email"]


def test_fields_are_masked_and_named() -> None:
    hidden = ordinary("/secret", source_address="")
    (found,) = decided(hidden, mask=("path", "caller_address", "claims")).found
    assert (found["path"], found["masked"]) == (MASKED, ["path"])
    assert "secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("pattern", "path", "shown"),
    [
        ("/cards/*", "/cards/4111", "/cards/***"),
        ("/cards/*", "/cards/4111/lines", "/cards/***/lines"),
        ("/cards/*", "/card/4111", "/card/4111"),
        ("/cards/*", "/cards", "/cards"),
        ("/users/*/orders/*", "/users/7/orders/8", "/users/***/orders/***"),
        ("/users/**", "/users/7/orders/8", "/users/***"),
        ("/users/**", "/users", "/users"),
        ("/**", "/a/b", "/***"),
    ],
)
def test_segments_of_paths_are_masked(pattern: str, path: str, shown: str) -> None:
    document: dict[str, Any] = {"path": path}
    Mask.parse([f"path:{pattern}"]).apply(document)
    assert document == {"path": shown, "masked": ["path"] if path != shown else []}


@pytest.mark.parametrize("wrong", ["rule", "verdict", "claims.", "path:cards", "path:/cards", ""])
def test_what_cannot_be_masked_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="cannot be masked"):
        DecisionLogSettings(mask=(wrong,))


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample": 101},
        {"sample": -1},
        {"file_size": 10},
        {"files_kept": 0},
        {"url": "ftp://example.org/"},
        {"url": "http://collector.example.org/logs"},
        {"url": "https://user:secret@example.org/"},
        {"url": "logs"},
        {"bearer_token_file": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        DecisionLogSettings(**wrong)


def test_decisions_may_go_over_plain_http_to_this_machine_only() -> None:
    for url in ("http://127.0.0.1:8181/logs", "http://[::1]/logs", "https://example.org/logs"):
        assert DecisionLogSettings(url=url).url == url
