"""Envoy's access-log entries, as access records.

Envoy fills in what happened; who reported it is taken from attestation, and so is the reporter's own side of
the call (``source`` for outbound, ``destination`` for inbound records).  The custom tags named here are set by
``envoy.access_log``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import Any, Final

from envoy.config.core.v3.address_pb2 import Address
from envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogCommon,
    HTTPAccessLogEntry,
    ResponseFlags,
    TCPAccessLogEntry,
    TLSProperties,
)
from google.protobuf.duration_pb2 import Duration

from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict

FLAGS: Final = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}
"""Envoy's short names of response flags, as its documentation and other tools write them."""

_TLS_VERSIONS: Final = {
    TLSProperties.TLSv1: "TLSv1",
    TLSProperties.TLSv1_1: "TLSv1.1",
    TLSProperties.TLSv1_2: "TLSv1.2",
    TLSProperties.TLSv1_3: "TLSv1.3",
}
_PROTOCOLS: Final = {
    HTTPAccessLogEntry.HTTP10: "HTTP/1.0",
    HTTPAccessLogEntry.HTTP11: "HTTP/1.1",
    HTTPAccessLogEntry.HTTP2: "HTTP/2",
    HTTPAccessLogEntry.HTTP3: "HTTP/3",
}
_DENIED_DETAILS: Final = ("rbac_access_denied", "ext_authz_denied", "jwt_authn_access_denied")
_NO_UPSTREAM_FLAGS: Final = frozenset(
    {"UH", "UF", "UC", "UT", "UO", "NR", "NC", "UR", "URX", "NFCF", "DF", "OM"}
)


@dataclass(frozen=True, slots=True)
class Reporter:
    """The proxy that reports, as attested: its service, identity and instance."""

    service: str
    spiffe_id: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class LogName:
    """``vestibule/<inbound|outbound>/<destination service>/<port>``, which the compiler sets per listener."""

    direction: Direction
    service: str
    port: str

    @classmethod
    def parse(cls, text: str) -> LogName:
        """A name that is not ours still yields a record, as an inbound one without destination."""
        parts = text.split("/")
        if len(parts) != 4 or parts[0] != "vestibule" or parts[1] not in ("inbound", "outbound"):
            return cls(Direction.INBOUND, "", "")
        return cls(Direction(parts[1]), parts[2], parts[3])


def from_http(entry: HTTPAccessLogEntry, name: LogName, reporter: Reporter) -> AccessRecord:
    """The record of one HTTP request."""
    common, request, response = entry.common_properties, entry.request, entry.response
    status = response.response_code.value if response.HasField("response_code") else None
    flags = _flags(common.response_flags)
    details = response.response_code_details
    return AccessRecord(
        layer=Layer.HTTP,
        verdict=_http_verdict(details, flags),
        request_id=request.request_id,
        method=_method(entry),
        authority=request.authority,
        path=(request.original_path or request.path).partition("?")[0],
        protocol=_PROTOCOLS.get(entry.protocol_version, ""),
        status=status,
        details=details,
        bytes_received=request.request_body_bytes,
        bytes_sent=response.response_body_bytes,
        **_common(common, name, reporter),
    )


def from_tcp(entry: TCPAccessLogEntry, name: LogName, reporter: Reporter) -> AccessRecord:
    """The record of one TCP connection, or (from a listener's log) of a connection that was refused."""
    common, connection = entry.common_properties, entry.connection_properties
    refused = bool(common.downstream_transport_failure_reason) or "NR" in _flags(common.response_flags)
    details = common.connection_termination_details
    return AccessRecord(
        layer=Layer.LISTENER if refused else Layer.TCP,
        verdict=Verdict.REFUSED if refused else _tcp_verdict(details, _flags(common.response_flags)),
        details=details,
        bytes_received=connection.received_bytes,
        bytes_sent=connection.sent_bytes,
        **_common(common, name, reporter),
    )


def _common(common: AccessLogCommon, name: LogName, reporter: Reporter) -> dict[str, Any]:
    tags = common.custom_tags
    inbound = name.direction is Direction.INBOUND
    peer = _uri_san(common.tls_properties.peer_certificate_properties)
    return {
        "time": common.start_time.ToDatetime(tzinfo=UTC),
        "direction": name.direction,
        "reporter_service": reporter.service,
        "reporter_spiffe_id": reporter.spiffe_id,
        "reporter_instance": reporter.instance_id,
        "source_spiffe_id": peer if inbound else reporter.spiffe_id,
        "source_address": _address(common.downstream_remote_address),
        "destination_service": reporter.service if inbound else name.service,
        "destination_port": name.port,
        "destination_spiffe_id": reporter.spiffe_id if inbound else _tag(tags, "destination_spiffe_id"),
        "destination_address": _address(common.upstream_remote_address),
        "flags": _flags(common.response_flags),
        "route": common.route_name,
        "rule": _tag(tags, "rule") or _denying_rule(common),
        "tls_version": _TLS_VERSIONS.get(common.tls_properties.tls_version, ""),
        "peer_serial": _tag(tags, "peer_serial"),
        "transport_failure": common.downstream_transport_failure_reason
        or common.upstream_transport_failure_reason,
        "duration_ms": _milliseconds(common, "duration")
        or _milliseconds(common, "time_to_last_downstream_tx_byte"),
        "upstream_ms": _milliseconds(common, "time_to_first_upstream_rx_byte"),
        "attempts": common.upstream_request_attempt_count or None,
        "intent_version": _tag(tags, "intent_version"),
    }


def _flags(flags: ResponseFlags) -> tuple[str, ...]:
    short = [FLAGS[name.name] for name, value in flags.ListFields() if value is True and name.name in FLAGS]
    if flags.HasField("unauthorized_details"):
        short.append("UAEX")
    return tuple(short)


def _http_verdict(details: str, flags: tuple[str, ...]) -> Verdict:
    if details.startswith(_DENIED_DETAILS):
        return Verdict.DENIED
    if details == "direct_response":
        # The only direct responses that the compiler emits say "no such service" or "not allowed".
        return Verdict.DENIED
    if _NO_UPSTREAM_FLAGS.intersection(flags):
        return Verdict.FAILED
    return Verdict.ALLOWED


def _tcp_verdict(details: str, flags: tuple[str, ...]) -> Verdict:
    if details.startswith(_DENIED_DETAILS):
        return Verdict.DENIED
    return Verdict.FAILED if _NO_UPSTREAM_FLAGS.intersection(flags) else Verdict.ALLOWED


def _denying_rule(common: AccessLogCommon) -> str:
    fields = common.metadata.filter_metadata.get("envoy.filters.http.rbac")
    if fields is None or "enforced_effective_policy_id" not in fields.fields:
        return ""
    return str(fields.fields["enforced_effective_policy_id"].string_value)


def _method(entry: HTTPAccessLogEntry) -> str:
    name = entry.request.DESCRIPTOR.fields_by_name["request_method"].enum_type.values_by_number[
        entry.request.request_method
    ]
    return "" if entry.request.request_method == 0 else str(name.name)


def _tag(tags: Any, name: str) -> str:
    value = str(tags.get(name, ""))
    return "" if value == "-" else value


def _uri_san(certificate: TLSProperties.CertificateProperties) -> str:
    return next((san.uri for san in certificate.subject_alt_name if san.uri), "")


def _address(address: Address) -> str:
    if address.HasField("socket_address"):
        return f"{address.socket_address.address}:{address.socket_address.port_value}"
    return f"unix:{address.pipe.path}" if address.pipe.path else ""


def _milliseconds(common: AccessLogCommon, name: str) -> float | None:
    if not common.HasField(name):
        return None
    duration: Duration = getattr(common, name)
    return round(duration.seconds * 1000 + duration.nanos / 1e6, 3)
