"""Envoy's access-log entries, as lines of the access log.

Envoy fills in what happened; who reported it is taken from attestation, and so is the reporter's own side of
the call (``source`` for outbound, ``destination`` for inbound records).  The custom tags named here are set by
``envoy.access_log``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, Final, Literal, TypeAlias

from envoy.config.core.v3.address_pb2 import Address
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogCommon,
    AccessLogType,
    HTTPAccessLogEntry,
    TCPAccessLogEntry,
    TLSProperties,
)
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from vestibule.doors.denial_codes import code_of, rule_in
from vestibule.envoy import revoked, revoked_tokens
from vestibule.envoy.access_log import CLAIMS_TAG
from vestibule.envoy.names import ASKED, DECIDED, NO_DECISION
from vestibule.observe.access_log import AccessLine, Denial, Edge
from vestibule.observe.access_record import SCHEMA, Direction, Layer, Verdict
from vestibule.pki.jwk import decode_base64url
from vestibule.policy.codes import CALL_DENIED
from vestibule.records import BREAK_GLASS

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

_OUTSIDE: Final = "external:"
"""How the compiler's names begin for hosts outside the mesh."""

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
_METHODS: Final = {number: name if number else "" for name, number in RequestMethod.items()}
_DurationField: TypeAlias = Literal[
    "duration", "time_to_last_downstream_tx_byte", "time_to_first_upstream_rx_byte"
]
_text: Final = json.encoder.encode_basestring
_NO_CREDENTIAL: Final = "failed_to_inject_credential"
# What Envoy's filter for MCP refuses, and bodies larger than it may keep.
_NO_MCP: Final = ("mcp_", "request_payload_too_large")
_DENIED_DETAILS: Final = ("rbac_access_denied", "ext_authz_", "jwt_authn_access_denied", *_NO_MCP)
_MCP_REPLY: Final = "__jsonrpc_response"
"""What Envoy calls a client's reply to its server."""
_NO_UPSTREAM_FLAGS: Final = frozenset(
    {"UH", "UF", "UC", "UT", "UO", "NR", "NC", "UR", "URX", "NFCF", "DF", "OM", "FI"}
)
_OUT_OF_TIME: Final = "max_duration_timeout"
"""How a gRPC call ends at its deadline, for which there is no flag."""
_LIMIT: Final = "x-vestibule-limit"
"""The header in which a proxy that refuses names the rate limit (``envoy.limits``)."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-|$)")
_MOST_CONNECTIONS: Final = 10_000
_SHADOW: Final = "vestibule_"
"""How the keys begin under which proxies note what shadow rules would have decided (``envoy.rbac``)."""
_LET_PAST: Final = frozenset({revoked.NOT_REVOKED, revoked_tokens.NOT_REVOKED})
"""What is noted of calls whom nothing that is revoked concerns, where no rule allowed them."""
_REDIRECTS: Final = range(300, 400)


PLAINTEXT: Final = "plaintext"
"""As whom callers without an identity are counted."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """The proxy that reports, as attested: its service, identity and instance."""

    service: str
    spiffe_id: str
    instance_id: str
    intent_version: Callable[[], str] = str
    """The version of the intent that the proxy has confirmed, asked for with each batch; empty if unknown."""
    commit_of: Callable[[str], str] = lambda _version: ""
    """The commit of a version; empty if unknown, or if there is none."""
    place_of: Callable[[str, str], str] = lambda _version, _name: ""
    """Where in a version that is written which denied (``records.ServiceView.places``); empty if unknown."""


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


class EntryLines:
    """Turns the entries of one log stream into lines of JSON.

    Both proxies of a call log it, so this runs twice per request on the node's busiest Python process: the
    line is put together as text, with what is constant for the stream prepared once.
    """

    def __init__(self, name: LogName, reporter: Reporter) -> None:
        self._inbound = name.direction is Direction.INBOUND
        self._reporter = reporter
        constant = {
            "direction": name.direction.value,
            "reporter_service": reporter.service,
            "reporter_spiffe_id": reporter.spiffe_id,
            "reporter_instance": reporter.instance_id,
        }
        # The egress listener has many destinations: there the cluster's name tells, as ``service/port@version``, or the
        # route's as ``service/port``, where a request got no further.
        self._name = None if not self._inbound and not name.service else name
        self._connections: dict[str, None] = {}
        self._constant = json.dumps(constant, separators=(",", ":"))[1:-1]

    def http(self, entry: HTTPAccessLogEntry) -> AccessLine:
        """The line of one HTTP request."""
        common, request, response = entry.common_properties, entry.request, entry.response
        flags = _flags(common)
        details = response.response_code_details
        status = response.response_code.value if response.HasField("response_code") else "null"
        path = (request.original_path or request.path).partition("?")[0]
        # What leaves the mesh loses its id on the way out; it was kept beside it.
        request_id = request.request_id or _tag(common.custom_tags, "request_id")
        own = (
            f'"layer":"http","request_id":{_text(request_id)},"method":"{_METHODS[request.request_method]}",'
            f'"authority":{_text(request.authority)},"path":{_text(path)},'
            f'"protocol":"{_PROTOCOLS.get(entry.protocol_version, "")}","status":{status},"details":{_text(details)},'
            f'"bytes_received":{request.request_body_bytes},"bytes_sent":{response.response_body_bytes}'
            f"{_mcp(common.custom_tags)}"
        )
        limit = str(response.response_headers.get(_LIMIT, "")) if "RL" in flags else ""
        redirected = response.response_code.value in _REDIRECTS
        verdict = Verdict.ALLOWED if redirected else _http_verdict(details, flags)
        denied = None
        if verdict is Verdict.DENIED:
            code = code_of(
                details,
                status=response.response_code.value,
                route=common.route_name,
                limited=bool(limit),
                speaks_mcp="mcp_method" in common.custom_tags,
            )
            denied = _Denied(code, rule_in(details))
        return self._line(own, common, verdict, flags, limit, denied)

    def tcp(self, entry: TCPAccessLogEntry) -> AccessLine:
        """The line of one TCP connection, or (from a listener's log) of a connection that was refused."""
        common, connection = entry.common_properties, entry.connection_properties
        flags = _flags(common)
        details = common.connection_termination_details
        refused = bool(common.downstream_transport_failure_reason) or "NR" in flags
        verdict = Verdict.REFUSED if refused else _tcp_verdict(details, flags)
        layer = Layer.LISTENER if refused else Layer.TCP
        own = (
            f'"layer":"{layer.value}","details":{_text(details)},'
            f'"bytes_received":{connection.received_bytes},"bytes_sent":{connection.sent_bytes}'
        )
        denied = None
        if verdict is Verdict.DENIED:
            denied = _Denied(code_of(details), rule_in(details))
        return self._line(own, common, verdict, flags, denied=denied)

    def connection(self, entry: TCPAccessLogEntry) -> AccessLine | None:
        """As ``tcp``; None for what was told before: connections by break-glass are told of again and again."""
        line, common = self.tcp(entry), entry.common_properties
        if not line.by_break_glass:
            return line
        known = common.stream_id in self._connections
        if common.access_log_type == AccessLogType.TcpPeriodic:
            if known:
                return None
            self._connections[common.stream_id] = None
            while len(self._connections) > _MOST_CONNECTIONS:
                del self._connections[next(iter(self._connections))]
            # There will be another line when it ends, which counts.
            return replace(line, edge=None)
        self._connections.pop(common.stream_id, None)
        return replace(line, by_break_glass=not known)

    def _destination(self, common: AccessLogCommon) -> tuple[str, str]:
        if self._name is None:
            if common.route_name.startswith(_OUTSIDE):
                return common.route_name, ""
            name = common.upstream_cluster.partition("@")[0] or common.route_name
            service, slash, port = name.partition("/")
            # Routes without a destination (denied, unknown, …) have plain names.
            return (service, port) if slash else ("", "")
        return (self._reporter.service if self._inbound else self._name.service), self._name.port

    def _line(
        self,
        own: str,
        common: AccessLogCommon,
        verdict: Verdict,
        flags: tuple[str, ...],
        limit: str = "",
        denied: _Denied | None = None,
    ) -> AccessLine:
        tags, tls = common.custom_tags, common.tls_properties
        peer = _uri_san(tls.peer_certificate_properties) if self._inbound else ""
        source = peer if self._inbound else self._reporter.spiffe_id
        destination = self._reporter.spiffe_id if self._inbound else _tag(tags, "destination_spiffe_id")
        service, port = self._destination(common)
        if service.startswith(_OUTSIDE):
            # Somebody outside can have any certificate made out; it is nobody of ours.
            destination = ""
        plaintext = self._inbound and not tls.tls_version and verdict is not Verdict.REFUSED
        failure = common.downstream_transport_failure_reason or common.upstream_transport_failure_reason
        rule = limit or _tag(tags, "rule") or _deciding_rule(common)
        version = self._reporter.intent_version()
        denial, why = None, ""
        if denied is not None:
            rule = rule or denied.rule
            denial = Denial(service, rule, denied.code)
            why = self._why(denial, version)
        text = (
            f'{{"schema":"{SCHEMA}","time":"{_time(common.start_time)}","verdict":"{verdict.value}",{self._constant},'
            f'"source_spiffe_id":{_text(source)},"source_address":{_text(_address(common.downstream_remote_address))},'
            f'"destination_service":{_text(service)},"destination_port":{_text(port)},'
            f'"destination_spiffe_id":{_text(destination)},'
            f'"destination_address":{_text(_address(common.upstream_remote_address))},{own},'
            f'"flags":{json.dumps(flags) if flags else "[]"},"route":{_text(common.route_name)},'
            f'"rule":{_text(rule)},'
            f'"version":{_text(_tag(tags, "destination_version"))},"plaintext":{"true" if plaintext else "false"},'
            f'"tls_version":"{_TLS_VERSIONS.get(tls.tls_version, "")}",'
            f'"peer_serial":{_text(_tag(tags, "peer_serial"))},'
            f'"transport_failure":{_text(failure)},"duration_ms":{_duration(common)},'
            f'"upstream_ms":{_milliseconds(common, "time_to_first_upstream_rx_byte")},'
            f'"attempts":{common.upstream_request_attempt_count or "null"},'
            f'"trace_id":"{_trace_id(tags)}",{_shadow(common)},{_decision_id(common)}{why}'
            f'"intent_version":{_text(version)}}}'
        )
        if not self._inbound:
            return AccessLine(text, None, denial=denial)
        unknown = verdict is Verdict.REFUSED or not peer
        source = PLAINTEXT if plaintext else "unknown" if unknown else peer
        edge = Edge(source, self._reporter.service, verdict.value)
        return AccessLine(text, edge, rule.startswith(BREAK_GLASS), partial(_tokens, common), denial)

    def _why(self, denial: Denial, version: str) -> str:
        """By what, where that is written, and in which commit; where no rule allows it, the file is told."""
        where = ""
        if denial.code == CALL_DENIED.code:
            where = self._reporter.place_of(version, denial.rule or denial.service)
        commit = self._reporter.commit_of(version)
        return f'"code":"{denial.code}","where":{_text(where)},"intent_commit":{_text(commit)},'


@dataclass(frozen=True, slots=True)
class _Denied:
    """What Envoy itself says of a denial: an error code, and the rule if it names one."""

    code: str
    rule: str


def _flags(common: AccessLogCommon) -> tuple[str, ...]:
    if not common.HasField("response_flags"):
        return ()
    flags = common.response_flags
    short = [FLAGS[name.name] for name, value in flags.ListFields() if value is True and name.name in FLAGS]
    if flags.HasField("unauthorized_details"):
        short.append("UAEX")
    return tuple(short)


def _http_verdict(details: str, flags: tuple[str, ...]) -> Verdict:
    if details.startswith(_DENIED_DETAILS) or "RL" in flags:
        return Verdict.DENIED
    if details == "direct_response":
        # The only direct responses that the compiler emits say "no such service" or "not allowed".
        return Verdict.DENIED
    if _NO_UPSTREAM_FLAGS.intersection(flags) or details in (_NO_CREDENTIAL, _OUT_OF_TIME):
        return Verdict.FAILED
    return Verdict.ALLOWED


def _tcp_verdict(details: str, flags: tuple[str, ...]) -> Verdict:
    if details.startswith(_DENIED_DETAILS):
        return Verdict.DENIED
    return Verdict.FAILED if _NO_UPSTREAM_FLAGS.intersection(flags) else Verdict.ALLOWED


def _deciding_rule(common: AccessLogCommon) -> str:
    rule = _noted(common, "envoy.filters.http.rbac", "enforced_effective_policy_id")
    if rule and rule not in _LET_PAST:
        return _central_rule(common) if rule == ASKED else rule
    # The network filter says only what its shadow rules say, among which the permissions of break-glass are.
    rule = _noted(common, "envoy.filters.network.rbac", f"{_SHADOW}shadow_effective_policy_id")
    refused = common.connection_termination_details.startswith(_DENIED_DETAILS)
    return rule if rule.startswith(BREAK_GLASS) and not refused else ""


def _central_rule(common: AccessLogCommon) -> str:
    """What a decision service decided by; denied calls that fit no rule have none."""
    if not _noted(common, DECIDED, "verdict"):
        return NO_DECISION
    return _noted(common, DECIDED, "rule")


def _shadow(common: AccessLogCommon) -> str:
    """What would have been decided if rules in shadow mode counted; nothing where there are none."""
    if result := _noted(common, DECIDED, "shadow_verdict"):
        return (
            f'"shadow_verdict":{_text(result)},"shadow_rule":{_text(_noted(common, DECIDED, "shadow_rule"))}'
        )
    for place in ("envoy.filters.http.rbac", "envoy.filters.network.rbac"):
        result = _noted(common, place, f"{_SHADOW}shadow_engine_result")
        rule = _noted(common, place, f"{_SHADOW}shadow_effective_policy_id")
        if result in ("allowed", "denied") and rule != ASKED:
            return f'"shadow_verdict":"{result}","shadow_rule":{_text(rule)}'
    return '"shadow_verdict":"","shadow_rule":""'


def _tokens(common: AccessLogCommon) -> dict[str, Any]:
    """The claims of verified tokens, by the names of their issuers; of one that was known by its text, by none."""
    fields = common.metadata.filter_metadata.get("envoy.filters.http.jwt_authn")
    found = {} if fields is None else json_format.MessageToDict(fields)
    if not found and (text := _tag(common.custom_tags, CLAIMS_TAG)):
        found[""] = json.loads(decode_base64url(text))
    return found


def _decision_id(common: AccessLogCommon) -> str:
    """Under which a decision service may have noted more; nothing where none was asked."""
    found = _noted(common, DECIDED, "decision_id")
    return f'"decision_id":{_text(found)},' if found else ""


def _noted(common: AccessLogCommon, place: str, key: str) -> str:
    fields = common.metadata.filter_metadata.get(place)
    if fields is None or key not in fields.fields:
        return ""
    return str(fields.fields[key].string_value)


def _trace_id(tags: Any) -> str:
    """Of W3C trace context, if the request has one that is well formed."""
    found = _TRACEPARENT.match(tags.get("traceparent", ""))
    return found[1] if found else ""


def _mcp(tags: Any) -> str:
    """What a client of MCP asked for; nothing where that is not spoken."""
    if "mcp_method" not in tags:
        return ""
    method = _tag(tags, "mcp_method")
    target = _tag(tags, "mcp_name") or _tag(tags, "mcp_uri")
    shown = "reply" if method == _MCP_REPLY else method
    return f',"mcp_method":{_text(shown)},"mcp_target":{_text(target)}'


def _tag(tags: Any, name: str) -> str:
    value = str(tags.get(name, ""))
    return "" if value == "-" else value


def _uri_san(certificate: TLSProperties.CertificateProperties) -> str:
    return next((san.uri for san in certificate.subject_alt_name if san.uri), "")


def _address(address: Address) -> str:
    if address.HasField("socket_address"):
        return f"{address.socket_address.address}:{address.socket_address.port_value}"
    return f"unix:{address.pipe.path}" if address.pipe.path else ""


def _duration(common: AccessLogCommon) -> str:
    if common.HasField("duration"):
        return _milliseconds(common, "duration")
    return _milliseconds(common, "time_to_last_downstream_tx_byte")


def _milliseconds(common: AccessLogCommon, name: _DurationField) -> str:
    if not common.HasField(name):
        return "null"
    duration: Duration = getattr(common, name)
    return f"{duration.seconds * 1000 + duration.nanos / 1e6:.3f}"


def _time(start: Timestamp) -> str:
    return f"{_second(start.seconds)}.{start.nanos // 1000:06d}+00:00"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
