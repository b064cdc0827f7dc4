"""SVIDs and trust bundles as Envoy secrets (SDS v3)."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_spiffe_validator_config_pb2

from vestibule.envoy.protos import packed, serialized
from vestibule.spiffe import TrustBundle, X509Svid


def certificate_secret(name: str, svid: X509Svid) -> bytes:
    """A ``Secret`` with the SVID's chain and private key."""
    return serialized(
        secret_pb2.Secret(
            name=name,
            tls_certificate=common_pb2.TlsCertificate(
                certificate_chain=_inline(b"".join(_pem("CERTIFICATE", each) for each in svid.chain)),
                private_key=_inline(_pem("PRIVATE KEY", svid.key)),
            ),
        )
    )


def web_secret(name: str, chain: bytes, key: bytes) -> bytes:
    """A ``Secret`` with a chain, leaf first, and its private key, both in PEM."""
    made = common_pb2.TlsCertificate(certificate_chain=_inline(chain), private_key=_inline(key))
    return serialized(secret_pb2.Secret(name=name, tls_certificate=made))


def validation_secret(name: str, bundles: Iterable[TrustBundle]) -> bytes:
    """A ``Secret`` that verifies each peer against the bundle of the peer's own trust domain, and no other.

    The SPIFFE validator picks the bundle by the peer's SPIFFE ID, so no trust domain can vouch for another's
    workloads.  A bundle without authorities is left out: Envoy would refuse the whole secret, and a peer of
    a trust domain that is not listed is refused anyway.
    """
    config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
    for bundle in sorted(bundles, key=lambda each: each.trust_domain):
        if bundle.x509_authorities:
            pem = b"".join(_pem("CERTIFICATE", authority) for authority in bundle.x509_authorities)
            config.trust_domains.add(name=bundle.trust_domain.name, trust_bundle=_inline(pem))
    return serialized(
        secret_pb2.Secret(
            name=name,
            validation_context=common_pb2.CertificateValidationContext(
                custom_validator_config=extension_pb2.TypedExtensionConfig(
                    name="envoy.tls.cert_validator.spiffe", typed_config=packed(config)
                )
            ),
        )
    )


def plain_validation_secret(name: str, bundles: Iterable[TrustBundle]) -> bytes:
    """A ``Secret`` with the authorities of bundles alone, for Envoys that cannot or shall not use the SPIFFE validator.

    It says nothing of names: what a peer may be called is the business of the Envoy's own configuration.  It cannot be
    added here, since Envoy takes matchers of both sides as alternatives, so that ours would widen the operator's.
    """
    pem = b"".join(_pem("CERTIFICATE", each) for bundle in bundles for each in bundle.x509_authorities)
    return serialized(
        secret_pb2.Secret(
            name=name,
            validation_context=common_pb2.CertificateValidationContext(trusted_ca=_inline(pem)),
        )
    )


def _inline(data: bytes) -> base_pb2.DataSource:
    return base_pb2.DataSource(inline_bytes=data)


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode()
