"""What a proxy accepts from others: per port, mutual TLS, policy, and the app behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import lru_cache

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import percent_pb2

from vestibule.envoy import access_log, clusters, http, listeners, rbac
from vestibule.envoy.mutual_tls import ACCEPTED_AGE, AGE_JITTER, accepting_tls, connection_age
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.intent.model import DenyDetail, Port, Protocol, Service
from vestibule.policy import Rule
from vestibule.records import Address, Instance
from vestibule.xds.resources import EXTENSION, ROUTES, Resource


def resources(
    service: Service, instance: Instance, svid_ttl: timedelta, version: Callable[[], str]
) -> Iterator[Resource]:
    """Everything for the ports that the instance really has; ``version`` is the intent's."""
    for name, address in sorted(instance.ingress.items()):
        port, app_address = service.ports.get(name), instance.apps.get(name)
        if port is None or app_address is None:
            continue
        yield _policy(service.rules_for(name), port)
        yield clusters.app(port, app_address)
        tell_rule = service.deny_detail is DenyDetail.CALLER
        if port.protocol.is_http:
            yield _http_listener(service.name, port, address, svid_ttl, tell_rule)
            yield _routes(service.name, port, version() if tell_rule else "")
        else:
            yield _tcp_listener(service.name, port, address, svid_ttl)


def listener_name(port: str) -> str:
    return f"ingress/{port}"


def policy_name(port: str) -> str:
    return f"policy/{port}"


@lru_cache(maxsize=4096)
def _policy(rules: tuple[Rule, ...], port: Port) -> Resource:
    name = policy_name(port.name)
    config = rbac.http_rbac(rules) if port.protocol.is_http else rbac.network_rbac(rules)
    extension = extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
    return Resource.of(EXTENSION, name, serialized(extension))


@lru_cache(maxsize=4096)
def _http_listener(
    service: str, port: Port, address: Address, svid_ttl: timedelta, tell_rule: bool
) -> Resource:
    name = listener_name(port.name)
    log = access_log.inbound(service, port.name)
    manager = http.ingress(name, service, policy_name(port.name), svid_ttl, log, tell_rule=tell_rule)
    chain = listener_components_pb2.FilterChain(
        filters=[http.network_filter(manager)], transport_socket=accepting_tls("h2", "http/1.1")
    )
    return listeners.inbound(name, address, chain, access_log.inbound_connections(service, port.name))


@lru_cache(maxsize=4096)
def _tcp_listener(service: str, port: Port, address: Address, svid_ttl: timedelta) -> Resource:
    discovery = config_source_pb2.ExtensionConfigSource(
        config_source=ads(), type_urls=["type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"]
    )
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix="ingress_tcp",
        cluster=clusters.app_cluster_name(port.name),
        max_downstream_connection_duration=seconds(connection_age(svid_ttl, ACCEPTED_AGE)),
        max_downstream_connection_duration_jitter_percentage=percent_pb2.Percent(value=AGE_JITTER),
    )
    chain = listener_components_pb2.FilterChain(
        filters=[
            listener_components_pb2.Filter(name=policy_name(port.name), config_discovery=discovery),
            listeners.tcp_proxy(proxy),
        ],
        transport_socket=accepting_tls(),
    )
    log = access_log.inbound_connections(service, port.name)
    return listeners.inbound(listener_name(port.name), address, chain, log)


@lru_cache(maxsize=4096)
def _routes(service: str, port: Port, intent_version: str) -> Resource:
    name = listener_name(port.name)
    action = route_components_pb2.RouteAction(
        cluster=clusters.app_cluster_name(port.name),
        # The caller's proxy bounds the call, and ends it here too when it gives up.
        timeout=seconds(0),
    )
    if port.protocol is Protocol.GRPC:
        # … or the caller itself, by grpc-timeout.
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(seconds(0))
    route = route_components_pb2.Route(
        name=f"{service}/{port.name}",
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=action,
    )
    if intent_version:
        route.metadata.filter_metadata["vestibule"].update({"intent_version": intent_version})
    host = route_components_pb2.VirtualHost(name=service, domains=["*"], routes=[route])
    # Envoy writes it on requests that it takes for ones from outside.
    host.request_headers_to_remove.append("x-envoy-external-address")
    config = route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])
    return Resource.of(ROUTES, name, serialized(config))
