"""Access logs: what each proxy tells the agent about requests, connections and refused clients.

A log's name is ``vestibule/<inbound|outbound>/<service>/<port>``, the service being the destination.  The egress
listener has many destinations and leaves both parts empty; there, as everywhere, the route's name is
``service/port``.  What Envoy does not report by itself travels in custom tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy.places import agent_service
from vestibule.envoy.protos import packed, seconds

FLUSH_SECONDS: Final = 0.25
BUFFER_BYTES: Final = 65536

INBOUND_TAGS: Final = {"peer_serial": "%DOWNSTREAM_PEER_SERIAL%"}
OUTBOUND_TAGS: Final = {"destination_spiffe_id": "%UPSTREAM_PEER_URI_SAN%"}


def inbound(service: str, port: str) -> AccessLog:
    """Requests that arrive for the app."""
    return _requests(f"vestibule/inbound/{service}/{port}", INBOUND_TAGS)


def inbound_connections(service: str, port: str) -> AccessLog:
    """Connections that arrive, also those whose handshake failed: only a listener's own log knows of them."""
    return _connections(f"vestibule/inbound/{service}/{port}", INBOUND_TAGS)


def outbound(service: str = "", port: str = "") -> AccessLog:
    """Requests that the app makes."""
    return _requests(f"vestibule/outbound/{service}/{port}", OUTBOUND_TAGS)


def outbound_connections(service: str, port: str) -> AccessLog:
    """TCP connections that the app makes."""
    return _connections(f"vestibule/outbound/{service}/{port}", OUTBOUND_TAGS)


def _requests(name: str, tags: Mapping[str, str]) -> AccessLog:
    config = als_pb2.HttpGrpcAccessLogConfig(common_config=_common(name, tags))
    return AccessLog(name="envoy.access_loggers.http_grpc", typed_config=packed(config))


def _connections(name: str, tags: Mapping[str, str]) -> AccessLog:
    config = als_pb2.TcpGrpcAccessLogConfig(common_config=_common(name, tags))
    return AccessLog(name="envoy.access_loggers.tcp_grpc", typed_config=packed(config))


def _common(name: str, tags: Mapping[str, str]) -> als_pb2.CommonGrpcAccessLogConfig:
    common = als_pb2.CommonGrpcAccessLogConfig(
        log_name=name,
        grpc_service=agent_service(),
        transport_api_version=config_source_pb2.V3,
        buffer_flush_interval=seconds(FLUSH_SECONDS),
        buffer_size_bytes=UInt32Value(value=BUFFER_BYTES),
    )
    for tag, value in sorted(tags.items()):
        common.custom_tags.add(tag=tag, value=value)
    return common
