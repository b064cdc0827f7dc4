"""Access logs: what each proxy tells the agent about requests, connections and refused clients.

A log's name is ``vestibule/<inbound|outbound>/<service>/<port>``, the service being the destination.  The egress
listener has many destinations and leaves both parts empty; there, as everywhere, the route's name is
``service/port``.  What Envoy does not report by itself travels in custom tags.

A proxy logs every request of a burst, and of a lasting load ``SERVED_PER_SECOND``; refused and failed ones have a
budget of their own.  A flood of requests must neither cost the callers a third of the throughput, which logging all of
them does, nor keep the node's agent from its work.  Envoy counts all requests in any case.

What only break-glass allows has a log of its own, without any such budget; the others leave it out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog, AccessLogFilter
from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.access_loggers.filters.process_ratelimit.v3 import process_ratelimit_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.type.matcher.v3.metadata_pb2 import MetadataMatcher
from envoy.type.v3.token_bucket_pb2 import TokenBucket
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from vestibule.envoy.limits import HEADER as LIMIT_HEADER
from vestibule.envoy.names import DECIDED
from vestibule.envoy.places import ads, agent_service
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.envoy.rbac import SHADOW_PREFIX
from vestibule.envoy.token_text import HEADER
from vestibule.records import BREAK_GLASS, LONGEST_TOLD
from vestibule.xds.resources import TOKEN_BUCKET, Resource

SERVED_PER_SECOND: Final = 20
FAILED_PER_SECOND: Final = 1000
SERVED_BURST: Final = 100
FAILED_BURST: Final = 1000
"""Entries that may come at once."""

FLUSH_SECONDS: Final = 0.25
BUFFER_BYTES: Final = 65536
EMERGENCY_BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What a worker keeps of calls that break-glass allowed, while the agent is slow: some thousands."""

_Place: TypeAlias = tuple[str, str]
_HTTP_RBAC: Final = ("envoy.filters.http.rbac", "enforced_effective_policy_id")
_CENTRAL: Final = (DECIDED, "rule")
# The network filter says only what its shadow rules say.
_NETWORK_RBAC: Final = ("envoy.filters.network.rbac", f"{SHADOW_PREFIX}shadow_effective_policy_id")
"""Where the filters note which rule decided: of which filter, under which key."""

EMERGENCY_SECONDS: Final = 2.0
"""How often a TCP connection that lasts is told of, if only break-glass allowed it."""

_SERVED: Final = "access-log/served"
_FAILED: Final = "access-log/failed"

INBOUND_TAGS: Final = {"peer_serial": "%DOWNSTREAM_PEER_SERIAL%"}
CLAIMS_TAG: Final = "claims"
_CLAIMS: Final = {CLAIMS_TAG: f"%REQ({HEADER})%"}
"""Of a token that is known by its text; of others metadata says them."""

_TRACED: Final = {"traceparent": "%REQ(TRACEPARENT)%"}
MCP_TAGS: Final = {
    "mcp_method": "%DYNAMIC_METADATA(envoy.filters.http.mcp:method):200%",
    "mcp_name": "%DYNAMIC_METADATA(envoy.filters.http.mcp:params:name):500%",
    "mcp_uri": "%DYNAMIC_METADATA(envoy.filters.http.mcp:params:uri):500%",
}
REQUEST_ID: Final = "vestibule.request_id"
"""The filter state in which a request's id is kept where the request itself loses it."""

KEPT_REQUEST_ID: Final = f"%FILTER_STATE({REQUEST_ID}:PLAIN)%"
OUTBOUND_TAGS: Final = {
    "destination_spiffe_id": "%UPSTREAM_PEER_URI_SAN%",
    "request_id": KEPT_REQUEST_ID,
    "destination_version": "%UPSTREAM_METADATA(vestibule:version)%",
}


def inbound(service: str, port: str, *, is_mcp: bool = False) -> AccessLog:
    """Requests that arrive for the app.  ``is_mcp``: they are messages of the Model Context Protocol."""
    return _requests(
        f"vestibule/inbound/{service}/{port}", _inbound_tags(is_mcp), ordinary=(_HTTP_RBAC, _CENTRAL)
    )


def emergencies(service: str, port: str, *, is_mcp: bool = False) -> Iterator[AccessLog]:
    """Requests that arrive for the app and that only break-glass allows: every one of them, told twice.

    What Envoy sends while the agent is away is lost, so that it prints them, too.
    """
    name = f"vestibule/inbound/{service}/{port}"
    config = als_pb2.HttpGrpcAccessLogConfig(
        common_config=_common(name, {**_inbound_tags(is_mcp), **_TRACED}, EMERGENCY_BUFFER_BYTES),
        additional_response_headers_to_log=[LIMIT_HEADER],
    )
    yield AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=_either(_by_break_glass(_HTTP_RBAC), _by_break_glass(_CENTRAL)),
        typed_config=packed(config),
    )
    for place in (_HTTP_RBAC, _CENTRAL):
        yield _printed(place, port, _REQUEST)


def _inbound_tags(is_mcp: bool) -> Mapping[str, str]:
    tags = {**INBOUND_TAGS, **_CLAIMS}
    return {**tags, **MCP_TAGS} if is_mcp else tags


def inbound_connections(service: str, port: str) -> AccessLog:
    """Connections that arrive, also those whose handshake failed: only a listener's own log knows of them."""
    return _connections(f"vestibule/inbound/{service}/{port}", INBOUND_TAGS, ordinary=(_NETWORK_RBAC,))


def emergency_connections(service: str, port: str) -> Iterator[AccessLog]:
    """TCP connections that only break-glass allows: every one of them, while it lasts and when it ends."""
    common = _common(f"vestibule/inbound/{service}/{port}", INBOUND_TAGS, EMERGENCY_BUFFER_BYTES)
    yield AccessLog(
        name="envoy.access_loggers.tcp_grpc",
        filter=_by_break_glass(_NETWORK_RBAC),
        typed_config=packed(als_pb2.TcpGrpcAccessLogConfig(common_config=common)),
    )
    yield _printed(_NETWORK_RBAC, port, {"stream": "%STREAM_ID%"})


def outbound(service: str = "", port: str = "") -> AccessLog:
    """Requests that the app makes."""
    return _requests(f"vestibule/outbound/{service}/{port}", OUTBOUND_TAGS)


def outbound_connections(service: str, port: str, *, rule: str = "") -> AccessLog:
    """TCP connections that the app makes.  ``rule`` is the one that lets them out, where the proxy itself decides."""
    peer = {"destination_spiffe_id": OUTBOUND_TAGS["destination_spiffe_id"]}
    tags = {**peer, "rule": rule} if rule else peer
    return _connections(f"vestibule/outbound/{service}/{port}", tags)


def limits() -> Iterator[Resource]:
    """The token buckets that the logs of a proxy share."""
    buckets = (
        (_SERVED, SERVED_BURST, SERVED_PER_SECOND),
        (_FAILED, FAILED_BURST, FAILED_PER_SECOND),
    )
    for name, burst, rate in buckets:
        bucket = TokenBucket(
            max_tokens=burst, tokens_per_fill=UInt32Value(value=rate), fill_interval=seconds(1)
        )
        yield Resource.of(TOKEN_BUCKET, name, serialized(bucket))


def _requests(name: str, tags: Mapping[str, str], ordinary: Sequence[_Place] = ()) -> AccessLog:
    """``ordinary``: without what break-glass allows, which is logged elsewhere."""
    config = als_pb2.HttpGrpcAccessLogConfig(
        common_config=_common(name, {**tags, **_TRACED}), additional_response_headers_to_log=[LIMIT_HEADER]
    )
    failed = _both(_either(_status_of_failure(), _any_flag()), _within(_FAILED))
    return AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=_without_break_glass(_either(failed, _within(_SERVED)), ordinary),
        typed_config=packed(config),
    )


def _connections(name: str, tags: Mapping[str, str], ordinary: Sequence[_Place] = ()) -> AccessLog:
    config = als_pb2.TcpGrpcAccessLogConfig(common_config=_common(name, tags))
    return AccessLog(
        name="envoy.access_loggers.tcp_grpc",
        filter=_without_break_glass(_within(_FAILED), ordinary),
        typed_config=packed(config),
    )


def _by_break_glass(place: _Place, *, otherwise: bool = False) -> AccessLogFilter:
    """Whether a permission of break-glass let it through, or ``otherwise``: anything else."""
    matcher = MetadataMatcher(filter=place[0])
    matcher.path.add(key=place[1])
    if otherwise:
        # Envoy's access logs ignore ``invert``.
        matcher.value.string_match.safe_regex.regex = _OTHER_RULES
    else:
        matcher.value.string_match.prefix = BREAK_GLASS
    return AccessLogFilter(
        metadata_filter=accesslog_pb2.MetadataFilter(
            matcher=matcher, match_if_key_not_found=BoolValue(value=otherwise)
        )
    )


# Names that go another way at some character, or end before.
_OTHER_RULES: Final = "|".join(
    f"{re.escape(BREAK_GLASS[:place])}(?:[^{re.escape(BREAK_GLASS[place])}].*)?"
    for place in range(len(BREAK_GLASS))
)


def _without_break_glass(others: AccessLogFilter, places: Sequence[_Place]) -> AccessLogFilter:
    """Asked last: most requests of a lasting load are beyond the budget, and logged nowhere."""
    found = [_by_break_glass(each, otherwise=True) for each in places]
    return _both(others, *found) if found else others


def _common(
    name: str, tags: Mapping[str, str], buffer: int = BUFFER_BYTES
) -> als_pb2.CommonGrpcAccessLogConfig:
    common = als_pb2.CommonGrpcAccessLogConfig(
        log_name=name,
        grpc_service=agent_service(),
        transport_api_version=config_source_pb2.V3,
        buffer_flush_interval=seconds(FLUSH_SECONDS),
        buffer_size_bytes=UInt32Value(value=buffer),
    )
    for tag, value in sorted(tags.items()):
        common.custom_tags.add(tag=tag, value=value)
    return common


def _printed(place: _Place, port: str, more: Mapping[str, str]) -> AccessLog:
    """A line of JSON on the proxy's standard error, for its sidecar (``proxy.printed_uses``), of bounded length."""
    config = stream_pb2.StderrAccessLog()
    config.log_format.json_format.update(
        {
            "break_glass": f"%DYNAMIC_METADATA({place[0]}:{place[1]})%",
            "time": "%START_TIME(%s.%6f)%",
            "caller": "%DOWNSTREAM_PEER_URI_SAN%",
            "port": port,
            "address": "%DOWNSTREAM_REMOTE_ADDRESS%",
            **more,
        }
    )
    return AccessLog(
        name="envoy.access_loggers.stderr", filter=_by_break_glass(place), typed_config=packed(config)
    )


_REQUEST: Final = {
    "method": "%REQ(:METHOD):32%",
    "path": f"%PATH(NQ):{LONGEST_TOLD}%",
    "status": "%RESPONSE_CODE%",
    "request_id": "%REQ(X-REQUEST-ID):100%",
}


def _status_of_failure() -> AccessLogFilter:
    comparison = accesslog_pb2.ComparisonFilter(
        op=accesslog_pb2.ComparisonFilter.GE,
        value=base_pb2.RuntimeUInt32(default_value=400, runtime_key="vestibule.unset"),
    )
    return AccessLogFilter(status_code_filter=accesslog_pb2.StatusCodeFilter(comparison=comparison))


def _any_flag() -> AccessLogFilter:
    return AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter())


def _within(bucket: str) -> AccessLogFilter:
    limit = process_ratelimit_pb2.ProcessRateLimitFilter(
        dynamic_config=process_ratelimit_pb2.DynamicTokenBucket(resource_name=bucket, config_source=ads())
    )
    return AccessLogFilter(
        extension_filter=accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.process_ratelimit", typed_config=packed(limit)
        )
    )


def _either(*filters: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(or_filter=accesslog_pb2.OrFilter(filters=filters))


def _both(*filters: AccessLogFilter) -> AccessLogFilter:
    return AccessLogFilter(and_filter=accesslog_pb2.AndFilter(filters=filters))
