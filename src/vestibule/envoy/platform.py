"""What the platform's own Envoy is started with: for each service a listener with strict mutual TLS, and our app.

A second one, where there is one, asks for no certificate and says nothing of who calls: for clients with tokens.

It needs no intent and no agent: everything but its certificate and the bundle stands here, and these come from the
server that started it, over a private Unix socket.  A broken intent so never locks anybody out.

This module imports no protobuf, so that the server starts it quickly; the result is JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.envoy.names import BUNDLE_SECRET, PLATFORM_APP_CLUSTER, PLATFORM_SERVER_CLUSTER
from vestibule.envoy.overload import overload_manager
from vestibule.records import Address
from vestibule.spiffe import TrustDomain

MAX_REQUEST_BYTES: Final = 2 * 1024 * 1024
"""Of one request's body: a value of 1 MiB, in base64 and JSON."""

MAX_HEADERS_KIB: Final = 60
CALLER_HEADER: Final = "x-forwarded-client-cert"
"""Who calls, by the certificate that was verified; whatever a client sends under this name is thrown away."""

REQUEST_SECONDS: Final = 60
HEADERS_SECONDS: Final = 10
HANDSHAKE_SECONDS: Final = 5
IDLE_SECONDS: Final = 300
APP_IDLE_SECONDS: Final = 30
"""The app keeps idle connections for longer, so that none is closed under a request."""

MAX_CONNECTIONS: Final = 10_000
MAX_PENDING: Final = 1024
APP_BUFFER_BYTES: Final = 64 * 1024
MAX_APP_CONNECTIONS: Final = 2560
"""Each request takes one while it lasts, also those that wait for a new version of a secret, up to a minute."""
HEAP_BYTES: Final = 256 << 20
_MAX_STREAMS: Final = 256
_FORGERIES: Final = ("x-envoy-", "x-forwarded-client_", "x-forwarded_", "x_forwarded")
_TYPES: Final = "type.googleapis.com/envoy"
_TLS: Final = f"{_TYPES}.extensions.transport_sockets.tls.v3"
_HCM: Final = f"{_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformService:
    """One service behind the Envoy.  ``name`` is also that of its listener, and what its secrets are called by.

    ``open_listen`` is for clients without certificate; they see the SVID, or with ``web`` another certificate.
    ``replies`` is how Envoy's own answers are written (``LocalReplyConfig``); ``custom_methods`` admits methods
    that HTTP does not know.
    """

    name: str
    listen: Address
    app_socket: Path
    replies: Mapping[str, Any]
    open_listen: Address | None = None
    web: bool = False
    custom_methods: bool = False

    @property
    def cluster(self) -> str:
        """What Envoy calls the app."""
        return f"{PLATFORM_APP_CLUSTER}_{self.name}"


def svid_secret(service: str) -> str:
    """The SDS secret with a service's certificate."""
    return f"svid/{service}"


def web_secret(service: str) -> str:
    """The SDS secret with the certificate that a service shows to clients without one."""
    return f"web/{service}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformBootstrap:
    """Where everything is.  ``connection_seconds`` is how long a connection lives: less than an SVID."""

    trust_domain: TrustDomain
    services: tuple[PlatformService, ...]
    server_socket: Path
    admin_socket: Path
    connection_seconds: float

    @property
    def document(self) -> dict[str, Any]:
        """For ``json.dumps``.  It holds no secret."""
        return {
            "node": {"id": "vestibule-platform", "cluster": "vestibule"},
            "admin": {
                "address": {"pipe": {"path": str(self.admin_socket), "mode": 0o600}},
                "allow_paths": [
                    {"prefix": path} for path in ("/ready", "/drain_listeners", "/stats", "/server_info")
                ],
            },
            "static_resources": {
                "listeners": [each for service in self.services for each in self._listeners(service)],
                "clusters": [_server_cluster(self.server_socket), *map(_app_cluster, self.services)],
            },
            "overload_manager": _overload(),
        }

    def _listeners(self, service: PlatformService) -> Iterator[dict[str, Any]]:
        name = service.name
        known = self._manager(service, _BY_CERTIFICATE)
        yield _listener(name, service.listen, self._mutual_tls(name), known)
        if service.open_listen is not None:
            shown = web_secret(name) if service.web else svid_secret(name)
            manager = self._manager(service, _BY_TOKEN)
            yield _listener(f"{name}_token", service.open_listen, _tls(shown), manager)

    def _mutual_tls(self, service: str) -> dict[str, Any]:
        names = {"san_type": "URI", "matcher": {"prefix": f"spiffe://{self.trust_domain}/"}}
        return _tls(
            svid_secret(service),
            {
                "default_validation_context": {"match_typed_subject_alt_names": [names]},
                "validation_context_sds_secret_config": _secret(BUNDLE_SECRET),
            },
        )

    def _manager(self, service: PlatformService, forwarded: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "@type": _HCM,
            "stat_prefix": service.name,
            "codec_type": "AUTO",
            **forwarded,
            # Nothing is rewritten: what is not normal is refused, here or by the app.
            "normalize_path": False,
            "merge_slashes": False,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            # Vault's LIST is a method of its own; the app knows no other.
            "http_protocol_options": {"allow_custom_methods": service.custom_methods},
            "http2_protocol_options": {
                "max_concurrent_streams": _MAX_STREAMS,
                "initial_stream_window_size": 256 * 1024,
                "initial_connection_window_size": 1024 * 1024,
            },
            "max_request_headers_kb": MAX_HEADERS_KIB,
            "request_headers_timeout": f"{HEADERS_SECONDS}s",
            "request_timeout": f"{REQUEST_SECONDS}s",
            "delayed_close_timeout": "0.25s",
            "stream_idle_timeout": f"{IDLE_SECONDS}s",
            "drain_timeout": f"{min(5.0, self.connection_seconds / 4):.3f}s",
            "common_http_protocol_options": {
                "idle_timeout": f"{IDLE_SECONDS}s",
                "max_connection_duration": f"{self.connection_seconds:.3f}s",
                "headers_with_underscores_action": "REJECT_REQUEST",
            },
            "http1_safe_max_connection_duration": True,
            "use_remote_address": True,
            "skip_xff_append": True,
            "generate_request_id": True,
            "preserve_external_request_id": True,
            "server_header_transformation": "PASS_THROUGH",
            "http_filters": [
                # Bodies are not gathered here: a few hundred slow ones would fill the memory that all share.  The app
                # bounds them, by identity.
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {
                        "@type": f"{_TYPES}.extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                        "dynamic_stats": False,
                    },
                },
            ],
            "route_config": {
                "name": service.name,
                "virtual_hosts": [
                    {
                        "name": service.name,
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                "route": {
                                    "cluster": service.cluster,
                                    "timeout": f"{REQUEST_SECONDS}s",
                                    # Nothing was sent yet; a Unix socket refuses at once when many come together.
                                    "retry_policy": {
                                        "retry_on": "connect-failure",
                                        "num_retries": 3,
                                        "retry_back_off": {
                                            "base_interval": "0.025s",
                                            "max_interval": "0.25s",
                                        },
                                    },
                                },
                            }
                        ],
                    }
                ],
            },
            "local_reply_config": service.replies,
            "access_log": [_log(_REQUEST, _FAILED)],
        }


def _listener(name: str, at: Address, tls: dict[str, Any], manager: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "stat_prefix": name,
        "address": {"socket_address": {"address": at.host, "port_value": at.port}},
        "filter_chains": [
            {
                "transport_socket": tls,
                "transport_socket_connect_timeout": f"{HANDSHAKE_SECONDS}s",
                "filters": [
                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                ],
            }
        ],
        "per_connection_buffer_limit_bytes": 256 * 1024,
        # A second process on the same port must fail, not get every other call.
        "enable_reuse_port": False,
        "access_log": [_log(_REFUSED, {"response_flag_filter": {}})],
    }


def _tls(shown: str, clients: dict[str, Any] | None = None) -> dict[str, Any]:
    """``clients`` says which certificates are taken; without it none is asked for."""
    validation = {} if clients is None else {"combined_validation_context": clients}
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TLS}.DownstreamTlsContext",
            "require_client_certificate": clients is not None,
            # A resumed session would outlive the certificates it was made with.
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
            "common_tls_context": {
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_3",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "tls_certificate_sds_secret_configs": [_secret(shown)],
                **validation,
                "alpn_protocols": ["h2", "http/1.1"],
            },
        },
    }


_REQUEST: Final = {
    "time": "%START_TIME%",
    "caller": "%DOWNSTREAM_PEER_URI_SAN%",
    "method": "%REQ(:METHOD)%",
    # Names of secrets are no secrets; queries may be anything.
    "path": "%PATH(NQ:PATH)%",
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "duration_ms": "%DURATION%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
}
_REFUSED: Final = {
    "time": "%START_TIME%",
    "refused": "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%",
    "from": "%DOWNSTREAM_REMOTE_ADDRESS%",
}


_FAILED: Final = {
    "status_code_filter": {
        "comparison": {
            "op": "GE",
            "value": {"default_value": 400, "runtime_key": "vestibule.platform.logged"},
        }
    }
}
"""Of what reached the app the audit log has all; this is for what did not, and for whoever looks for a cause."""


def _log(form: dict[str, str], only: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.stdout",
        "filter": only,
        "typed_config": {
            "@type": f"{_TYPES}.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": form},
        },
    }


def _secret(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "sds_config": {
            "resource_api_version": "V3",
            # Without a certificate there is nothing to serve.
            "initial_fetch_timeout": "0s",
            "api_config_source": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": PLATFORM_SERVER_CLUSTER,
                            "retry_policy": {
                                "retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}
                            },
                        }
                    }
                ],
            },
        },
    }


def _cleaning(*prefixes: str) -> dict[str, Any]:
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove_on_match": {"key_matcher": {"prefix": each}}} for each in prefixes],
        },
    }


def _server_cluster(socket: Path) -> dict[str, Any]:
    options: dict[str, Any] = {
        "http2_protocol_options": {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
    }
    return _pipe(PLATFORM_SERVER_CLUSTER, socket, {"explicit_http_config": options})


def _app_cluster(service: PlatformService) -> dict[str, Any]:
    cluster = _pipe(
        service.cluster,
        service.app_socket,
        {
            "explicit_http_config": {"http_protocol_options": {}},
            "common_http_protocol_options": {"idle_timeout": f"{APP_IDLE_SECONDS}s"},
        },
    )
    thresholds = {
        "max_connections": MAX_APP_CONNECTIONS,
        "max_pending_requests": MAX_PENDING,
        "max_requests": MAX_APP_CONNECTIONS + MAX_PENDING,
    }
    return {
        **cluster,
        "circuit_breakers": {"thresholds": [thresholds]},
        "per_connection_buffer_limit_bytes": APP_BUFFER_BYTES,
    }


def _pipe(name: str, socket: Path, options: dict[str, Any]) -> dict[str, Any]:
    key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {key: {"@type": f"type.googleapis.com/{key}", **options}},
    }


def _overload() -> dict[str, Any]:
    return overload_manager(HEAP_BYTES, MAX_CONNECTIONS, {"stop_accepting_requests": 0.95})


VAULT_REPLIES: Final[Mapping[str, Any]] = {
    "body_format": {"json_format": {"errors": ["%LOCAL_REPLY_BODY%"]}},
}
"""As Vault writes its errors."""


def _oauth_reply(error: str) -> dict[str, Any]:
    said = "refused by the proxy: %RESPONSE_CODE_DETAILS% %LOCAL_REPLY_BODY%"
    return {"json_format": {"error": error, "error_description": said}}


OAUTH_REPLIES: Final[Mapping[str, Any]] = {
    "body_format": _oauth_reply("invalid_request"),
    "mappers": [
        {
            "filter": {
                "status_code_filter": {
                    "comparison": {
                        "op": "GE",
                        "value": {"default_value": 500, "runtime_key": "vestibule.platform.ours"},
                    }
                }
            },
            "body_format_override": _oauth_reply("temporarily_unavailable"),
        }
    ],
}
"""As RFC 6749, section 5.2, has errors."""

_BY_CERTIFICATE: Final[Mapping[str, Any]] = {
    "forward_client_cert_details": "SANITIZE_SET",
    # The chain, too: the app verifies it once more, and holds it against the list of what is revoked.
    "set_current_client_cert_details": {"uri": True, "chain": True},
    "early_header_mutation_extensions": [_cleaning(*_FORGERIES)],
}
_BY_TOKEN: Final[Mapping[str, Any]] = {
    # Twice, since all depends on it: behind this listener the app must never see the header.
    "forward_client_cert_details": "SANITIZE",
    "early_header_mutation_extensions": [_cleaning(*_FORGERIES, CALLER_HEADER)],
}
