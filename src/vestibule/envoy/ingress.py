"""What a proxy accepts from others: per port, mutual TLS, policy, and the app behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache

from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.message import Message

from vestibule.envoy import (
    access_log,
    central,
    clusters,
    http,
    limits,
    listeners,
    predicates,
    rbac,
    revoked,
    revoked_tokens,
    switched,
    token_text,
    tokens,
)
from vestibule.envoy.limits import Limit
from vestibule.envoy.mutual_tls import ACCEPTED_AGE, AGE_JITTER, accepting_tls, connection_age
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, seconds, serialized
from vestibule.envoy.revoked import NOBODY, Refused
from vestibule.envoy.tokens import NO_ISSUERS, Issuers
from vestibule.envoy.told import ROUTE as TOLD
from vestibule.envoy.told import Told
from vestibule.intent.model import Authorization, Decide, DenyDetail, Port, Protocol, Service
from vestibule.intent.traffic import Permissive, Traffic
from vestibule.policy import PortPolicy
from vestibule.records import Address, Instance
from vestibule.xds.resources import EXTENSION, ROUTES, Resource


def resources(
    service: Service,
    traffic: Traffic,
    instance: Instance,
    svid_ttl: timedelta,
    told: Callable[[], Told],
    policy: Callable[[str], PortPolicy],
    issuers: Issuers = NO_ISSUERS,
    refused: Refused = NOBODY,
    cut: Callable[[PortPolicy], str] = lambda _: "",
    decide: Decide = Decide.LOCAL,
) -> Iterator[Resource]:
    """Everything for the ports that the instance really has.

    ``traffic`` is what is in force of the service's, ``told`` what callers may learn, ``policy`` what decides about a
    port, ``issuers`` whose tokens count.  ``refused`` is what is revoked, and ``cut`` tells what was last taken from
    callers of a port, by revocation or by the end of break-glass: with something else, what is under way there ends.
    ``decide`` is who decides where a proxy alone could.  Which tokens of the mesh's own token service are revoked, if
    it has one, whoever delivers this fills in (``revoked_tokens``).
    """
    slots = revoked.slots(refused)
    yield from (slots[is_http] for is_http in (True, False) if is_http in _kinds(service, instance))
    own_tokens = bool(issuers.service)
    if own_tokens and True in _kinds(service, instance):
        yield revoked_tokens.EMPTY
    for name, address in sorted(instance.ingress.items()):
        port, app_address = service.ports.get(name), instance.apps.get(name)
        if port is None or app_address is None:
            continue
        decides = policy(name)
        ends = cut(decides)
        wanted_issuers = issuers.demanded_by(decides)
        if token_text.is_kept_from(port.protocol) and central.decided_where(decides, decide) is None:
            wanted_issuers = wanted_issuers.by_text(decides)
        yield from _policy(decides, port, wanted_issuers, decide)
        plain = traffic.permissive is not None
        if traffic.permissive is not None:
            yield _plaintext_policy(traffic.permissive, port)
        yield clusters.app(port, app_address)
        tell_rule = service.deny_detail is DenyDetail.CALLER
        if port.protocol.is_http:
            refuses = port.authorization is Authorization.REFUSE
            yield tokens.resource(decides, wanted_issuers, refuses=refuses)
            yield _http_listener(service.name, port, address, svid_ttl, tell_rule, plain, ends, own_tokens)
            wanted = limits.of_port(
                service.name, traffic.limits, name, service.rules_for(name), plaintext=plain
            )
            centrally = tell_rule and central.decided_where(decides, decide) is not None
            yield _routes(service.name, port, told() if tell_rule else None, centrally, wanted, svid_ttl)
        else:
            yield _tcp_listener(service.name, port, address, svid_ttl, plain, ends)


def _kinds(service: Service, instance: Instance) -> set[bool]:
    """Whether the instance has ports that speak HTTP, and such that do not."""
    return {
        service.ports[name].protocol.is_http
        for name in instance.ingress
        if name in service.ports and name in instance.apps
    }


def listener_name(port: str) -> str:
    return f"ingress/{port}"


def policy_name(port: str) -> str:
    return f"policy/{port}"


def plaintext_policy_name(port: str) -> str:
    return f"plaintext/{port}"


@lru_cache(maxsize=4096)
def _policy(policy: PortPolicy, port: Port, issuers: Issuers, decide: Decide) -> tuple[Resource, ...]:
    name = policy_name(port.name)
    asked = central.decided_where(policy, decide)
    config: Message
    if not port.protocol.is_http:
        config = rbac.network_rbac(policy)
    elif asked is None:
        config = rbac.http_rbac(central.without_unjudged(policy), issuers)
    else:
        config = central.both(rbac.http_rbac(asked.local, issuers), policy)
    extension = extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
    resource = Resource.of(EXTENSION, name, serialized(extension))
    return (resource,) if asked is None else (central.decisions(policy), resource)


@lru_cache(maxsize=4096)
def _plaintext_policy(permissive: Permissive, port: Port) -> Resource:
    name = plaintext_policy_name(port.name)
    rules = tuple(each for each in permissive.allow if each.port in (None, port.name))
    config = (
        rbac.http_rbac_of_anybody(rules, until=permissive.until, speaks_mcp=port.protocol is Protocol.MCP)
        if port.protocol.is_http
        else rbac.plaintext_network_rbac(rules, permissive.until)
    )
    extension = extension_pb2.TypedExtensionConfig(name=name, typed_config=packed(config))
    return Resource.of(EXTENSION, name, serialized(extension))


@lru_cache(maxsize=4096)
def _http_listener(
    service: str,
    port: Port,
    address: Address,
    svid_ttl: timedelta,
    tell_rule: bool,
    plain: bool,
    cut: str,
    own_tokens: bool,
) -> Resource:
    # What becomes of tokens is said elsewhere: a change of that is none of the listener.
    port = replace(port, authorization=Authorization.FORWARD)
    chain, plaintext = _http_chains(service, port, svid_ttl, tell_rule, plain, cut, own_tokens)
    connections = access_log.inbound_connections(service, port.name)
    return listeners.inbound(listener_name(port.name), address, chain, connections, plaintext)


@lru_cache(maxsize=4096)
def _http_chains(
    service: str, port: Port, svid_ttl: timedelta, tell_rule: bool, plain: bool, cut: str, own_tokens: bool
) -> tuple[FilterChain, FilterChain | None]:
    """What the listeners of all instances have in common, for connections with TLS and, if ``plain``, without."""
    name = listener_name(port.name)
    is_mcp = port.protocol is Protocol.MCP
    log = access_log.inbound(service, port.name, is_mcp=is_mcp)
    manager = http.ingress(
        name,
        service,
        policy_name(port.name),
        svid_ttl,
        log,
        tell_rule=tell_rule,
        speaks_mcp=is_mcp,
        token=tokens.slot_name(port.name),
        own_tokens=own_tokens,
    )
    manager.access_log.extend(access_log.emergencies(service, port.name, is_mcp=is_mcp))
    chain = listener_components_pb2.FilterChain(
        filters=[revoked.facts(), http.network_filter(manager)],
        transport_socket=accepting_tls("h2", "http/1.1"),
        metadata=revoked.generation(cut),
    )
    plaintext = None
    if plain:
        manager = http.ingress(
            name,
            service,
            plaintext_policy_name(port.name),
            svid_ttl,
            log,
            tell_rule=tell_rule,
            plaintext=True,
            speaks_mcp=is_mcp,
        )
        plaintext = listener_components_pb2.FilterChain(filters=[http.network_filter(manager)])
    return chain, plaintext


@lru_cache(maxsize=4096)
def _tcp_listener(
    service: str, port: Port, address: Address, svid_ttl: timedelta, plain: bool, cut: str
) -> Resource:
    discovery = config_source_pb2.ExtensionConfigSource(
        config_source=ads(), type_urls=["type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"]
    )
    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix="ingress_tcp",
        cluster=clusters.app_cluster_name(port.name),
        max_downstream_connection_duration=seconds(connection_age(svid_ttl, ACCEPTED_AGE)),
        max_downstream_connection_duration_jitter_percentage=percent_pb2.Percent(value=AGE_JITTER),
        access_log=access_log.emergency_connections(service, port.name),
    )
    # Whom only break-glass lets in is told of soon, not when the connection ends; and not when it begins, since by
    # whose rule it is allowed is known with the first bytes.
    proxy.access_log_options.access_log_flush_interval.CopyFrom(seconds(access_log.EMERGENCY_SECONDS))
    chain = listener_components_pb2.FilterChain(
        filters=[
            revoked.facts(),
            revoked.tcp_filter(),
            _remembering_the_time(),
            listener_components_pb2.Filter(name=policy_name(port.name), config_discovery=discovery),
            listeners.tcp_proxy(proxy),
        ],
        transport_socket=accepting_tls(),
        metadata=revoked.generation(cut),
    )
    plaintext = None
    if plain:
        policy = listener_components_pb2.Filter(
            name=plaintext_policy_name(port.name), config_discovery=discovery
        )
        plaintext = listener_components_pb2.FilterChain(filters=[policy, listeners.tcp_proxy(proxy)])
    log = access_log.inbound_connections(service, port.name)
    return listeners.inbound(listener_name(port.name), address, chain, log, plaintext)


def _remembering_the_time() -> listener_components_pb2.Filter:
    """When a connection began, so that rules which end can ask for it."""
    value = value_pb2.FilterStateValue(object_key=predicates.BEGAN, factory_key="envoy.string")
    value.format_string.text_format_source.inline_string = "%START_TIME(%s%3f)%"
    return listener_components_pb2.Filter(
        name="vestibule.began",
        typed_config=packed(set_filter_state_pb2.Config(on_new_connection=[value])),
    )


@lru_cache(maxsize=4096)
def _routes(
    service: str,
    port: Port,
    told: Told | None,
    centrally: bool,
    wanted: tuple[Limit, ...],
    svid_ttl: timedelta,
) -> Resource:
    name = listener_name(port.name)
    action = route_components_pb2.RouteAction(
        cluster=clusters.app_cluster_name(port.name),
        # The caller's proxy bounds the call, and ends it here too when it gives up.
        timeout=seconds(0),
    )
    if port.protocol is Protocol.MCP:
        # A server may have nothing to say to its clients for hours.
        action.idle_timeout.CopyFrom(seconds(0))
    if port.protocol is Protocol.GRPC:
        # … or the caller itself, by grpc-timeout, though not beyond the bound of every stream.
        action.max_stream_duration.grpc_timeout_header_max.CopyFrom(seconds(svid_ttl.total_seconds()))
    route = route_components_pb2.Route(
        name=f"{service}/{port.name}",
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=action,
    )
    said = {"service": service, "port": port.name}
    route.metadata.filter_metadata[central.ROUTE].update(said)
    if told is not None:
        route.metadata.filter_metadata[TOLD].update(told.metadata(centrally=centrally))
    if wanted:
        route.typed_per_filter_config[switched.FILTER].CopyFrom(switched.on(limits.filters(wanted)))
    host = route_components_pb2.VirtualHost(name=service, domains=["*"], routes=[route])
    # Envoy writes it on requests that it takes for ones from outside.
    host.request_headers_to_remove.append("x-envoy-external-address")
    if port.authorization is not Authorization.FORWARD:
        host.request_headers_to_remove.append("authorization")
    config = route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])
    return Resource.of(ROUTES, name, serialized(config))
