"""Where resources come from and where things listen, in Envoy's words."""

from __future__ import annotations

from typing import Final

from envoy.config.core.v3 import address_pb2, config_source_pb2, grpc_service_pb2

from vestibule.envoy.names import AGENT_CLUSTER, DECISIONS_CLUSTER, SIDECAR_CLUSTER
from vestibule.envoy.protos import seconds
from vestibule.records import Address

SOCKET_MODE: Final = 0o600
"""Of Unix sockets that Envoy creates: they are for its own user only."""

HOST_SECRET_TIMEOUT: Final = 2.0
"""Seconds for which a proxy that starts waits for a secret that its own host should have."""


def agent_service() -> grpc_service_pb2.GrpcService:
    """The agent's public socket, as a gRPC service."""
    return _service(AGENT_CLUSTER)


def decision_service() -> grpc_service_pb2.GrpcService:
    """Who decides what a proxy alone cannot: the agent."""
    return _service(DECISIONS_CLUSTER)


def agent_subscription() -> grpc_service_pb2.GrpcService:
    """The same for a long-lived stream: after the agent restarts, it is back within a second, not after 30."""
    return _subscription(AGENT_CLUSTER)


def sidecar_secrets(timeout: float = HOST_SECRET_TIMEOUT) -> config_source_pb2.ConfigSource:
    """Secrets of the host, from the sidecar that started this Envoy; ``timeout`` in seconds, while it starts.

    One that cannot be had is waited for only briefly: what needs it fails, and says so; the rest of the proxy goes on.
    """
    return config_source_pb2.ConfigSource(
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=seconds(timeout),
        api_config_source=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.DELTA_GRPC,
            transport_api_version=config_source_pb2.V3,
            set_node_on_first_message_only=True,
            grpc_services=[_subscription(SIDECAR_CLUSTER)],
        ),
    )


def _service(cluster: str) -> grpc_service_pb2.GrpcService:
    return grpc_service_pb2.GrpcService(
        envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster)
    )


def _subscription(cluster: str) -> grpc_service_pb2.GrpcService:
    service = _service(cluster)
    back_off = service.envoy_grpc.retry_policy.retry_back_off
    back_off.base_interval.CopyFrom(seconds(0.1))
    back_off.max_interval.CopyFrom(seconds(1))
    return service


def ads() -> config_source_pb2.ConfigSource:
    """The stream that delivered the resource which says this."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=seconds(0),
    )


def address_of(address: Address) -> address_pb2.Address:
    """An address in Envoy's words; a Unix socket is created for Envoy's own user only."""
    if address.path:
        return address_pb2.Address(pipe=address_pb2.Pipe(path=address.path, mode=SOCKET_MODE))
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(address=address.host, port_value=address.port)
    )
