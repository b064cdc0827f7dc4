"""Envoy's entries become records, and nothing that an Envoy says of itself is believed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogType,
    HTTPAccessLogEntry,
    TCPAccessLogEntry,
    TLSProperties,
)

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.observe.access_log import Denial, Edge
from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.pki.jwk import encode_base64url

ORDERS = "spiffe://example.org/ns/prod/sa/orders"
REPORTER = Reporter("payments", "spiffe://example.org/ns/prod/sa/payments", "i-1", lambda: "0cd8")
INBOUND = LogName.parse("vestibule/inbound/payments/http")
OUTBOUND = LogName.parse("vestibule/outbound/ledger/grpc")


def from_http(entry: HTTPAccessLogEntry, name: LogName, reporter: Reporter) -> AccessRecord:
    return AccessRecord.from_json(EntryLines(name, reporter).http(entry).text)


def from_tcp(entry: TCPAccessLogEntry, name: LogName, reporter: Reporter) -> AccessRecord:
    return AccessRecord.from_json(EntryLines(name, reporter).tcp(entry).text)


def request(status: int = 200, details: str = "via_upstream") -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry(protocol_version=HTTPAccessLogEntry.HTTP11)
    common = entry.common_properties
    common.start_time.FromJsonString("2026-11-01T12:00:00.5Z")
    common.duration.FromMilliseconds(7)
    common.tls_properties.tls_version = TLSProperties.TLSv1_3
    common.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=ORDERS)
    common.custom_tags["peer_serial"] = "0a1b"
    common.custom_tags["rule"] = "-"
    entry.request.request_method = 3  # POST
    entry.request.path = "/v1/charges?card=4111"
    entry.request.request_id = "r-1"
    entry.response.response_code.value = status
    entry.response.response_code_details = details
    return entry


def test_an_allowed_request() -> None:
    record = from_http(request(), INBOUND, REPORTER)
    assert (record.layer, record.verdict, record.status) == (Layer.HTTP, Verdict.ALLOWED, 200)
    assert (record.source_spiffe_id, record.destination_spiffe_id) == (ORDERS, REPORTER.spiffe_id)
    assert (record.method, record.request_id, record.duration_ms) == ("POST", "r-1", 7.0)
    assert (record.tls_version, record.peer_serial, record.rule) == ("TLSv1.3", "0a1b", "")


def test_the_intent_version_is_the_one_that_the_proxy_confirmed() -> None:
    assert from_http(request(), INBOUND, REPORTER).intent_version == "0cd8"


def test_the_query_is_not_kept() -> None:
    assert from_http(request(), INBOUND, REPORTER).path == "/v1/charges"


def test_a_request_that_no_rule_allows_is_denied() -> None:
    denied = request(403, "rbac_access_denied_matched_policy[none]")
    assert from_http(denied, INBOUND, REPORTER).verdict is Verdict.DENIED


def test_a_403_of_the_app_itself_is_not_a_denial() -> None:
    assert from_http(request(403), INBOUND, REPORTER).verdict is Verdict.ALLOWED


def test_no_upstream_is_a_failure_with_its_flags() -> None:
    entry = request(503, "upstream_reset_before_response_started{connection_failure}")
    entry.common_properties.response_flags.upstream_connection_failure = True
    entry.common_properties.upstream_transport_failure_reason = "TLS_error:|SAN"
    record = from_http(entry, OUTBOUND, REPORTER)
    assert (record.verdict, record.flags, record.transport_failure) == (
        Verdict.FAILED,
        ("UF",),
        "TLS_error:|SAN",
    )


def test_outbound_the_reporter_is_the_source_and_the_destination_is_named() -> None:
    entry = request()
    entry.common_properties.custom_tags["destination_spiffe_id"] = "spiffe://example.org/ns/prod/sa/ledger"
    record = from_http(entry, OUTBOUND, REPORTER)
    assert record.source_spiffe_id == REPORTER.spiffe_id
    assert (record.destination_service, record.destination_port) == ("ledger", "grpc")
    assert record.destination_spiffe_id == "spiffe://example.org/ns/prod/sa/ledger"


def test_on_the_egress_listener_the_route_names_the_destination() -> None:
    entry = request()
    entry.common_properties.route_name = "ledger/grpc"
    record = from_http(entry, LogName.parse("vestibule/outbound//"), REPORTER)
    assert (record.destination_service, record.destination_port) == ("ledger", "grpc")


def test_a_route_that_leads_nowhere_names_no_destination() -> None:
    entry = request()
    entry.common_properties.route_name = "denied"
    record = from_http(entry, LogName.parse("vestibule/outbound//"), REPORTER)
    assert (record.destination_service, record.destination_port) == ("", "")
    assert record.route == "denied"


def test_a_handshake_that_failed_is_a_refused_connection() -> None:
    entry = TCPAccessLogEntry()
    entry.common_properties.downstream_transport_failure_reason = "TLS_error:|CERTIFICATE_VERIFY_FAILED"
    record = from_tcp(entry, INBOUND, REPORTER)
    assert (record.layer, record.verdict) == (Layer.LISTENER, Verdict.REFUSED)


def test_a_log_name_of_somebody_else_still_gives_a_record() -> None:
    record = from_http(request(), LogName.parse("mine"), REPORTER)
    assert (record.direction, record.reporter_service) == (Direction.INBOUND, "payments")


def test_whatever_a_request_contains_the_line_is_json_and_says_just_that() -> None:
    entry = request(details='a "quoted" \\ detail')
    entry.request.path = '/a"b\n{},"verdict":"allowed"\u2028\x7f?q'
    record = from_http(entry, INBOUND, REPORTER)
    assert record.path == '/a"b\n{},"verdict":"allowed"\u2028\x7f'
    assert record.details == 'a "quoted" \\ detail'
    assert "\n" not in EntryLines(INBOUND, REPORTER).http(entry).text


def test_every_field_of_the_schema_that_a_request_has_is_written() -> None:
    entry = message("ping")
    entry.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"].update(
        {"decision_id": "1"}
    )
    written = set(json.loads(EntryLines(INBOUND, REPORTER).http(entry).text))
    assert written == {"schema", *AccessRecord.__dataclass_fields__} - {"code", "where", "intent_commit"}


TOLD = replace(
    REPORTER,
    commit_of=lambda version: {"0cd8": "4f2a"}[version],
    place_of=lambda version, name: f"{version}/{name}.yaml",
)


@pytest.mark.parametrize(
    ("details", "rule", "code", "where"),
    [
        (
            "[payments/no-contractors]",
            "payments/no-contractors",
            "VST4001",
            "0cd8/payments/no-contractors.yaml",
        ),
        ("[none]", "", "VST4001", "0cd8/payments.yaml"),
        ("[vestibule/path-not-normal]", "vestibule/path-not-normal", "VST3001", ""),
    ],
)
def test_a_denial_says_by_what_where_that_is_written_and_in_which_commit(
    details: str, rule: str, code: str, where: str
) -> None:
    denied = request(403, f"rbac_access_denied_matched_policy{details}")
    line = EntryLines(INBOUND, TOLD).http(denied)
    record = AccessRecord.from_json(line.text)
    assert (record.rule, record.code, record.where, record.intent_commit) == (rule, code, where, "4f2a")
    assert line.denial == Denial("payments", rule, code)


def test_a_connection_that_is_denied_says_so_too() -> None:
    entry = TCPAccessLogEntry()
    entry.common_properties.connection_termination_details = (
        "rbac_access_denied_matched_policy[payments/no-batch]"
    )
    line = EntryLines(INBOUND, TOLD).tcp(entry)
    record = AccessRecord.from_json(line.text)
    assert (record.verdict, record.rule, record.code) == (Verdict.DENIED, "payments/no-batch", "VST4001")
    assert record.where == "0cd8/payments/no-batch.yaml"


def test_what_is_denied_outside_is_written_where_the_host_is() -> None:
    entry = request(403, "rbac_access_denied_matched_policy[none]")
    entry.common_properties.route_name = "external:stripe"
    line = EntryLines(LogName.parse("vestibule/outbound//"), TOLD).http(entry)
    assert AccessRecord.from_json(line.text).where == "0cd8/external:stripe.yaml"
    assert line.denial == Denial("external:stripe", "", "VST4001")


def test_what_is_allowed_counts_for_no_denial() -> None:
    assert EntryLines(INBOUND, TOLD).http(request()).denial is None


def message(method: str, **tags: str) -> HTTPAccessLogEntry:
    entry = request()
    for name, value in {"mcp_method": method, "mcp_name": "-", "mcp_uri": "-", **tags}.items():
        entry.common_properties.custom_tags[name] = value
    return entry


@pytest.mark.parametrize(
    ("entry", "method", "target"),
    [
        (message("tools/call", mcp_name="read_note"), "tools/call", "read_note"),
        (message("resources/read", mcp_uri="file:///a"), "resources/read", "file:///a"),
        (message("__jsonrpc_response"), "reply", ""),
        (message("-"), "", ""),
        (request(), "", ""),
    ],
)
def test_what_a_client_of_mcp_asked_for_is_in_the_record(
    entry: HTTPAccessLogEntry, method: str, target: str
) -> None:
    record = from_http(entry, INBOUND, REPORTER)
    assert (record.mcp_method, record.mcp_target) == (method, target)


@pytest.mark.parametrize("details", ["mcp_duplicate_keys", "mcp_body_too_large", "request_payload_too_large"])
def test_what_is_no_message_of_mcp_is_denied(details: str) -> None:
    assert from_http(request(400, details), INBOUND, REPORTER).verdict is Verdict.DENIED


def test_only_the_callees_line_counts_as_an_edge() -> None:
    assert EntryLines(INBOUND, REPORTER).http(request()).edge == Edge(ORDERS, "payments", "allowed")
    assert EntryLines(OUTBOUND, REPORTER).http(request()).edge is None


BY_NAME = LogName.parse("vestibule/outbound//")


def outward(status: int = 200, details: str = "via_upstream") -> HTTPAccessLogEntry:
    entry = request(status, details)
    entry.common_properties.route_name = "external:stripe"
    entry.common_properties.custom_tags["destination_spiffe_id"] = ORDERS
    entry.common_properties.custom_tags["rule"] = "egress/stripe/charge"
    return entry


def test_a_call_outside_names_its_host_and_believes_no_identity_in_a_public_certificate() -> None:
    for name in (BY_NAME, LogName.parse("vestibule/outbound/external:stripe/")):
        record = from_http(outward(), name, REPORTER)
        assert (record.destination_service, record.destination_port) == ("external:stripe", "")
        assert (record.source_spiffe_id, record.destination_spiffe_id) == (REPORTER.spiffe_id, "")
        assert (record.rule, record.verdict) == ("egress/stripe/charge", Verdict.ALLOWED)


def test_the_id_of_a_request_that_lost_it_on_its_way_out_was_kept_beside_it() -> None:
    entry = outward()
    entry.request.request_id = ""
    entry.common_properties.custom_tags["request_id"] = "r-2"
    assert from_http(entry, BY_NAME, REPORTER).request_id == "r-2"
    entry.common_properties.custom_tags["request_id"] = "-"
    assert from_http(entry, BY_NAME, REPORTER).request_id == ""


def test_a_call_without_its_credential_has_failed_and_one_against_the_rules_is_denied() -> None:
    assert from_http(outward(503, "failed_to_inject_credential"), BY_NAME, REPORTER).verdict is Verdict.FAILED
    denied = outward(403, "rbac_access_denied_matched_policy[none]")
    assert from_http(denied, BY_NAME, REPORTER).verdict is Verdict.DENIED


def test_a_grpc_call_that_ends_at_its_deadline_has_failed_although_its_status_is_200() -> None:
    assert from_http(request(200, "max_duration_timeout"), OUTBOUND, REPORTER).verdict is Verdict.FAILED


def test_what_a_rate_limit_refuses_is_denied_by_that_limit() -> None:
    entry = request(429, "local_rate_limited")
    entry.common_properties.response_flags.rate_limited = True
    entry.response.response_headers["x-vestibule-limit"] = "payments/limits/1"
    record = from_http(entry, INBOUND, REPORTER)
    assert (record.verdict, record.rule, record.flags) == (Verdict.DENIED, "payments/limits/1", ("RL",))


def test_a_limit_that_only_the_app_names_is_no_rule_of_ours() -> None:
    entry = request(429)
    entry.response.response_headers["x-vestibule-limit"] = "payments/limits/1"
    assert from_http(entry, INBOUND, REPORTER).rule != "payments/limits/1"


def test_on_the_egress_listener_the_cluster_tells_what_a_named_route_leads_to() -> None:
    entry = request()
    entry.common_properties.route_name = "payments/canary"
    entry.common_properties.upstream_cluster = "payments/http@v2"
    entry.common_properties.custom_tags["destination_version"] = "v2"
    record = from_http(entry, LogName.parse("vestibule/outbound//"), REPORTER)
    found = (record.destination_service, record.destination_port, record.route, record.version)
    assert found == ("payments", "http", "payments/canary", "v2")


def test_a_redirect_is_no_denial() -> None:
    entry = request(308, "direct_response")
    assert from_http(entry, LogName.parse("vestibule/outbound//"), REPORTER).verdict is Verdict.ALLOWED


def test_calls_without_tls_are_marked_and_counted_as_nobodys() -> None:
    entry = request()
    entry.common_properties.ClearField("tls_properties")
    record = from_http(entry, INBOUND, REPORTER)
    assert (record.plaintext, record.source_spiffe_id) == (True, "")
    assert EntryLines(INBOUND, REPORTER).http(entry).edge == Edge("plaintext", "payments", "allowed")
    assert not from_http(entry, OUTBOUND, REPORTER).plaintext


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("header", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", ""),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", ""),
        (f'00-{TRACE}-00f067aa0ba902b7-01","rule":"x', ""),
        ("-", ""),
        ("", ""),
    ],
)
def test_the_trace_is_told_if_its_header_is_well_formed(header: str, trace_id: str) -> None:
    entry = request()
    entry.common_properties.custom_tags["traceparent"] = header
    assert from_http(entry, INBOUND, REPORTER).trace_id == trace_id


def noted(entry: HTTPAccessLogEntry | TCPAccessLogEntry, place: str, **values: str) -> None:
    """What a filter wrote beside the request."""
    entry.common_properties.metadata.filter_metadata[place].update(values)


def test_the_rule_and_what_shadow_rules_would_have_decided_are_told() -> None:
    entry = request()
    noted(
        entry,
        "envoy.filters.http.rbac",
        enforced_effective_policy_id="payments/pay",
        vestibule_shadow_engine_result="denied",
        vestibule_shadow_effective_policy_id="payments/no-pay",
    )
    line = EntryLines(INBOUND, REPORTER).http(entry)
    record = AccessRecord.from_json(line.text)
    assert (record.rule, line.by_break_glass) == ("payments/pay", False)
    assert (record.shadow_verdict, record.shadow_rule) == ("denied", "payments/no-pay")


@pytest.mark.parametrize("passed", ["vestibule/not-revoked", "vestibule/token-not-revoked"])
def test_that_nothing_of_a_call_is_revoked_is_no_rule_that_decided(passed: str) -> None:
    entry = request(403, "rbac_access_denied_matched_policy[none]")
    noted(entry, "envoy.filters.http.rbac", enforced_effective_policy_id=passed)
    record = AccessRecord.from_json(EntryLines(INBOUND, REPORTER).http(entry).text)
    assert (record.verdict, record.rule) == (Verdict.DENIED, "")


def test_what_break_glass_allowed_is_marked() -> None:
    entry = request()
    noted(entry, "envoy.filters.http.rbac", enforced_effective_policy_id="break-glass/k7f2m9qa")
    line = EntryLines(INBOUND, REPORTER).http(entry)
    assert line.by_break_glass
    assert AccessRecord.from_json(line.text).rule == "break-glass/k7f2m9qa"


def test_claims_of_verified_tokens_are_there_for_whoever_asks() -> None:
    entry = request()
    claims = entry.common_properties.metadata.filter_metadata["envoy.filters.http.jwt_authn"]
    claims.update({"internal": {"sub": "alice", "scope": "a b"}})
    line = EntryLines(INBOUND, REPORTER).http(entry)
    assert line.tokens is not None
    assert line.tokens() == {"internal": {"sub": "alice", "scope": "a b"}}
    assert "alice" not in line.text


def test_of_a_token_that_is_known_by_its_text_they_are_read_out_of_that() -> None:
    entry = request()
    entry.common_properties.custom_tags["claims"] = encode_base64url(b'{"sub":"alice","exp":17}')
    line = EntryLines(INBOUND, REPORTER).http(entry)
    assert line.tokens is not None
    assert line.tokens() == {"": {"sub": "alice", "exp": 17}}
    assert "alice" not in line.text
    entry.common_properties.custom_tags["claims"] = "-"
    without = EntryLines(INBOUND, REPORTER).http(entry)
    assert without.tokens is not None
    assert without.tokens() == {}


def connection(kind: int, stream: str = "s-1", *, refused: bool = False) -> TCPAccessLogEntry:
    entry = TCPAccessLogEntry()
    common = entry.common_properties
    common.start_time.FromJsonString("2026-11-01T12:00:00.5Z")
    common.tls_properties.tls_version = TLSProperties.TLSv1_3
    common.tls_properties.peer_certificate_properties.subject_alt_name.add(uri=ORDERS)
    common.access_log_type = kind
    common.stream_id = stream
    noted(entry, "envoy.filters.network.rbac", vestibule_shadow_effective_policy_id="break-glass/k7f2m9qa")
    if refused:
        common.connection_termination_details = "rbac_access_denied_matched_policy[payments/never]"
    return entry


def test_a_connection_by_break_glass_is_one_use_however_often_it_is_told_of() -> None:
    lines = EntryLines(INBOUND, REPORTER)
    told = [
        lines.connection(connection(AccessLogType.TcpPeriodic)),
        lines.connection(connection(AccessLogType.TcpPeriodic)),
        lines.connection(connection(AccessLogType.TcpPeriodic, "s-2")),
        lines.connection(connection(AccessLogType.TcpConnectionEnd)),
        lines.connection(connection(AccessLogType.TcpConnectionEnd, "s-3")),
    ]
    assert [None if each is None else each.by_break_glass for each in told] == [True, None, True, False, True]
    counted = [each is not None and each.edge is not None for each in told]
    assert counted == [False, False, False, True, True], "a connection counts on the map when it ends"


def test_a_connection_that_is_refused_all_the_same_is_no_use() -> None:
    line = EntryLines(INBOUND, REPORTER).connection(connection(AccessLogType.TcpConnectionEnd, refused=True))
    assert line is not None
    assert not line.by_break_glass
    assert AccessRecord.from_json(line.text).verdict is Verdict.DENIED
