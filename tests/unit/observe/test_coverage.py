"""Coverage tells calls over mutual TLS from others, names who is left, and compares two times."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vestibule.errors import VestibuleError
from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.observe.coverage import Served, as_document, coverage, markdown, percent, read_coverage

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MUTUAL = AccessRecord(
    time=NOW,
    layer=Layer.HTTP,
    direction=Direction.INBOUND,
    verdict=Verdict.ALLOWED,
    reporter_service="orders",
    reporter_spiffe_id="spiffe://example.org/ns/prod/sa/orders",
    reporter_instance="orders-1",
    source_spiffe_id="spiffe://example.org/ns/prod/sa/web",
)
PLAIN = replace(MUTUAL, source_spiffe_id="", source_address="10.0.0.9:4711", plaintext=True)


def test_calls_over_mutual_tls_and_in_plain_text_are_told_apart() -> None:
    found = coverage([MUTUAL, MUTUAL, MUTUAL, PLAIN], NOW)
    [orders] = found.services
    assert (orders.mtls, orders.plaintext, orders.share) == (3, 1, 0.75)
    assert (orders.callers, orders.plain_callers) == ((MUTUAL.source_spiffe_id,), ("10.0.0.9",))
    assert (found.share, found.covered) == (0.75, 0)


def test_what_a_caller_saw_and_what_never_became_a_call_does_not_count() -> None:
    refused = replace(PLAIN, verdict=Verdict.REFUSED)
    listener = replace(PLAIN, layer=Layer.LISTENER)
    assert coverage([replace(MUTUAL, direction=Direction.OUTBOUND), refused, listener], NOW).services == ()


def test_older_calls_are_left_out_when_asked() -> None:
    [orders] = coverage([MUTUAL, replace(PLAIN, time=NOW - timedelta(days=1))], NOW, since=NOW).services
    assert orders.covered


def test_an_app_that_answers_past_its_proxy_is_not_covered_even_if_nobody_called() -> None:
    found = coverage([MUTUAL], NOW, around={"web": ["0.0.0.0:8080"], "orders": []})
    assert [(each.service, each.covered, each.share) for each in found.services] == [
        ("orders", True, 1.0),
        ("web", False, None),
    ]


def test_what_is_kept_is_read_again() -> None:
    found = coverage([MUTUAL, PLAIN], NOW, around={"web": ["0.0.0.0:8080"]})
    assert read_coverage(json.dumps(as_document(found)), "kept.json") == found


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": "other/v1"}', '{"schema": "vestibule.coverage/v1", "made": 7}', "\0"]
)
def test_what_is_no_coverage_is_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match=r"VST8202 kept\.json"):
        read_coverage(text, "kept.json")


def test_the_report_says_what_was_what_is_and_what_is_left() -> None:
    before = coverage([PLAIN, replace(MUTUAL, reporter_service="gone")], NOW - timedelta(days=7))
    after = coverage([MUTUAL, PLAIN], NOW, around={"web": ["0.0.0.0:8080"]})
    text = markdown(after, before)
    assert "| orders | 50.0% | 10.0.0.9 | – | 0.0% |" in text
    assert "| gone | not called any more | – | – | 100% |" in text
    assert "- [ ] orders: 1 calls in plain text, from 10.0.0.9" in text
    assert "- [ ] web: its app answers at 0.0.0.0:8080" in text
    assert "Nothing." in markdown(coverage([MUTUAL], NOW), None)


def test_hostile_names_do_not_break_the_table() -> None:
    text = markdown(coverage([replace(PLAIN, source_address="a|b\nc:1")], NOW), None)
    assert "a\\|b c" in text


@pytest.mark.parametrize(
    ("share", "text"), [(None, "no calls"), (1.0, "100%"), (0.99999, "99.9%"), (0.0, "0.0%")]
)
def test_nearly_all_is_never_shown_as_all(share: float | None, text: str) -> None:
    assert percent(share) == text
    assert Served(service="a").share is None
