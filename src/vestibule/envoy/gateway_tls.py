"""TLS towards clients outside: a certificate from files of the gateway's host, and none asked of them."""

from __future__ import annotations

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2

from vestibule.envoy.host_secrets import CertificateFiles, name_of
from vestibule.envoy.places import sidecar_secrets
from vestibule.envoy.protos import packed
from vestibule.intent.outside import GatewayTls


def serving_tls(tls: GatewayTls) -> base_pb2.TransportSocket:
    """TLS 1.2 or 1.3, for HTTP/2 or HTTP/1.1; files that change are taken up by new connections."""
    secret = secret_pb2.SdsSecretConfig(
        name=name_of(CertificateFiles(certificate=tls.certificate, key=tls.key)), sds_config=sidecar_secrets()
    )
    common = tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(
            tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2,
            tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
        ),
        tls_certificate_sds_secret_configs=[secret],
        alpn_protocols=["h2", "http/1.1"],
    )
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=packed(tls_pb2.DownstreamTlsContext(common_tls_context=common)),
    )
