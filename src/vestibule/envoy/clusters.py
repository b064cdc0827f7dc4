"""Clusters: the app beside a proxy, and the services it may call."""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as options_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.message import Message

from vestibule.envoy import bounds, injected, localities
from vestibule.envoy.http import http2_options
from vestibule.envoy.injected import Injection
from vestibule.envoy.localities import Place
from vestibule.envoy.mutual_tls import DIALLED_AGE, connection_age, dialling_tls
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.envoy.world import Destination
from vestibule.intent.model import Port, Protocol
from vestibule.intent.traffic import CircuitLimits, OutlierDetection
from vestibule.records import Address
from vestibule.xds.resources import CLUSTER, ENDPOINTS, Resource

APP_CONNECT_TIMEOUT: Final = 1.0
CONNECT_TIMEOUT: Final = 3.0
APP_IDLE_TIMEOUT: Final = 1.0
"""Seconds; shorter than the keep-alive of common app servers, which close idle connections without a word."""

_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def app_cluster_name(port: str) -> str:
    """Never a destination's, which all have a slash: a service may well be called ``app``."""
    return f"app:{port}"


@lru_cache(maxsize=4096)
def app(port: Port, address: Address) -> Resource:
    """The app's own port, in plain text, on this host."""
    cluster = _cluster(app_cluster_name(port.name), APP_CONNECT_TIMEOUT)
    bounds.limit(cluster)
    cluster.type = cluster_pb2.Cluster.STATIC
    cluster.load_assignment.CopyFrom(localities.assignment(cluster.name, [Place(0, "", address)]))
    if port.protocol.is_http:
        options = _http_options(http2=port.protocol in (Protocol.HTTP2, Protocol.GRPC))
        options.common_http_protocol_options.idle_timeout.CopyFrom(seconds(APP_IDLE_TIMEOUT))
        cluster.typed_extension_protocol_options[_OPTIONS].CopyFrom(packed(options))
    return Resource.of(CLUSTER, cluster.name, serialized(cluster))


@lru_cache(maxsize=4096)
def destination(
    name: str,
    target: Destination,
    svid_ttl: timedelta,
    circuit: CircuitLimits = CircuitLimits(),
    outlier: OutlierDetection | None = None,
    crl: bytes = b"",
    token: Injection | None = None,
) -> Resource:
    """A port of another service: its instances by EDS, pinned to its identity, over HTTP/2 unless it is TCP.

    ``name`` is that of all its instances, or of those of one version; ``crl`` as for ``mutual_tls.dialling_tls``;
    ``token`` what is sent along with each request.

    HTTP/2 costs less than HTTP/1.1 between sidecars, needs few handshakes, and its connections end without
    losing a request.
    """
    cluster = _cluster(name, CONNECT_TIMEOUT)
    bounds.limit(cluster, circuit)
    bounds.watch(cluster, outlier)
    cluster.type = cluster_pb2.Cluster.EDS
    cluster.eds_cluster_config.eds_config.CopyFrom(ads())
    cluster.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST
    # With few healthy instances left, use those, never the sick ones.
    cluster.common_lb_config.healthy_panic_threshold.CopyFrom(percent_pb2.Percent(value=0))
    if target.port.protocol.is_http:
        options = _http_options(http2=True)
        options.common_http_protocol_options.max_connection_duration.CopyFrom(
            seconds(connection_age(svid_ttl, DIALLED_AGE))
        )
        # What is under way when a callee is revoked ends by itself, at the latest with the SVID that it began with.
        options.common_http_protocol_options.max_stream_duration.CopyFrom(seconds(svid_ttl.total_seconds()))
        if token is not None:
            options.http_filters.append(_filter("credential_injector", injected.http_filter(token)))
            options.http_filters.append(_filter("upstream_codec", upstream_codec_pb2.UpstreamCodec()))
        cluster.typed_extension_protocol_options[_OPTIONS].CopyFrom(packed(options))
        cluster.transport_socket.CopyFrom(dialling_tls(target.spiffe_id, "h2", crl=crl))
    else:
        cluster.transport_socket.CopyFrom(dialling_tls(target.spiffe_id, crl=crl))
    # Instances that are gone are not dialled until a health check says so: there is none.
    cluster.ignore_health_on_host_removal = True
    return Resource.of(CLUSTER, cluster.name, serialized(cluster))


@lru_cache(maxsize=4096)
def endpoints(name: str, found: tuple[Place, ...]) -> Resource:
    """Where the instances of a destination are; possibly nowhere."""
    return Resource.of(ENDPOINTS, name, serialized(localities.assignment(name, found)))


def _cluster(name: str, connect_timeout: float) -> cluster_pb2.Cluster:
    return cluster_pb2.Cluster(name=name, connect_timeout=seconds(connect_timeout))


def _filter(name: str, config: Message) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=f"envoy.filters.http.{name}", typed_config=packed(config))


def _http_options(*, http2: bool) -> options_pb2.HttpProtocolOptions:
    options = options_pb2.HttpProtocolOptions()
    if http2:
        options.explicit_http_config.http2_protocol_options.CopyFrom(http2_options())
    else:
        options.explicit_http_config.http_protocol_options.CopyFrom(protocol_pb2.Http1ProtocolOptions())
    return options
