"""Certificates as a scan writes them down, and whether they lead to somebody who is believed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from vestibule.diagnose.scan import Authorities, foreign_identity
from vestibule.diagnose.scan.authorities import host_name_fits
from vestibule.diagnose.scan.certificates import read_certificate
from vestibule.pki.keys import generate_key
from vestibule.testing.authority import TestAuthority

NOW = datetime.now(UTC)
AUTHORITY = TestAuthority()
BUNDLES = Authorities(bundles={AUTHORITY.trust_domain: AUTHORITY.bundle})


def self_signed(names: Sequence[x509.GeneralName], key: object = None) -> bytes:
    """A certificate with these alternative names, valid for a day."""
    private = key or generate_key()
    assert isinstance(private, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) or hasattr(private, "curve")
    name = x509.Name.from_rfc4514_string("CN=self")
    builder = (
        x509.CertificateBuilder(name, name, private.public_key())  # type: ignore[attr-defined]
        .serial_number(7)
        .not_valid_before(NOW - timedelta(hours=1))
        .not_valid_after(NOW + timedelta(hours=23))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(private, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def test_an_svid_has_an_identity_and_is_verified_by_the_bundle_of_its_trust_domain() -> None:
    svid = AUTHORITY.svid("/web", dns_names=["web.internal"])
    leaf = read_certificate(svid.chain[0])
    assert (leaf.spiffe_id, leaf.key, leaf.key_bits, leaf.signature_hash) == (
        "spiffe://example.org/web",
        "EC",
        256,
        "sha256",
    )
    assert (leaf.not_before, leaf.not_after) == (svid.not_before, svid.not_after)
    assert int(leaf.serial, 16) == svid.serial
    trust = BUNDLES.judge(svid.chain, leaf, NOW)
    assert trust.verified
    assert trust.by == "the bundle of example.org"
    assert Authorities(named=(AUTHORITY.certificate,)).judge(svid.chain, leaf, NOW).verified


def test_an_svid_of_another_authority_of_the_same_name_is_not_believed() -> None:
    svid = TestAuthority().svid("/web")
    trust = BUNDLES.judge(svid.chain, read_certificate(svid.chain[0]), NOW)
    assert trust.problem.startswith("VST1007")


def test_a_trust_domain_that_nobody_told_of_is_not_judged() -> None:
    svid = TestAuthority("other.example").svid("/web")
    trust = BUNDLES.judge(svid.chain, read_certificate(svid.chain[0]), NOW)
    assert (trust.by, trust.problem) == ("", "")


def test_that_a_certificate_ended_is_no_problem_of_its_chain() -> None:
    svid = AUTHORITY.svid("/web", ttl=timedelta(minutes=30))
    later = NOW + timedelta(hours=2)
    assert BUNDLES.judge(svid.chain, read_certificate(svid.chain[0]), later).verified


@pytest.mark.parametrize(
    ("uris", "problem"),
    [
        (["spiffe://a.example/x", "spiffe://a.example/y"], "there are 2 URIs where one is allowed"),
        (["https://a.example/x"], "spiffe"),
        (["spiffe://a.example"], "no path"),
        ([], ""),
    ],
)
def test_what_is_no_identity_is_told(uris: list[str], problem: str) -> None:
    leaf = read_certificate(self_signed([uri(each) for each in uris]))
    assert leaf.spiffe_id == ""
    assert problem in leaf.problem
    assert list(leaf.uris) == uris


def test_keys_are_named() -> None:
    short = read_certificate(self_signed([], rsa.generate_private_key(65537, 1024)))
    edwards = read_certificate(self_signed([], ed25519.Ed25519PrivateKey.generate()))
    assert (short.key, short.key_bits) == ("RSA", 1024)
    assert (edwards.key, edwards.signature_hash) == ("Ed25519", "")


def test_what_signed_itself_is_told_to_have() -> None:
    der = self_signed([x509.DNSName("*.web.internal")])
    trust = Authorities(named=(AUTHORITY.certificate,)).judge((der,), read_certificate(der), NOW)
    assert trust.problem == "it is self-signed"
    nameless = self_signed([])
    trust = Authorities(named=(AUTHORITY.certificate,)).judge((nameless,), read_certificate(nameless), NOW)
    assert trust.problem == "the certificate names no host"


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("web.internal", True),
        ("WEB.internal", True),
        ("a.web.internal", True),
        ("a.b.web.internal", False),
        ("x.internal", False),
        ("10.0.0.7", True),
        ("10.0.0.8", False),
    ],
)
def test_hosts_stand_in_certificates_or_not(host: str, fits: bool) -> None:
    from ipaddress import ip_address

    names = [
        x509.DNSName("web.internal"),
        x509.DNSName("*.web.internal"),
        x509.IPAddress(ip_address("10.0.0.7")),
    ]
    assert host_name_fits(host, read_certificate(self_signed(names))) is fits


@given(st.binary(max_size=100))
def test_bytes_that_are_no_certificate_are_told_to_be_none(data: bytes) -> None:
    assert read_certificate(data).problem


def test_a_certificate_with_any_byte_changed_is_read_or_told_to_be_none() -> None:
    der = AUTHORITY.svid("/web").chain[0]
    for place in range(0, len(der), 3):
        changed = der[:place] + bytes([der[place] ^ 0xFF]) + der[place + 1 :]
        leaf = read_certificate(changed)
        BUNDLES.judge((changed,), leaf, NOW)
        assert leaf.subject.isprintable()


def test_nobody_can_know_the_foreign_identity() -> None:
    foreign = foreign_identity(NOW)
    leaf = read_certificate(foreign.chain[0])
    assert leaf.spiffe_id == "spiffe://vestibule-scan.invalid/nobody"
    assert foreign_identity(NOW).chain != foreign.chain
