"""Compiled resources, with what they refer to by streams put somewhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2, extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.clusters.common.dns.v3 import dns_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from vestibule.envoy.lone.access_lines import Lines
from vestibule.envoy.names import AGENT_CLUSTER, BUNDLE_SECRET, SVID_SECRET
from vestibule.envoy.outside import resolver
from vestibule.envoy.outside_tls import is_address
from vestibule.envoy.protos import packed, serialized
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import ENDPOINTS, EXTENSION, ROUTES, Snapshot

Place = Callable[[str, str], config_source_pb2.ConfigSource]
"""Where the resource of this type and name is found."""

_API: Final = config_source_pb2.ApiConfigSource


class Rewriting:
    """Of one snapshot.  ``identity`` is whose certificate the agent is asked for: by name, as every agent knows it.

    ``place`` says where routes and extensions are; None puts them where they are used.
    """

    def __init__(self, snapshot: Snapshot, identity: SpiffeId, lines: Lines, place: Place | None) -> None:
        self._snapshot = snapshot
        self._identity = identity
        self._lines = lines
        self._place = place
        self._visitors: Mapping[str, Callable[[Any], None]] = {
            _name(secret_pb2.SdsSecretConfig): self._secret,
            _name(hcm_pb2.HttpConnectionManager): self._manager,
            _name(hcm_pb2.HttpFilter): self._filter,
            _name(listener_components_pb2.Filter): self._filter,
            _name(tcp_proxy_pb2.TcpProxy): self._tcp,
            _name(listener_pb2.Listener): self._listener,
            _name(cluster_pb2.Cluster): self._cluster,
        }

    def apply(self, message: Message) -> None:
        """In place, with all that is in it."""
        visit = self._visitors.get(message.DESCRIPTOR.full_name)
        if visit is not None:
            visit(message)
        if isinstance(message, AnyMessage):
            self._inside(message)
            return
        for field, value in message.ListFields():
            for each in _messages(field, value):
                self.apply(each)

    def _inside(self, wrapped: AnyMessage) -> None:
        try:
            kind = descriptor_pool.Default().FindMessageTypeByName(wrapped.TypeName())
        except KeyError:
            return  # newer than the types that we know; nothing of ours refers to anything there
        found = message_factory.GetMessageClass(kind).FromString(wrapped.value)
        self.apply(found)
        wrapped.value = serialized(found)

    # What is said otherwise.

    def _secret(self, config: secret_pb2.SdsSecretConfig) -> None:
        source = config.sds_config.api_config_source
        if not any(each.envoy_grpc.cluster_name == AGENT_CLUSTER for each in source.grpc_services):
            return
        # SPIRE's agent answers streams of this kind only.
        source.api_type = _API.GRPC
        names = {SVID_SECRET: str(self._identity), BUNDLE_SECRET: f"spiffe://{self._identity.trust_domain}"}
        config.name = names.get(config.name, config.name)

    def _manager(self, manager: hcm_pb2.HttpConnectionManager) -> None:
        _replace(manager.access_log, self._lines.of(manager.access_log))
        name = manager.rds.route_config_name
        if self._place is not None:
            manager.rds.config_source.CopyFrom(self._place(ROUTES, name))
            return
        manager.route_config.MergeFromString(self._snapshot.of_type(ROUTES)[name].body)

    def _filter(self, found: hcm_pb2.HttpFilter | listener_components_pb2.Filter) -> None:
        if not found.HasField("config_discovery"):
            return
        if self._place is not None:
            found.config_discovery.config_source.CopyFrom(self._place(EXTENSION, found.name))
            return
        body = self._snapshot.of_type(EXTENSION)[found.name].body
        found.typed_config.CopyFrom(extension_pb2.TypedExtensionConfig.FromString(body).typed_config)

    def _tcp(self, proxy: tcp_proxy_pb2.TcpProxy) -> None:
        _replace(proxy.access_log, self._lines.of(proxy.access_log))
        if not proxy.access_log:
            proxy.ClearField("access_log_options")

    def _listener(self, listener: listener_pb2.Listener) -> None:
        speaks_http = _speaks_http(listener)
        _replace(listener.access_log, self._lines.of(listener.access_log, only_refused=speaks_http))

    def _cluster(self, cluster: cluster_pb2.Cluster) -> None:
        """Endpoints stand in the cluster, also under names that DNS knows."""
        if cluster.type != cluster_pb2.Cluster.EDS or not cluster.HasField("eds_cluster_config"):
            return
        name = cluster.eds_cluster_config.service_name or cluster.name
        cluster.ClearField("eds_cluster_config")
        found = endpoint_pb2.ClusterLoadAssignment.FromString(self._snapshot.of_type(ENDPOINTS)[name].body)
        cluster.load_assignment.CopyFrom(found)
        hosts = [
            each.endpoint.address.socket_address.address
            for group in found.endpoints
            for each in group.lb_endpoints
        ]
        if all(map(is_address, hosts)):
            cluster.type = cluster_pb2.Cluster.STATIC
            return
        config = dns_cluster_pb2.DnsCluster(
            respect_dns_ttl=True,
            dns_lookup_family=dns_pb2.V4_PREFERRED,
            typed_dns_resolver_config=resolver(),
        )
        cluster.cluster_type.name = "envoy.cluster.dns"
        cluster.cluster_type.typed_config.CopyFrom(packed(config))


def _name(kind: type[Message]) -> str:
    return kind.DESCRIPTOR.full_name


def _messages(field: FieldDescriptor, value: Any) -> list[Message]:
    kind = field.message_type
    if kind is None:
        return []
    if kind.GetOptions().map_entry:
        return list(value.values()) if kind.fields_by_name["value"].message_type is not None else []
    return [value] if isinstance(value, Message) else list(value)


def _replace(repeated: Any, found: Any) -> None:
    kept = list(found)
    del repeated[:]
    repeated.extend(kept)


def _speaks_http(listener: listener_pb2.Listener) -> bool:
    return any(
        each.name == "envoy.filters.network.http_connection_manager"
        for chain in listener.filter_chains
        for each in chain.filters
    )
