"""Requests: what is read is what was asked for, and only with proof of the key."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA3_256, SHA224, SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.errors import VestibuleError
from vestibule.pki.csr import MAX_CSR_BYTES, make_csr, parse_csr
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.spiffe import SpiffeId

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
KEY = generate_key()
GOOD = make_csr(KEY, WEB, ["web.example.org"])


def code_of(der: bytes) -> str:
    with pytest.raises(VestibuleError) as caught:
        parse_csr(der)
    return caught.value.code.code


def request(names: list[x509.GeneralName], key: object = KEY) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, digest).public_bytes(Encoding.DER)  # type: ignore[arg-type]


def test_a_request_says_its_key_and_names() -> None:
    facts = parse_csr(GOOD)
    assert public_key_der(facts.public_key) == public_key_der(KEY.public_key())
    assert facts.spiffe_id == WEB
    assert facts.dns_names == ("web.example.org",)


def test_a_request_may_name_nothing() -> None:
    facts = parse_csr(make_csr(KEY))
    assert facts.spiffe_id is None
    assert facts.dns_names == ()


def test_a_request_signed_by_another_key_is_refused() -> None:
    tampered = GOOD[:-1] + bytes([GOOD[-1] ^ 1])
    assert code_of(tampered) == "VST1001"


def test_a_request_whose_names_were_changed_after_signing_is_refused() -> None:
    assert code_of(GOOD.replace(b"/sa/web", b"/sa/adm")) == "VST1001"


def test_a_request_for_two_identities_is_refused() -> None:
    uris = [x509.UniformResourceIdentifier(f"spiffe://example.org/{name}") for name in "ab"]
    assert code_of(request([*uris])) == "VST1002"


@pytest.mark.parametrize(
    "uri", ["https://example.org/", "spiffe://example.org//a", "", "spiffe://EXAMPLE.org/%61"]
)
def test_a_request_for_a_uri_that_is_no_spiffe_id_is_refused(uri: str) -> None:
    assert code_of(request([x509.UniformResourceIdentifier(uri)])) == "VST1002"


def test_other_kinds_of_names_are_passed_over() -> None:
    assert parse_csr(request([x509.RFC822Name("a@example.org")])).spiffe_id is None


def test_keys_that_may_stand_in_an_svid_are_accepted() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)):
        assert parse_csr(request([], key)).spiffe_id is None


def test_foreign_keys_are_refused() -> None:
    foreign = (
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(3, 2048),
    )
    assert [code_of(request([], key)) for key in foreign] == ["VST1003"] * 4


def test_pem_and_huge_requests_are_malformed() -> None:
    pem = x509.load_der_x509_csr(GOOD).public_bytes(Encoding.PEM)
    assert code_of(pem) == "VST1000"
    assert code_of(b"0" * (MAX_CSR_BYTES + 1)) == "VST1000"


def parse_or_vst10(der: bytes) -> None:
    try:
        parse_csr(der)
    except VestibuleError as error:
        assert error.code.code.startswith("VST10")  # noqa: PT017 - either outcome is fine


@given(st.binary(max_size=600))
def test_any_bytes_are_read_or_refused_with_a_code(der: bytes) -> None:
    parse_or_vst10(der)


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(GOOD)),
)
def test_any_damaged_request_is_read_or_refused_with_a_code(damage: list[tuple[int, int]], cut: int) -> None:
    der = bytearray(GOOD)
    for place, value in damage:
        der[place] = value
    parse_or_vst10(bytes(der))
    parse_or_vst10(bytes(der[:cut]))


@pytest.mark.parametrize("digest", [SHA256(), SHA384(), SHA512()])
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_requests_signed_with_any_strong_digest_prove_their_key(
    curve: ec.EllipticCurve, digest: SHA256 | SHA384 | SHA512
) -> None:
    key = ec.generate_private_key(curve)
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    der = builder.sign(key, digest).public_bytes(Encoding.DER)
    assert public_key_der(parse_csr(der).public_key) == public_key_der(key.public_key())
    assert code_of(der[:-1] + bytes([der[-1] ^ 1])) == "VST1001"


@pytest.mark.parametrize("digest", [SHA224(), SHA3_256()])
def test_requests_signed_with_another_digest_are_refused(digest: SHA224 | SHA3_256) -> None:
    builder = x509.CertificateSigningRequestBuilder(subject_name=x509.Name([]))
    assert code_of(builder.sign(KEY, digest).public_bytes(Encoding.DER)) == "VST1001"


@pytest.mark.parametrize(
    "algorithm",
    [
        "2a8648ce3d040303",  # ecdsa-with-SHA384
        "2a8648ce3d040301",  # ecdsa-with-SHA224
        "2a8648ce380403ff",  # nobody's
    ],
)
def test_a_request_that_names_another_algorithm_than_it_is_signed_with_is_refused(algorithm: str) -> None:
    der = GOOD.replace(bytes.fromhex("2a8648ce3d040302"), bytes.fromhex(algorithm))
    assert der != GOOD
    assert code_of(der) in ("VST1000", "VST1001")


def test_a_request_for_one_kind_of_key_is_not_signed_with_the_algorithm_of_another() -> None:
    der = request([], rsa.generate_private_key(65537, 2048))
    sha256_with_rsa, ecdsa = (
        bytes.fromhex("300d06092a864886f70d01010b0500"),
        bytes.fromhex("300a06082a8648ce3d040302"),
    )
    assert der.count(sha256_with_rsa) == 1
    start = der.index(sha256_with_rsa)
    swapped = der[:start] + ecdsa + der[start + len(sha256_with_rsa) :]
    length = int.from_bytes(der[2:4], "big") - len(sha256_with_rsa) + len(ecdsa)
    assert code_of(der[:2] + length.to_bytes(2, "big") + swapped[4:]) == "VST1001"
