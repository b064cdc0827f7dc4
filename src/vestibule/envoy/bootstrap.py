"""What an Envoy is started with: where the agent is, who it is, and nothing secret.

Everything else (listeners, clusters, certificates, policy) comes from the agent over one Unix socket.
This module imports no protobuf, so a sidecar starts its Envoy quickly; the result is JSON.
"""

from __future__ import annotations

from typing import Any, Final

from vestibule.envoy.names import (
    AGENT_CLUSTER,
    DECISIONS_CLUSTER,
    SIDECAR_CLUSTER,
    SIDECAR_MARK,
    TOKENS_CLUSTER,
)
from vestibule.envoy.overload import overload_manager

MAX_DOWNSTREAM_CONNECTIONS: Final = 50_000
"""Open connections one Envoy accepts on all its listeners together; beyond it, new ones are closed."""

HEAP_BYTES: Final = 1 << 30
"""What an Envoy may allocate if nobody says otherwise; an idle one needs about 20 MB, a busy one rarely 200."""

MAX_QUESTIONS: Final = 512
"""Questions to the decision service that may be open at once; beyond it, calls are refused at once (503)."""

SHRINK_AT: Final = 0.95
STOP_AT: Final = 0.98
"""Parts of the heap at which Envoy gives memory back, and at which it refuses requests until it has some again."""

_TYPES: Final = "type.googleapis.com/envoy.extensions.filters.network"

ADMIN_PATHS: Final = (
    "/certs",
    "/clusters",
    "/config_dump",
    "/drain_listeners",
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/init_dump",
    "/listeners",
    "/logging",
    "/quitquitquit",
    "/ready",
    "/server_info",
    "/stats",
)
"""What the admin interface answers: diagnosis and draining, but no runtime changes and no profiling."""


def bootstrap(
    *,
    node_id: str,
    cluster: str,
    agent_socket: str,
    admin_socket: str,
    host_socket: str | None = None,
    token_socket: str | None = None,
    heap_bytes: int = HEAP_BYTES,
    files: int | None = None,
) -> dict[str, Any]:
    """The bootstrap of one sidecar's Envoy, ready for ``json.dumps``.

    ``node_id`` is the instance's id and ``cluster`` the service's name; the agent overwrites both with what
    it attested.  ``agent_socket`` and ``admin_socket`` are paths of Unix sockets; Envoy creates the latter
    with mode 0600.  ``host_socket`` is the sidecar's own, for secrets that are files of the host; without one, a proxy
    can neither verify public certificates nor be a gateway.  ``token_socket`` is where the sidecar gets tokens for this
    Envoy to send along, with the certificate that it has here.  ``heap_bytes`` bounds its memory and ``files`` its
    descriptors: beyond half of them, connections that come in are closed, since each may need one more to go on.
    """
    return {
        # An agent that tells other Envoys plain authorities is not to do so here.
        "node": {
            "id": node_id,
            "cluster": cluster,
            "metadata": {"disable_spiffe_cert_validation": False, SIDECAR_MARK: True},
        },
        "admin": {
            "address": {"pipe": {"path": admin_socket, "mode": 0o600}},
            "allow_paths": [{"prefix": path} for path in ADMIN_PATHS],
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [{"envoy_grpc": _agent_grpc()}],
            },
            # Without an end: one that takes over from another must not do so with nothing to serve.
            "cds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
            "lds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "static_resources": {
            "clusters": [
                _grpc_cluster(AGENT_CLUSTER, agent_socket),
                {
                    **_grpc_cluster(DECISIONS_CLUSTER, agent_socket),
                    "circuit_breakers": {"thresholds": [{"max_requests": MAX_QUESTIONS}]},
                },
                *([_grpc_cluster(SIDECAR_CLUSTER, host_socket)] if host_socket else []),
            ],
            "listeners": [_token_listener(token_socket)] if token_socket else [],
        },
        "overload_manager": _overload(heap_bytes, files),
    }


def _token_listener(socket: str) -> dict[str, Any]:
    """For the sidecar alone, and one thing: it asks the mesh's own token service as whom this Envoy is."""
    route = {"match": {"path": "/oauth2/token"}, "route": {"cluster": TOKENS_CLUSTER, "timeout": "5s"}}
    manager = {
        "@type": f"{_TYPES}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "fetching",
        # What no cluster leads to yet is answered 503, and asked again.
        "route_config": {
            "validate_clusters": False,
            "virtual_hosts": [{"name": "tokens", "domains": ["*"], "routes": [route]}],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    return {
        "name": "fetching",
        "address": {"pipe": {"path": socket, "mode": 0o600}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _overload(heap_bytes: int, files: int | None) -> dict[str, Any]:
    most = MAX_DOWNSTREAM_CONNECTIONS if files is None else min(MAX_DOWNSTREAM_CONNECTIONS, files // 2)
    return overload_manager(heap_bytes, most, {"shrink_heap": SHRINK_AT, "stop_accepting_requests": STOP_AT})


def _agent_grpc() -> dict[str, Any]:
    # The agent is on this machine: after it restarts, come back within a second, not after 30.
    return {
        "cluster_name": AGENT_CLUSTER,
        "retry_policy": {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}},
    }


def _grpc_cluster(name: str, socket: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]},
            ],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {
                        # A frozen agent is noticed, and the connection made anew.
                        "connection_keepalive": {"interval": "10s", "timeout": "5s"},
                    }
                },
            }
        },
    }
