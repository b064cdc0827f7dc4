"""Chains: only what leads to an authority of its own trust domain, now, by the rules."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki import profiles
from vestibule.pki.chains import MAX_CHAIN, leaf_facts, verify_x509_svid
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
AUTHORITY = TestAuthority("example.org", now=NOW)
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
SVID = AUTHORITY.svid(WEB, now=NOW)


def code_of(chain: tuple[bytes, ...], bundle: TrustBundle = AUTHORITY.bundle, now: datetime = NOW) -> str:
    with pytest.raises(VestibuleError) as caught:
        verify_x509_svid(chain, bundle, now)
    return caught.value.code.code


class Forger:
    """Makes certificates that break the profile, signed by a real authority."""

    def __init__(self, authority: TestAuthority) -> None:
        self.authority = authority
        self.key = generate_key()

    def leaf(
        self, *replaced: x509.ExtensionType, without: type | None = None, critical: bool = True
    ) -> bytes:
        valid = profiles.lifetime(NOW, HOUR)
        template = profiles.svid(WEB, self.key.public_key(), valid, self.authority.issuer)
        return self._forged(template, replaced, without, critical)

    def intermediate(self, *replaced: x509.ExtensionType, without: type | None = None) -> bytes:
        valid = profiles.lifetime(NOW, HOUR)
        template = profiles.intermediate_ca(self.key.public_key(), valid, self.authority.issuer)
        return self._forged(template, replaced, without, critical=True)

    def _forged(
        self,
        template: x509.CertificateBuilder,
        replaced: Sequence[x509.ExtensionType],
        without: type | None,
        critical: bool,
    ) -> bytes:
        kinds = {type(extension): extension for extension in replaced}
        builder = x509.CertificateBuilder(
            template._issuer_name,
            template._subject_name,
            template._public_key,
            template._serial_number,
            template._not_valid_before,
            template._not_valid_after,
        )
        for extension in template._extensions:
            value = kinds.pop(type(extension.value), extension.value)
            if without is None or not isinstance(value, without):
                builder = builder.add_extension(value, extension.critical and critical)
        for extra in kinds.values():
            builder = builder.add_extension(extra, critical)
        return builder.sign(self.authority.key, SHA256()).public_bytes(Encoding.DER)


USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def names(*uris: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])


FORGER = Forger(AUTHORITY)


def intermediate(
    key: EllipticCurvePrivateKey, signer: TestAuthority = AUTHORITY, ttl: timedelta = HOUR
) -> tuple[bytes, profiles.Issuer]:
    valid = profiles.lifetime(NOW, ttl, signer.issuer.not_after)
    builder = profiles.intermediate_ca(key.public_key(), valid, signer.issuer)
    der = builder.sign(signer.key, SHA256()).public_bytes(Encoding.DER)
    return der, profiles.Issuer.of(der, signer.trust_domain)


def leaf_under(key: EllipticCurvePrivateKey, issuer: profiles.Issuer) -> bytes:
    builder = profiles.svid(WEB, generate_key().public_key(), profiles.lifetime(NOW, HOUR), issuer)
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


def test_a_leaf_under_the_bundles_authority_proves_its_id() -> None:
    assert verify_x509_svid(SVID.chain, AUTHORITY.bundle, NOW) == WEB


def test_one_authority_of_several_is_enough() -> None:
    other = TestAuthority("example.org", now=NOW)
    both = TrustBundle(
        trust_domain=AUTHORITY.trust_domain, x509_authorities=(other.certificate, AUTHORITY.certificate)
    )
    assert verify_x509_svid(SVID.chain, both, NOW) == WEB


def test_the_facts_of_a_leaf_are_read() -> None:
    facts = leaf_facts(SVID.chain[0])
    assert facts.spiffe_id == WEB
    assert int(facts.serial) == SVID.serial
    assert facts.not_before < NOW < facts.not_after


def test_an_authority_of_the_same_name_and_another_key_is_not_trusted() -> None:
    assert code_of(SVID.chain, TestAuthority("example.org", now=NOW).bundle) == "VST1007"


def test_another_trust_domains_authority_can_not_mint_our_ids() -> None:
    evil = TestAuthority("evil.org", now=NOW)
    (leaf,) = evil.svid(WEB, now=NOW).chain
    assert code_of((leaf,)) == "VST1007"
    assert code_of((leaf,), evil.bundle) == "VST1008", "even where that authority is trusted for its own"


def test_an_empty_bundle_trusts_nobody() -> None:
    nobody = TrustBundle(trust_domain=AUTHORITY.trust_domain, x509_authorities=())
    assert code_of(SVID.chain, nobody) == "VST1007"


def test_a_leaf_in_the_bundle_is_not_an_anchor() -> None:
    confused = TrustBundle(trust_domain=AUTHORITY.trust_domain, x509_authorities=SVID.chain)
    assert code_of(SVID.chain, confused) == "VST1007"


@pytest.mark.parametrize("offset", [-2 * HOUR, 2 * HOUR])
def test_a_leaf_is_valid_only_in_its_time(offset: timedelta) -> None:
    assert code_of(SVID.chain, now=NOW + offset) == "VST1007"


def test_a_leaf_under_an_expired_authority_is_not_trusted() -> None:
    authority = TestAuthority("example.org", now=NOW, ttl=timedelta(seconds=10))
    key = generate_key()
    builder = profiles.svid(WEB, key.public_key(), profiles.lifetime(NOW, HOUR), authority.issuer)
    leaf = builder.sign(authority.key, SHA256()).public_bytes(Encoding.DER)
    assert verify_x509_svid((leaf,), authority.bundle, NOW) == WEB
    assert code_of((leaf,), authority.bundle, NOW + timedelta(seconds=11)) == "VST1007"


def test_a_leaf_under_an_intermediate_is_trusted_only_with_it() -> None:
    key = generate_key()
    middle, issuer = intermediate(key)
    leaf = leaf_under(key, issuer)
    assert verify_x509_svid((leaf, middle), AUTHORITY.bundle, NOW) == WEB
    assert verify_x509_svid((leaf, middle, AUTHORITY.certificate), AUTHORITY.bundle, NOW) == WEB
    assert code_of((leaf,)) == "VST1007"


def test_an_expired_intermediate_breaks_the_path() -> None:
    key = generate_key()
    middle, issuer = intermediate(key, ttl=timedelta(seconds=5))
    assert code_of((leaf_under(key, issuer), middle), now=NOW + timedelta(seconds=6)) == "VST1007"


def test_a_leaf_can_not_sign_another_leaf() -> None:
    holder = FORGER.leaf()
    issuer = profiles.Issuer.of(holder, AUTHORITY.trust_domain)
    assert code_of((leaf_under(FORGER.key, issuer), holder)) == "VST1006"


def test_an_intermediate_can_not_make_further_ones() -> None:
    first_key, second_key = generate_key(), generate_key()
    first, issuer = intermediate(first_key)
    valid = profiles.lifetime(NOW, HOUR)
    second = profiles.intermediate_ca(second_key.public_key(), valid, issuer).sign(first_key, SHA256())
    second_der = second.public_bytes(Encoding.DER)
    leaf = leaf_under(second_key, profiles.Issuer.of(second_der, AUTHORITY.trust_domain))
    assert code_of((leaf, second_der, first)) == "VST1007"


@pytest.mark.parametrize(
    "leaf",
    [
        FORGER.leaf(x509.BasicConstraints(ca=True, path_length=None)),
        FORGER.leaf(usage("digital_signature", "key_cert_sign")),
        FORGER.leaf(usage("digital_signature", "crl_sign")),
        FORGER.leaf(usage("key_agreement")),
        FORGER.leaf(without=x509.KeyUsage),
        FORGER.leaf(critical=False),
        FORGER.leaf(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
        FORGER.leaf(names(str(WEB), "spiffe://example.org/other")),
        FORGER.leaf(names("spiffe://example.org")),
        FORGER.leaf(names("https://example.org/web")),
        FORGER.leaf(names()),
        FORGER.leaf(without=x509.SubjectAlternativeName),
    ],
    ids=[
        "a CA",
        "may sign certificates",
        "may sign CRLs",
        "may not sign handshakes",
        "no key usage",
        "key usage not critical",
        "servers only",
        "two IDs",
        "no path",
        "not a SPIFFE ID",
        "no names",
        "no SAN",
    ],
)
def test_a_leaf_that_breaks_the_profile_is_no_svid(leaf: bytes) -> None:
    assert code_of((leaf,)) == "VST1006"
    with pytest.raises(VestibuleError, match="VST1006"):
        leaf_facts(leaf)


def test_a_leaf_without_extended_key_usage_is_an_svid() -> None:
    assert verify_x509_svid((FORGER.leaf(without=x509.ExtendedKeyUsage),), AUTHORITY.bundle, NOW) == WEB


def test_an_unknown_critical_extension_is_not_passed_over() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert code_of((FORGER.leaf(unknown),)) == "VST1007"


def test_an_intermediate_with_an_unusual_key_is_refused_before_its_key_is_used() -> None:
    key = rsa.generate_private_key(3, 2048)
    valid = profiles.lifetime(NOW, HOUR)
    middle = profiles.intermediate_ca(key.public_key(), valid, AUTHORITY.issuer).sign(AUTHORITY.key, SHA256())
    assert code_of((SVID.chain[0], middle.public_bytes(Encoding.DER))) == "VST1003"


def test_an_intermediate_for_another_trust_domain_is_refused() -> None:
    key = generate_key()
    valid = profiles.lifetime(NOW, HOUR)
    foreign = profiles.Issuer(
        name=AUTHORITY.issuer.name,
        key_identifier=AUTHORITY.issuer.key_identifier,
        trust_domain=TrustDomain.parse("evil.org"),
        not_after=AUTHORITY.issuer.not_after,
    )
    der = profiles.intermediate_ca(key.public_key(), valid, foreign).sign(AUTHORITY.key, SHA256())
    middle = der.public_bytes(Encoding.DER)
    leaf = leaf_under(key, profiles.Issuer.of(middle, AUTHORITY.trust_domain))
    assert code_of((leaf, middle)) == "VST1006"


def code_under(middle: bytes) -> str:
    """Why a good leaf below this intermediate, itself signed by a good authority, is not believed."""
    issuer = profiles.Issuer.of(FORGER.intermediate(), AUTHORITY.trust_domain)
    leaf = leaf_under(FORGER.key, issuer)
    assert verify_x509_svid((leaf, FORGER.intermediate()), AUTHORITY.bundle, NOW) == WEB
    return code_of((leaf, middle))


@pytest.mark.parametrize("uris", [("spiffe://example.org/ca",), ("spiffe://example.org", "spiffe://a.org")])
def test_x3_a_signer_with_a_path_or_two_ids_is_refused(uris: tuple[str, ...]) -> None:
    assert code_under(FORGER.intermediate(names(*uris))) == "VST1006"


def test_x3_a_signer_need_not_have_an_id() -> None:
    issuer = profiles.Issuer.of(FORGER.intermediate(), AUTHORITY.trust_domain)
    nameless = FORGER.intermediate(without=x509.SubjectAlternativeName)
    assert verify_x509_svid((leaf_under(FORGER.key, issuer), nameless), AUTHORITY.bundle, NOW) == WEB


@pytest.mark.parametrize(
    "middle",
    [
        FORGER.intermediate(x509.BasicConstraints(ca=False, path_length=None)),
        FORGER.intermediate(without=x509.BasicConstraints),
        FORGER.intermediate(usage("digital_signature", "crl_sign")),
        FORGER.intermediate(without=x509.KeyUsage),
    ],
    ids=["not a CA", "no basic constraints", "may not sign certificates", "no key usage"],
)
def test_x4_x5_who_may_not_sign_certificates_is_no_signer(middle: bytes) -> None:
    assert code_under(middle) == "VST1006"


def test_no_chain_and_an_endless_chain_are_refused() -> None:
    assert code_of(()) == "VST1007"
    assert code_of(SVID.chain * (MAX_CHAIN + 1)) == "VST1007"


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(SVID.chain[0]) - 1), st.integers(1, 255)), min_size=1, max_size=4)
)
def test_a_damaged_leaf_never_verifies_and_always_has_a_code(damage: list[tuple[int, int]]) -> None:
    der = bytearray(SVID.chain[0])
    for place, change in damage:
        der[place] ^= change
    if bytes(der) != SVID.chain[0]:
        assert code_of((bytes(der),)).startswith("VST10")


@given(st.binary(max_size=300))
def test_any_bytes_as_a_leaf_are_refused_with_a_code(der: bytes) -> None:
    assert code_of((der,)).startswith("VST10")
