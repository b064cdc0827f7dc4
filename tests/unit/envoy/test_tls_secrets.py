"""SVIDs and bundles as Envoy reads them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2

from vestibule.envoy.tls_secrets import certificate_secret, validation_secret
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def certificate(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(NOW).not_valid_after(NOW + timedelta(hours=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def svid() -> X509Svid:
    key = ec.generate_private_key(ec.SECP256R1())
    pkcs8 = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return X509Svid(
        spiffe_id=SpiffeId.parse("spiffe://example.org/web"),
        chain=(certificate(key), certificate(key)),
        key=pkcs8,
        serial=7,
        not_before=NOW,
        not_after=NOW + timedelta(hours=1),
    )


def bundle(domain: str, *authorities: bytes) -> TrustBundle:
    return TrustBundle(trust_domain=TrustDomain.parse(domain), x509_authorities=authorities)


def validator(secret: bytes) -> tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig:
    config = secret_pb2.Secret.FromString(secret).validation_context.custom_validator_config
    assert config.name == "envoy.tls.cert_validator.spiffe"
    return tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig.FromString(config.typed_config.value)


def test_a_secret_carries_the_whole_chain_and_the_key_as_pem() -> None:
    own = svid()
    secret = secret_pb2.Secret.FromString(certificate_secret("default", own))
    assert secret.name == "default"
    chain = x509.load_pem_x509_certificates(secret.tls_certificate.certificate_chain.inline_bytes)
    assert tuple(each.public_bytes(serialization.Encoding.DER) for each in chain) == own.chain
    key = serialization.load_pem_private_key(secret.tls_certificate.private_key.inline_bytes, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == chain[0].public_key()


def test_the_same_svid_gives_the_same_bytes() -> None:
    own = svid()
    assert certificate_secret("default", own) == certificate_secret("default", own)


def test_each_trust_domain_is_checked_against_its_own_bundle() -> None:
    first, second, third = (certificate(ec.generate_private_key(ec.SECP256R1())) for _ in range(3))
    bundles = [bundle("partner.test", second, third), bundle("example.org", first)]
    config = validator(validation_secret("ROOTCA", bundles))
    found = {
        domain.name: [
            each.public_bytes(serialization.Encoding.DER)
            for each in x509.load_pem_x509_certificates(domain.trust_bundle.inline_bytes)
        ]
        for domain in config.trust_domains
    }
    assert found == {"example.org": [first], "partner.test": [second, third]}
    assert [domain.name for domain in config.trust_domains] == ["example.org", "partner.test"]


def test_a_bundle_without_authorities_is_left_out() -> None:
    authority = certificate(ec.generate_private_key(ec.SECP256R1()))
    config = validator(validation_secret("ROOTCA", [bundle("empty.test"), bundle("example.org", authority)]))
    assert [domain.name for domain in config.trust_domains] == ["example.org"]
