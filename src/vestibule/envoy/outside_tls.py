"""TLS towards hosts outside: who they are is said by a public certificate, who we are is said to nobody."""

from __future__ import annotations

import ipaddress
from typing import Final

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2

from vestibule.envoy.host_secrets import PublicTrust, name_of
from vestibule.envoy.places import sidecar_secrets
from vestibule.envoy.protos import packed

TRANSPORT: Final = "envoy.transport_sockets.tls"


def public_tls(name: str, ca: str | None, *alpn: str) -> base_pb2.TransportSocket:
    """Talk only to whom a certificate for ``name`` was given: by the host's public authorities, or by those in ``ca``.

    The name is checked by Envoy against DNS names (a ``*.`` of a certificate stands for one label) or, where it is an
    address, against addresses.  There is no certificate of ours: outsiders have no business to learn of our identities.
    """
    matcher = common_pb2.SubjectAltNameMatcher(
        san_type=common_pb2.SubjectAltNameMatcher.IP_ADDRESS
        if is_address(name)
        else common_pb2.SubjectAltNameMatcher.DNS
    )
    matcher.matcher.exact = name
    validation = common_pb2.CertificateValidationContext(match_typed_subject_alt_names=[matcher])
    common = tls_pb2.CommonTlsContext(tls_params=_versions(), alpn_protocols=alpn)
    if ca is not None:
        validation.trusted_ca.inline_string = ca
        common.validation_context.CopyFrom(validation)
    else:
        common.combined_validation_context.CopyFrom(
            tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
                default_validation_context=validation,
                validation_context_sds_secret_config=secret_pb2.SdsSecretConfig(
                    name=name_of(PublicTrust()), sds_config=sidecar_secrets()
                ),
            )
        )
    tls = tls_pb2.UpstreamTlsContext(common_tls_context=common)
    if not is_address(name):
        # RFC 6066, section 3: literal addresses are no server names.
        tls.sni = name
    return base_pb2.TransportSocket(name=TRANSPORT, typed_config=packed(tls))


def is_address(name: str) -> bool:
    """Whether a host is given by its IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _versions() -> common_pb2.TlsParameters:
    return common_pb2.TlsParameters(
        tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2,
        # Envoy's own maximum for connections it opens is TLS 1.2.
        tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
    )
