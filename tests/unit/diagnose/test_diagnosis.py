"""Of several records of a call, the one nearest to the cause is believed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from vestibule.diagnose.diagnosis import diagnose_records, diagnose_text, document, exit_of
from vestibule.failures import Layer
from vestibule.observe.access_record import SCHEMA, AccessRecord, Direction, Verdict
from vestibule.observe.access_record import Layer as RecordLayer

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CALLER = AccessRecord(
    time=NOW,
    layer=RecordLayer.HTTP,
    direction=Direction.OUTBOUND,
    verdict=Verdict.ALLOWED,
    reporter_service="web",
    reporter_spiffe_id="spiffe://example.org/ns/prod/sa/web",
    reporter_instance="web-1",
    source_spiffe_id="spiffe://example.org/ns/prod/sa/web",
    destination_service="orders",
    request_id="r1",
    status=503,
    details="via_upstream",
)
CALLEE = replace(
    CALLER,
    direction=Direction.INBOUND,
    reporter_service="orders",
    verdict=Verdict.FAILED,
    flags=("UF",),
    details="upstream_reset_before_response_started{remote_connection_failure}",
    transport_failure="delayed connect error: Connection refused",
)


def name(*records: AccessRecord) -> str | None:
    found = diagnose_records(records)
    return found.failures[0].name if found and found.failures else None


def test_the_callees_record_beats_the_callers() -> None:
    assert name(CALLER, CALLEE) == name(CALLEE, CALLER) == "app-not-listening"


def test_without_the_callees_record_the_callers_counts() -> None:
    assert name(CALLER) == "app-answered-error"


def test_a_failed_call_of_the_called_service_is_the_cause() -> None:
    ours = replace(
        CALLEE, verdict=Verdict.ALLOWED, status=503, flags=(), transport_failure="", details="via_upstream"
    )
    further = replace(
        CALLER,
        reporter_service="orders",
        reporter_spiffe_id="spiffe://example.org/ns/prod/sa/orders",
        source_spiffe_id="spiffe://example.org/ns/prod/sa/orders",
        destination_service="payments",
        verdict=Verdict.FAILED,
        flags=("UH",),
        details="no_healthy_upstream",
    )
    inbound = replace(ours, reporter_spiffe_id="spiffe://example.org/ns/prod/sa/orders")
    assert name(CALLER, inbound, further) == "no-instance"
    assert name(CALLER, inbound) == "app-answered-error"


def test_a_call_that_its_caller_gave_up_is_explained_by_the_caller() -> None:
    gave_up = replace(CALLER, verdict=Verdict.FAILED, status=504, flags=("UT",), details="response_timeout")
    left = replace(CALLEE, verdict=Verdict.ALLOWED, status=0, flags=("DR",), details="http2.remote_reset")
    assert name(gave_up, left) == "timeout"


def test_the_last_try_counts() -> None:
    later = replace(CALLEE, time=NOW + timedelta(seconds=1), flags=("UC",), transport_failure="", details="")
    assert name(CALLEE, later) == "app-broke-off"


def test_what_went_well_has_no_diagnosis() -> None:
    assert diagnose_records([replace(CALLER, status=200)]) is None
    assert diagnose_records([]) is None


def test_an_unknown_failure_names_no_layer() -> None:
    found = diagnose_records([replace(CALLEE, flags=(), details="", transport_failure="", status=None)])
    assert found is not None
    assert (found.failures, found.exit_status) == ((), 1)
    assert document(found)["layer"] is None


def test_every_layer_has_an_exit_status_of_its_own() -> None:
    statuses = {exit_of(layer) for layer in Layer}
    assert len(statuses) == len(Layer)
    assert min(statuses) == 10
    assert max(statuses) < 64


def line(record: AccessRecord) -> str:
    facts = document_of(record)
    return json.dumps({"schema": SCHEMA, **facts})


def document_of(record: AccessRecord) -> dict[str, object]:
    found = {each: getattr(record, each) for each in record.__dataclass_fields__}
    found["time"] = record.time.isoformat()
    for each in ("layer", "direction", "verdict"):
        found[each] = found[each].value
    return found


def test_lines_of_the_access_log_are_read_as_records_among_other_text() -> None:
    text = f"look at this:\n{line(CALLER)}\n{line(CALLEE)}\nthanks"
    found = diagnose_text(text)
    assert found is not None
    assert found.failures[0].name == "app-not-listening"
    assert found.record == CALLEE
    assert document(found)["evidence"]["transport_failure"] == "delayed connect error: Connection refused"


def test_a_line_that_is_cut_short_is_read_as_text() -> None:
    cut = line(CALLEE)[:-40]
    found = diagnose_text(cut)
    assert found is not None
    assert found.record is None


def test_lines_of_calls_that_went_well_are_no_failure() -> None:
    assert diagnose_text(line(replace(CALLER, status=200))) is None
