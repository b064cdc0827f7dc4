"""What a message breaks of Envoy's rules, and which other resources it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, ROUTES
from vestibule.xds.rules import violations

Reference = tuple[str, str]
"""A type of resource, and a name."""

_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "envoy.config.route.v3.RouteAction": ("cluster", CLUSTER),
    "envoy.config.route.v3.WeightedCluster.ClusterWeight": ("name", CLUSTER),
    "envoy.config.route.v3.RouteAction.RequestMirrorPolicy": ("cluster", CLUSTER),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": ("cluster", CLUSTER),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": ("name", CLUSTER),
    "envoy.config.core.v3.GrpcService.EnvoyGrpc": ("cluster_name", CLUSTER),
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds": ("route_config_name", ROUTES),
}
"""The field that names another resource, by message, and of which type that is."""


def walked(message: Any) -> tuple[tuple[str, ...], frozenset[Reference]]:
    """The rules that a message breaks, and what it refers to."""
    references: set[Reference] = set()
    broken = tuple(violations(message, lambda each, _: references.update(_refers(each))))
    return broken, frozenset(references)


def _refers(message: Any) -> Iterator[Reference]:
    full_name = message.DESCRIPTOR.full_name
    if (known := _NAMES.get(full_name)) is not None:
        field, of_type = known
        if name := getattr(message, field):
            yield of_type, name
    elif full_name == "envoy.config.cluster.v3.Cluster":
        if message.type == message.EDS:
            yield ENDPOINTS, message.eds_cluster_config.service_name or message.name
    elif _is_discovered(message):
        yield EXTENSION, message.name


def _is_discovered(message: Any) -> bool:
    """Whether it is a filter whose configuration comes by ADS (ECDS)."""
    if "config_discovery" not in message.DESCRIPTOR.fields_by_name:
        return False
    return bool(message.config_discovery.config_source.HasField("ads"))
