"""The HTTP connection manager at the edge: what Envoy's guide to edge proxies asks for, and no trust in anybody."""

from __future__ import annotations

from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager as Hcm,
)
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from vestibule.envoy import gateway_tokens, http, replies, switched, tokens
from vestibule.envoy.protos import seconds

FORGERIES: Final = (
    *("x-envoy-", "x-vestibule-", "x-forwarded", "x_forwarded", "forwarded", "x-real-ip"),
    # What some servers take for the path that was asked for, or for a proxy of their own.
    *("x-original-", "x-rewrite-url", "proxy"),
)
"""How headers begin by which a client could say who it is, or what it asked for, past the gateway."""

MAX_STREAMS: Final = 100
STREAM_WINDOW: Final = 64 * 1024
CONNECTION_WINDOW: Final = 1024 * 1024
MAX_HEADERS_KIB: Final = 32
MAX_HEADERS: Final = 100
REQUEST_TIMEOUT: Final = 300.0
"""Seconds a client may take for the whole of a request; not where gRPC streams may come in."""

IDLE_TIMEOUT: Final = 300.0
"""Seconds a connection without requests is kept."""

STREAM_IDLE_TIMEOUT: Final = 60.0
"""Seconds in which a request or answer has to make progress; a route may say otherwise."""


def edge(name: str, log: AccessLog, *, streams: bool) -> Hcm:
    """Requests from anybody.  ``streams``: some of them may last."""
    filters = [tokens.http_filter(gateway_tokens.SLOT), switched.http_filter(), http.router()]
    manager = http.basic("gateway", name, log, filters, FORGERIES)
    # Where a request comes from is what the kernel says; apps learn it from x-forwarded-for.
    manager.skip_xff_append = False
    manager.preserve_external_request_id = False
    manager.always_set_request_id_in_response = True
    manager.forward_client_cert_details = Hcm.SANITIZE
    manager.normalize_path.CopyFrom(BoolValue(value=True))
    manager.merge_slashes = True
    manager.path_with_escaped_slashes_action = Hcm.UNESCAPE_AND_REDIRECT
    manager.max_request_headers_kb.CopyFrom(UInt32Value(value=MAX_HEADERS_KIB))
    manager.stream_idle_timeout.CopyFrom(seconds(STREAM_IDLE_TIMEOUT))
    if not streams:
        manager.request_timeout.CopyFrom(seconds(REQUEST_TIMEOUT))
    options = manager.common_http_protocol_options
    options.idle_timeout.CopyFrom(seconds(IDLE_TIMEOUT))
    options.max_headers_count.CopyFrom(UInt32Value(value=MAX_HEADERS))
    options.headers_with_underscores_action = protocol_pb2.HttpProtocolOptions.REJECT_REQUEST
    manager.http2_protocol_options.CopyFrom(
        protocol_pb2.Http2ProtocolOptions(
            max_concurrent_streams=UInt32Value(value=MAX_STREAMS),
            initial_stream_window_size=UInt32Value(value=STREAM_WINDOW),
            initial_connection_window_size=UInt32Value(value=CONNECTION_WINDOW),
        )
    )
    manager.server_header_transformation = Hcm.PASS_THROUGH
    manager.local_reply_config.CopyFrom(replies.gateway())
    return manager
