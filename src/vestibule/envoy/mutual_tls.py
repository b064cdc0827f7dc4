"""What holds between sidecars: mutual TLS 1.3 with SVIDs from the agent, for a bounded time."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from vestibule.envoy.names import AUTHORITIES_SECRET, BUNDLE_SECRET, SVID_SECRET
from vestibule.envoy.places import agent_subscription
from vestibule.envoy.protos import packed, seconds
from vestibule.spiffe import SpiffeId

ACCEPTED_AGE: Final = 0.4
"""How long a sidecar keeps a connection that it accepted, in lives of its SVID, before it drains it."""

AGE_JITTER: Final = 25.0
"""Up to this many percent longer, so that not all connections end together; 0.5 lives in all."""

DIALLED_AGE: Final = 0.3
"""How long a sidecar uses a connection that it opened: the side that sends requests should be first to stop."""


def accepting_tls(*alpn: str) -> base_pb2.TransportSocket:
    """Accept only peers with an SVID of a trust domain whose bundle we hold; policy decides about the rest."""
    tls = tls_pb2.DownstreamTlsContext(
        common_tls_context=_common(alpn),
        require_client_certificate=BoolValue(value=True),
        # A resumed session would outlive the certificates it was made with.
        disable_stateless_session_resumption=True,
        disable_stateful_session_resumption=True,
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(tls))


def dialling_tls(callee: SpiffeId, *alpn: str, crl: bytes = b"") -> base_pb2.TransportSocket:
    """Talk only to ``callee``: whoever else answers at its address is refused, whatever certificate it has.

    With ``crl`` (PEM, lists of all authorities that sign for callees) also with a certificate of the callee's that is
    on a list, or that an authority without a list signed.  Envoy's SPIFFE validator ignores such lists, so the default
    one stands in for it: with one callee's exact identity, and the authorities of its trust domain, it asks no less.
    """
    tls = tls_pb2.UpstreamTlsContext(
        common_tls_context=_common(alpn, callee, crl), max_session_keys=UInt32Value(value=0)
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(tls))


def _common(
    alpn: tuple[str, ...], peer: SpiffeId | None = None, crl: bytes = b""
) -> tls_pb2.CommonTlsContext:
    validation = common_pb2.CertificateValidationContext()
    if peer is not None:
        validation.match_typed_subject_alt_names.add(
            san_type=common_pb2.SubjectAltNameMatcher.URI, matcher=string_pb2.StringMatcher(exact=str(peer))
        )
    if crl:
        validation.crl.inline_bytes = crl
        # Of signing certificates nobody here can have lists: those are refused that have none themselves.
        validation.only_verify_leaf_cert_crl = True
    return tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
            # Envoy's own maximum for connections it opens is TLS 1.2.
            tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
        ),
        tls_certificate_sds_secret_configs=[_secret(SVID_SECRET)],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=validation,
            validation_context_sds_secret_config=_secret(AUTHORITIES_SECRET if crl else BUNDLE_SECRET),
        ),
        alpn_protocols=alpn,
    )


def _secret(name: str) -> secret_pb2.SdsSecretConfig:
    source = config_source_pb2.ConfigSource(
        resource_api_version=config_source_pb2.V3,
        # Wait for the agent for as long as it takes: without a certificate there is nothing to serve.
        initial_fetch_timeout=seconds(0),
        api_config_source=config_source_pb2.ApiConfigSource(
            api_type=config_source_pb2.ApiConfigSource.DELTA_GRPC,
            transport_api_version=config_source_pb2.V3,
            set_node_on_first_message_only=True,
            grpc_services=[agent_subscription()],
        ),
    )
    return secret_pb2.SdsSecretConfig(name=name, sds_config=source)


def connection_age(svid_ttl: timedelta, lives: float) -> float:
    """So many lives of an SVID, in seconds."""
    return max(svid_ttl.total_seconds() * lives, 0.1)
