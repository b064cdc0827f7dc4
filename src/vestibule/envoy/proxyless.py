"""What a gRPC client gets that asks for ``xds:///payments`` itself, with no proxy beside it (gRFC A27, A28, A29).

It speaks mutual TLS with the callee's sidecar: its own certificate and the authorities come from the provider that its
bootstrap calls ``vestibule`` (files, as ``vestibule svid write`` keeps them), whom it talks to is said here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import api_listener_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy.places import address_of, ads
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.envoy.world import Destination, World
from vestibule.intent.model import Protocol
from vestibule.records import Address
from vestibule.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resource

PROVIDER: Final = "vestibule"
"""The certificate provider that a client's bootstrap has to have."""
CONNECT_TIMEOUT: Final = 5.0


def resources(world: World, targets: Iterable[Destination]) -> Iterator[Resource]:
    """For all that may be called and speaks gRPC."""
    for target in targets:
        if target.port.protocol is not Protocol.GRPC:
            continue
        for name in world.host_names.names.get(target, ()):
            yield _listener(name, target.cluster)
        yield _routes(target.cluster)
        yield _cluster(target)
        found = (each.ingress[target.port.name] for each in world.instances_of(target))
        yield _endpoints(target.cluster, tuple(sorted(each for each in found if not each.path)))


@lru_cache(maxsize=4096)
def _listener(name: str, routes: str) -> Resource:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="grpc", rds=hcm_pb2.Rds(route_config_name=routes, config_source=ads())
    )
    manager.http_filters.add(name="router", typed_config=packed(router_pb2.Router()))
    api = api_listener_pb2.ApiListener(api_listener=packed(manager))
    return Resource.of(LISTENER, name, serialized(listener_pb2.Listener(name=name, api_listener=api)))


@lru_cache(maxsize=4096)
def _routes(name: str) -> Resource:
    action = route_components_pb2.RouteAction(cluster=name)
    # Streams may last; a deadline that the client sets is kept.
    action.max_stream_duration.max_stream_duration.CopyFrom(seconds(0))
    match = route_components_pb2.RouteMatch(prefix="")
    host = route_components_pb2.VirtualHost(name=name, domains=["*"])
    host.routes.add(name=name, match=match, route=action)
    config = route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])
    return Resource.of(ROUTES, name, serialized(config))


@lru_cache(maxsize=4096)
def _cluster(target: Destination) -> Resource:
    cluster = cluster_pb2.Cluster(
        name=target.cluster,
        type=cluster_pb2.Cluster.EDS,
        connect_timeout=seconds(CONNECT_TIMEOUT),
        lb_policy=cluster_pb2.Cluster.ROUND_ROBIN,
    )
    cluster.eds_cluster_config.eds_config.CopyFrom(ads())
    cluster.eds_cluster_config.service_name = target.cluster
    instance = tls_pb2.UpstreamTlsContext(common_tls_context=_common(str(target.spiffe_id)))
    socket = base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(instance))
    cluster.transport_socket.CopyFrom(socket)
    return Resource.of(CLUSTER, cluster.name, serialized(cluster))


def _common(peer: str) -> tls_pb2.CommonTlsContext:
    provider = common_pb2.CertificateProviderPluginInstance(instance_name=PROVIDER)
    validation = common_pb2.CertificateValidationContext(
        ca_certificate_provider_instance=provider,
        # What clients understand of the two ways to say it.
        match_subject_alt_names=[string_pb2.StringMatcher(exact=peer)],
    )
    return tls_pb2.CommonTlsContext(tls_certificate_provider_instance=provider, validation_context=validation)


@lru_cache(maxsize=4096)
def _endpoints(name: str, addresses: tuple[Address, ...]) -> Resource:
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    if addresses:
        # Without a name and a weight a locality is passed over.
        here = assignment.endpoints.add(load_balancing_weight=UInt32Value(value=1))
        here.locality.region = "mesh"
        for address in addresses:
            here.lb_endpoints.add().endpoint.address.CopyFrom(address_of(address))
    return Resource.of(ENDPOINTS, name, serialized(assignment))
