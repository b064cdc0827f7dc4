"""The bytes of SVIDs: what is put together by hand is what the library's builder makes of the profile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki import profiles
from vestibule.pki.keys import PublicKey, certifiable, generate_key
from vestibule.pki.leaves import unsigned_svid
from vestibule.pki.profiles import Issuer, Lifetime
from vestibule.spiffe import SpiffeId, TrustDomain

TD: Final = TrustDomain.parse("example.org")
WEB: Final = SpiffeId.parse("spiffe://example.org/web")
NOW: Final = datetime(2026, 5, 1, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
VALID: Final = Lifetime(not_before=NOW, not_after=NOW + HOUR)
CA: Final = generate_key()
ECDSA: Final = ec.ECDSA(SHA256())


def compressed(key: ec.EllipticCurvePrivateKey) -> PublicKey:
    """The public half as it comes from somebody who writes points in their short form."""
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    algorithm = der[2 : 4 + der[3]]
    bits = b"\x03" + bytes((len(point) + 1,)) + b"\0" + point
    return certifiable(load_der_public_key(b"\x30" + bytes((len(algorithm + bits),)) + algorithm + bits))


KEYS: Final[dict[str, PublicKey]] = {
    "P-256": generate_key().public_key(),
    "P-256, compressed": compressed(generate_key()),
    "P-384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "P-384, compressed": compressed(ec.generate_private_key(ec.SECP384R1())),
    "RSA 2048": rsa.generate_private_key(65537, 2048).public_key(),
    "RSA 3072": rsa.generate_private_key(65537, 3072).public_key(),
}


def issuer_named(name: x509.Name) -> Issuer:
    key_identifier = profiles.key_identifier(CA.public_key()).digest
    return Issuer(
        name=name, key_identifier=key_identifier, trust_domain=TD, not_after=datetime(9999, 1, 1, tzinfo=UTC)
    )


OURS: Final = issuer_named(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Vestibule")]))

labels = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", fullmatch=True)
dns_names = st.builds(
    lambda star, parts: (star + ".".join(parts))[:253].rstrip(".-"),
    st.sampled_from(["", "*."]),
    st.lists(labels, min_size=1, max_size=5),
)
paths = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True), min_size=1, max_size=40).map("/".join)
instants = st.integers(-630_000_000, 253_370_000_000).map(
    lambda each: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=each)
)
attributes = st.builds(
    lambda oid, text, kind: x509.NameAttribute(oid, text, kind),
    st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME]),
    st.text(
        st.characters(min_codepoint=32, max_codepoint=126, categories=["Lu", "Ll", "Nd"]),
        min_size=1,
        max_size=64,
    ),
    st.sampled_from([_ASN1Type.UTF8String, _ASN1Type.PrintableString]),
)
issuers = st.lists(attributes, max_size=4).map(lambda found: issuer_named(x509.Name(found)))


@settings(max_examples=300, deadline=None)
@given(
    path=paths,
    key=st.sampled_from(sorted(KEYS)),
    ends=st.tuples(instants, instants),
    issuer=issuers,
    names=st.lists(dns_names, max_size=6),
    serial=st.integers(min_value=1, max_value=2**159 - 1),
)
@example(path="a", key="P-256", ends=(NOW, NOW + HOUR), issuer=OURS, names=[], serial=1)
@example(path="a", key="P-256", ends=(NOW, NOW + HOUR), issuer=OURS, names=[], serial=127)
@example(path="a", key="P-256", ends=(NOW, NOW + HOUR), issuer=OURS, names=[], serial=128)
@example(path="a", key="P-256", ends=(NOW, NOW + HOUR), issuer=OURS, names=["a" * 63 + ".b"], serial=1)
@example(path="a", key="P-256", ends=(NOW, NOW + HOUR), issuer=OURS, names=["a" * 63 + ".b" * 90], serial=1)
@example(path="a", key="P-256", ends=(NOW, NOW + HOUR), issuer=OURS, names=["B.a", "b.A"], serial=2**159 - 1)
@example(
    path="a",
    key="P-256",
    ends=(datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC)),
    issuer=OURS,
    names=[],
    serial=1,
)
@example(path="a", key="P-256", ends=(NOW, NOW), issuer=OURS, names=[], serial=2**158)
def test_an_svid_is_byte_by_byte_what_the_library_builds(
    path: str,
    key: str,
    ends: tuple[datetime, datetime],
    issuer: Issuer,
    names: list[str],
    serial: int,
) -> None:
    spiffe_id = SpiffeId.of(TD, f"/{path}"[:2000])
    valid = Lifetime(not_before=min(ends), not_after=max(ends))
    mine = unsigned_svid(spiffe_id, KEYS[key], valid, issuer, names, serial=serial)
    theirs = profiles.svid(spiffe_id, KEYS[key], valid, issuer, names, serial=serial).sign(CA, SHA256())
    assert mine.signing_input == theirs.tbs_certificate_bytes
    assert mine.signed(theirs.signature) == theirs.public_bytes(Encoding.DER)


def test_a_signed_one_verifies_under_the_issuers_key() -> None:
    authority = profiles.self_signed_ca(TD, CA.public_key(), VALID).sign(CA, SHA256())
    issuer = Issuer.of(authority.public_bytes(Encoding.DER), TD)
    unsigned = unsigned_svid(WEB, KEYS["P-256"], VALID, issuer)
    leaf = x509.load_der_x509_certificate(unsigned.signed(CA.sign(unsigned.signing_input, ECDSA)))
    leaf.verify_directly_issued_by(authority)


def test_every_svid_has_a_serial_number_of_its_own() -> None:
    signature = CA.sign(b"", ECDSA)
    made = [unsigned_svid(WEB, KEYS["P-256"], VALID, OURS).signed(signature) for _ in range(50)]
    assert len({x509.load_der_x509_certificate(each).serial_number for each in made}) == 50


def test_instants_of_other_time_zones_are_told_in_utc() -> None:
    abroad = timezone(timedelta(hours=5, minutes=30))
    valid = Lifetime(
        not_before=VALID.not_before.astimezone(abroad), not_after=VALID.not_after.astimezone(abroad)
    )
    there = unsigned_svid(WEB, KEYS["P-256"], valid, OURS, serial=1)
    assert there == unsigned_svid(WEB, KEYS["P-256"], VALID, OURS, serial=1)


@pytest.mark.parametrize("text", ["spiffe://example.org", "spiffe://elsewhere.org/web"])
def test_ids_that_no_workload_of_the_trust_domain_has_are_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="VST1011"):
        unsigned_svid(SpiffeId.parse(text), KEYS["P-256"], VALID, OURS)


@pytest.mark.parametrize("serial", [-1, 2**159, 2**200])
def test_serial_numbers_that_no_certificate_can_have_are_refused(serial: int) -> None:
    with pytest.raises(VestibuleError, match="VST1011"):
        unsigned_svid(WEB, KEYS["P-256"], VALID, OURS, serial=serial)


@pytest.mark.parametrize(
    "valid",
    [
        replace(VALID, not_after=NOW - HOUR),
        replace(VALID, not_before=datetime(1949, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_lifetimes_that_no_certificate_can_have_are_refused(valid: Lifetime) -> None:
    with pytest.raises(VestibuleError, match="VST1011"):
        unsigned_svid(WEB, KEYS["P-256"], valid, OURS)


@pytest.mark.parametrize("name", ["", "a b", "-a", "a..b", "a" * 64, "ä.example.org"])
def test_texts_that_are_no_dns_names_are_refused(name: str) -> None:
    with pytest.raises(VestibuleError, match="VST1011"):
        unsigned_svid(WEB, KEYS["P-256"], VALID, OURS, ["web.example.org", name])
