"""Certificates keep the X509-SVID profile, X1 to X6."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from vestibule.errors import VestibuleError
from vestibule.pki import profiles
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, 12, 0, 0, 999_999, tzinfo=UTC)
HOUR = timedelta(hours=1)
T = TypeVar("T", bound=x509.ExtensionType)
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority("example.org", now=NOW)


def issue(authority: TestAuthority, dns_names: tuple[str, ...] = (), key: object = None) -> x509.Certificate:
    public = (key or generate_key()).public_key()  # type: ignore[attr-defined]
    (der,) = authority.issue(WEB, public, now=NOW, dns_names=dns_names)
    return x509.load_der_x509_certificate(der)


def ext(certificate: x509.Certificate, kind: type[T]) -> x509.Extension[T]:
    return certificate.extensions.get_extension_for_class(kind)


def test_a_lifetime_starts_sixty_seconds_ago_and_ends_by_the_ttl() -> None:
    valid = profiles.lifetime(NOW, HOUR, NOW + 2 * HOUR)
    assert valid.not_before == NOW.replace(microsecond=0) - timedelta(seconds=60)
    assert valid.not_after == NOW.replace(microsecond=0) + HOUR


def test_a_lifetime_never_passes_the_signers() -> None:
    assert profiles.lifetime(NOW, 3 * HOUR, NOW + HOUR).not_after <= NOW + HOUR


@pytest.mark.parametrize("left", [timedelta(0), -HOUR, timedelta(microseconds=-1)])
def test_a_spent_signer_signs_nothing(left: timedelta) -> None:
    with pytest.raises(VestibuleError, match="VST1004"):
        profiles.lifetime(NOW, HOUR, NOW + left)


@pytest.mark.parametrize("seconds", [0.0, 0.9, -5.0])
def test_a_lifetime_under_a_second_is_refused(seconds: float) -> None:
    with pytest.raises(VestibuleError, match="VST1011"):
        profiles.lifetime(NOW, timedelta(seconds=seconds), NOW + HOUR)


def test_a_leaf_has_exactly_one_uri_its_spiffe_id(authority: TestAuthority) -> None:  # X1, X2
    names = ext(issue(authority, ("Web.Example.org", "api", "web.example.org")), x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(WEB)]
    assert names.value.get_values_for_type(x509.DNSName) == ["web.example.org", "api"]
    assert not names.critical, "the subject is not empty"


def test_a_signers_uri_has_no_path(authority: TestAuthority) -> None:  # X3
    signer = x509.load_der_x509_certificate(authority.certificate)
    names = ext(signer, x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://example.org"]


def test_ca_is_true_on_signers_and_false_on_leaves(authority: TestAuthority) -> None:  # X4
    signer = x509.load_der_x509_certificate(authority.certificate)
    for certificate, ca in ((signer, True), (issue(authority), False)):
        constraints = ext(certificate, x509.BasicConstraints)
        assert (constraints.value.ca, constraints.critical) == (ca, True)


def test_key_usages_are_critical_and_apart(authority: TestAuthority) -> None:  # X5
    leaf = ext(issue(authority), x509.KeyUsage)
    signer = ext(x509.load_der_x509_certificate(authority.certificate), x509.KeyUsage)
    assert leaf.critical
    assert signer.critical
    assert (leaf.value.digital_signature, leaf.value.key_cert_sign, leaf.value.crl_sign) == (
        True,
        False,
        False,
    )
    assert (signer.value.digital_signature, signer.value.key_cert_sign) == (False, True)


def test_a_leaf_is_for_servers_and_clients(authority: TestAuthority) -> None:  # X6
    purposes = set(ext(issue(authority), x509.ExtendedKeyUsage).value)
    assert purposes == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_an_rsa_leaf_may_also_encipher_keys(authority: TestAuthority) -> None:
    usage = ext(issue(authority, key=rsa.generate_private_key(65537, 2048)), x509.KeyUsage).value
    assert usage.key_encipherment


def test_a_leaf_points_at_its_signers_key(authority: TestAuthority) -> None:
    signer = x509.load_der_x509_certificate(authority.certificate)
    pointed = ext(issue(authority), x509.AuthorityKeyIdentifier).value.key_identifier
    assert pointed == ext(signer, x509.SubjectKeyIdentifier).value.digest
    assert profiles.authority_id(authority.key.public_key()) == pointed.hex()


def test_the_common_name_is_the_first_dns_name_or_absent(authority: TestAuthority) -> None:
    def common(names: tuple[str, ...]) -> list[str]:
        subject = issue(authority, names).subject
        return [str(attribute.value) for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]

    assert common(()) == []
    assert common(("a.example", "b.example")) == ["a.example"]
    assert common((f"{'a' * 60}.example.org",)) == [], "longer than a common name may be"


def test_serials_are_random_and_large(authority: TestAuthority) -> None:
    serials = {issue(authority).serial_number for _ in range(20)}
    assert len(serials) == 20
    assert max(serials).bit_length() > 110
    assert min(serials) > 0


@pytest.mark.parametrize(
    "name", ["a b", "", "exämple.org", "-a", "a..b", "a" * 64, "x\n", f"{'a.' * 127}a", "*.*.a"]
)
def test_what_is_not_a_dns_name_is_refused(authority: TestAuthority, name: str) -> None:
    with pytest.raises(VestibuleError, match="VST1011"):
        issue(authority, (name,))


@pytest.mark.parametrize("text", ["spiffe://example.org", "spiffe://evil.org/a"])
def test_an_id_without_a_path_or_of_another_trust_domain_is_not_certified(
    authority: TestAuthority, text: str
) -> None:
    valid = profiles.lifetime(NOW, HOUR)
    with pytest.raises(VestibuleError, match="VST1011"):
        profiles.svid(SpiffeId.parse(text), generate_key().public_key(), valid, authority.issuer)


def test_an_intermediate_signs_leaves_only(authority: TestAuthority) -> None:
    key = generate_key()
    valid = profiles.lifetime(NOW, HOUR, authority.issuer.not_after)
    builder = profiles.intermediate_ca(key.public_key(), valid, authority.issuer)
    certificate = builder.sign(authority.key, SHA256())
    assert ext(certificate, x509.BasicConstraints).value.path_length == 0


def test_two_authorities_of_a_trust_domain_have_different_names() -> None:
    trust_domain = TrustDomain.parse("example.org")
    names = set()
    for _ in range(2):
        key = generate_key()
        builder = profiles.self_signed_ca(trust_domain, key.public_key(), profiles.lifetime(NOW, HOUR))
        names.add(builder.sign(key, SHA256()).subject.rfc4514_string())
    assert len(names) == 2
