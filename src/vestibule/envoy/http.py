"""HTTP connection managers: what holds on both sides of a sidecar, and what differs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.core.v3 import config_source_pb2, extension_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager as Hcm,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from vestibule.envoy import mcp, mcp_replies, replies, revoked, revoked_tokens, switched, tokens
from vestibule.envoy.mutual_tls import ACCEPTED_AGE, AGE_JITTER, connection_age
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, seconds

REQUEST_HEADERS_TIMEOUT: Final = 10.0
"""Seconds a client may take to send the headers of a request."""

MAX_DRAIN: Final = 5.0
"""Seconds a connection that reached its age still accepts requests before it is closed."""

# HttpProtocolOptions.max_connection_duration_jitter, which Envoy 1.40 knows and the Python types do not yet:
# field 8, a Percent.
_PERCENT: Final = percent_pb2.Percent(value=AGE_JITTER).SerializeToString()
_AGE_JITTER_FIELD: Final = bytes([8 << 3 | 2, len(_PERCENT)]) + _PERCENT

_FORGERIES: Final = ("x-envoy-", "x-forwarded-client_", "x-forwarded_", "x_forwarded")
"""How headers begin that nobody may send: names of Envoy's own, and with ``_`` for ``-`` those of proxies."""

MAX_STREAMS: Final = 256
_STREAM_WINDOW: Final = 256 * 1024
_CONNECTION_WINDOW: Final = 1024 * 1024


def ingress(
    name: str,
    service: str,
    policy: str,
    svid_ttl: timedelta,
    log: AccessLog,
    *,
    tell_rule: bool,
    plaintext: bool = False,
    speaks_mcp: bool = False,
    token: str = "",
    own_tokens: bool = False,
) -> Hcm:
    """Requests from other sidecars.  ``policy`` names the RBAC filter's configuration, delivered by ECDS.

    ``plaintext``: requests from those who have no identity, counted by themselves.  ``speaks_mcp``: they are messages
    of the Model Context Protocol, and nothing else.  ``token`` names the configuration of the filter that verifies
    tokens, where there is one; ``own_tokens``: also such of the mesh's own service, some of which may be revoked.
    """
    # What is revoked is refused before anything else is looked at; nobody is revoked who is nobody.
    filters = [] if plaintext else [revoked.http_filter()]
    if token:
        filters.append(tokens.http_filter(token))
    if own_tokens:
        filters.append(revoked_tokens.http_filter())
    if speaks_mcp:
        filters += mcp.http_filters()
    filters += [_rbac(policy), switched.http_filter(), router()]
    manager = basic("plaintext" if plaintext else "ingress", name, log, filters)
    age = connection_age(svid_ttl, ACCEPTED_AGE)
    options = manager.common_http_protocol_options
    # No verdict cuts what is under way: it ends with the SVID that it began with, at the latest.
    options.max_stream_duration.CopyFrom(seconds(svid_ttl.total_seconds()))
    options.max_connection_duration.CopyFrom(seconds(age))
    options.MergeFromString(_AGE_JITTER_FIELD)
    manager.drain_timeout.CopyFrom(seconds(min(MAX_DRAIN, age / 4)))
    manager.http1_safe_max_connection_duration = True
    # The caller's identity is ours to say, whatever the request claims.
    manager.forward_client_cert_details = Hcm.SANITIZE if plaintext else Hcm.SANITIZE_SET
    if not plaintext:
        manager.set_current_client_cert_details.uri = True
    # Paths are not rewritten here: what is not normal already is refused by policy, so that the app sees
    # exactly the bytes that were authorised.
    manager.normalize_path.CopyFrom(BoolValue(value=False))
    asked = mcp.ASKED if speaks_mcp else replies.CALL
    answers = replies.ingress(service, tell_rule=tell_rule, plaintext=plaintext, asked=asked)
    manager.local_reply_config.CopyFrom(
        mcp_replies.of(answers, tell_rule=tell_rule) if speaks_mcp else answers
    )
    return manager


def egress(name: str, log: AccessLog, *, custom_methods: bool = False) -> Hcm:
    """Requests from the app, in plain text, also in a proxy's absolute form.

    With ``custom_methods`` also such as Vault's LIST, which Envoy otherwise answers 400 over HTTP/1.1.
    """
    manager = basic("egress", name, log, [switched.http_filter(), router()])
    manager.forward_client_cert_details = Hcm.SANITIZE
    if custom_methods:
        manager.http_protocol_options.allow_custom_methods = True
    # A kindness to clients, not a defence: the callee decides about what arrives there.
    manager.normalize_path.CopyFrom(BoolValue(value=True))
    manager.merge_slashes = True
    manager.path_with_escaped_slashes_action = Hcm.KEEP_UNCHANGED
    manager.strip_any_host_port = True
    # Lets CONNECT as far as the routes, all of which answer it with an explanation.
    manager.upgrade_configs.append(Hcm.UpgradeConfig(upgrade_type="CONNECT"))
    manager.always_set_request_id_in_response = True
    manager.local_reply_config.CopyFrom(mcp_replies.beside(replies.egress()))
    return manager


def network_filter(manager: Hcm) -> listener_components_pb2.Filter:
    """The manager as the last filter of a chain."""
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
    )


def basic(
    prefix: str,
    routes: str,
    log: AccessLog,
    filters: Sequence[hcm_pb2.HttpFilter],
    forgeries: Sequence[str] = _FORGERIES,
) -> Hcm:
    """What holds on every side: ids, limits, and that nobody speaks for a proxy (``forgeries``: how headers begin)."""
    manager = Hcm(
        stat_prefix=prefix,
        rds=hcm_pb2.Rds(route_config_name=routes, config_source=ads()),
        http_filters=filters,
        access_log=[log],
        # Nobody out there speaks for Envoy: x-envoy-* headers of requests are dropped.
        use_remote_address=BoolValue(value=True),
        skip_xff_append=True,
        # One id per call, from the first sidecar to the last app.
        generate_request_id=BoolValue(value=True),
        preserve_external_request_id=True,
        request_id_extension=_request_ids(),
        server_header_transformation=Hcm.PASS_THROUGH,
        request_headers_timeout=seconds(REQUEST_HEADERS_TIMEOUT),
    )
    manager.early_header_mutation_extensions.append(_cleaning(forgeries))
    manager.http2_protocol_options.CopyFrom(http2_options())
    # Each hop says what it speaks itself: some servers refuse a request by TLS that calls itself plain.
    manager.scheme_header_transformation.match_upstream = True
    return manager


def http2_options() -> protocol_pb2.Http2ProtocolOptions:
    """Limits of HTTP/2 on a connection, either side."""
    return protocol_pb2.Http2ProtocolOptions(
        max_concurrent_streams=UInt32Value(value=MAX_STREAMS),
        initial_stream_window_size=UInt32Value(value=_STREAM_WINDOW),
        initial_connection_window_size=UInt32Value(value=_CONNECTION_WINDOW),
    )


def _rbac(policy: str) -> hcm_pb2.HttpFilter:
    discovery = config_source_pb2.ExtensionConfigSource(
        config_source=ads(),
        type_urls=[
            "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            # Rules, and then a question to a decision service (``central``).
            "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        ],
    )
    return hcm_pb2.HttpFilter(name=policy, config_discovery=discovery)


def router() -> hcm_pb2.HttpFilter:
    """The last filter."""
    # x-envoy-* headers would tell apps, and callers, about the proxies' inner life.  Counting every response per
    # cluster and status costs 5 % of a request; the listeners' own counts and the access logs say the same.
    router = router_pb2.Router(suppress_envoy_headers=True, dynamic_stats=BoolValue(value=False))
    return hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router))


def _cleaning(forgeries: Sequence[str]) -> extension_pb2.TypedExtensionConfig:
    """Take out, before anything reads them, headers that speak for a proxy.

    Many an app cannot tell ``x_y`` from ``x-y``, so the first could pose as the second.  They are matched by their
    beginnings: to remove a header by its name, Envoy first makes a map of all of the request's, which is most of
    what a sidecar costs.
    """
    config = header_mutation_pb2.HeaderMutation()
    for beginning in forgeries:
        config.mutations.add().remove_on_match.key_matcher.prefix = beginning
    return extension_pb2.TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=packed(config)
    )


def _request_ids() -> hcm_pb2.RequestIDExtension:
    # Without packing, an id that the app chose reaches the callee as it is.
    config = uuid_pb2.UuidRequestIdConfig(
        pack_trace_reason=BoolValue(value=False), use_request_id_for_trace_sampling=BoolValue(value=False)
    )
    return hcm_pb2.RequestIDExtension(typed_config=packed(config))
