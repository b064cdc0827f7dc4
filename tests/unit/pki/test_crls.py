"""Certificate revocation lists."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.errors import VestibuleError
from vestibule.pki import profiles
from vestibule.pki.crls import MAX_NUMBER, REASONS, RevokedSerial, crl_builder, read_crl
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId, TrustDomain

NOW = datetime(2026, 5, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=7)
TD = TrustDomain.parse("example.org")


def authority() -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    key = generate_key()
    builder = profiles.self_signed_ca(TD, key.public_key(), profiles.lifetime(NOW, timedelta(days=30)))
    return builder.sign(key, SHA256()), key


def crl(
    issuer: tuple[x509.Certificate, EllipticCurvePrivateKey], *revoked: RevokedSerial, number: int = 1
) -> bytes:
    builder = crl_builder(issuer[0], revoked, number=number, now=NOW, next_update=LATER)
    return builder.sign(issuer[1], SHA256()).public_bytes(Encoding.DER)


def test_a_list_says_what_was_put_into_it() -> None:
    issuer = authority()
    first = RevokedSerial(serial=5, at=NOW - timedelta(days=2), reason="superseded")
    second = RevokedSerial(serial=2**127 + 1, at=NOW)
    facts = read_crl(crl(issuer, second, first, number=7), issuer[0])
    assert facts.number == 7
    assert (facts.this_update, facts.next_update) == (NOW, LATER)
    assert facts.revoked == (first, second)
    assert facts.revokes(5)
    assert not facts.revokes(6)


def test_the_list_names_its_signers_key_and_an_unspecified_reason_is_left_out() -> None:
    issuer = authority()
    parsed = x509.load_der_x509_crl(crl(issuer, RevokedSerial(serial=1, at=NOW)))
    identifier = parsed.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == profiles.key_identifier(issuer[1].public_key()).digest
    assert [list(entry.extensions) for entry in parsed] == [[]]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_every_reason_survives_the_list(reason: str) -> None:
    issuer = authority()
    (entry,) = read_crl(crl(issuer, RevokedSerial(serial=1, at=NOW, reason=reason)), issuer[0]).revoked
    assert entry.reason == reason


def test_a_serial_stands_once_with_its_first_date() -> None:
    issuer = authority()
    early = RevokedSerial(serial=1, at=NOW - timedelta(days=1), reason="keyCompromise")
    facts = read_crl(crl(issuer, RevokedSerial(serial=1, at=NOW), early), issuer[0])
    assert facts.revoked == (early,)


@pytest.mark.parametrize("number", [-1, MAX_NUMBER + 1])
def test_a_number_out_of_range_is_refused(number: int) -> None:
    with pytest.raises(VestibuleError, match="VST1017"):
        crl(authority(), number=number)


@pytest.mark.parametrize(
    "entry",
    [
        RevokedSerial(serial=0, at=NOW),
        RevokedSerial(serial=-4, at=NOW),
        RevokedSerial(serial=2**160, at=NOW),
        RevokedSerial(serial=1, at=NOW, reason="certificateHold"),
        RevokedSerial(serial=1, at=NOW, reason="removeFromCRL"),
        RevokedSerial(serial=1, at=NOW, reason="because"),
    ],
)
def test_an_entry_that_rfc_5280_does_not_allow_is_refused(entry: RevokedSerial) -> None:
    with pytest.raises(VestibuleError, match="VST1017"):
        crl(authority(), entry)


def test_a_list_that_ends_as_it_begins_is_refused() -> None:
    issuer, _ = authority()
    with pytest.raises(VestibuleError, match="VST1017"):
        crl_builder(issuer, [], number=1, now=NOW, next_update=NOW + timedelta(milliseconds=1))


def test_a_leaf_signs_no_lists() -> None:
    issuer, key = authority()
    of = profiles.Issuer.of(issuer.public_bytes(Encoding.DER), TD)
    valid = profiles.lifetime(NOW, timedelta(hours=1))
    workload = SpiffeId.parse("spiffe://example.org/web")
    leaf = profiles.svid(workload, key.public_key(), valid, of).sign(key, SHA256())
    with pytest.raises(VestibuleError, match="VST1017"):
        crl_builder(leaf, [], number=1, now=NOW, next_update=LATER)


def test_a_list_of_another_authority_is_not_believed() -> None:
    ours, theirs = authority(), authority()
    with pytest.raises(VestibuleError, match="VST1019"):
        read_crl(crl(theirs), ours[0])
    forged = crl((ours[0], theirs[1]))  # our name, their key
    with pytest.raises(VestibuleError, match="VST1019"):
        read_crl(forged, ours[0])


@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"not a list" * 100])
def test_bytes_that_are_no_list_are_named_so(der: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST1018"):
        read_crl(der, authority()[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_the_list_and_refuses_what_it_revokes(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    key, leaf_key = generate_key(), generate_key()
    root = profiles.self_signed_ca(TD, key.public_key(), profiles.lifetime(now, timedelta(days=3))).sign(
        key, SHA256()
    )
    of = profiles.Issuer.of(root.public_bytes(Encoding.DER), TD)
    leaf = profiles.intermediate_ca(
        leaf_key.public_key(), profiles.lifetime(now, timedelta(days=1)), of
    ).sign(key, SHA256())
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))

    def verdict(*revoked: RevokedSerial) -> str:
        builder = crl_builder(root, revoked, number=1, now=now, next_update=now + timedelta(days=1))
        (tmp_path / "crl.pem").write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
        command = [
            "openssl",
            "verify",
            "-crl_check",
            "-CAfile",
            "root.pem",
            "-CRLfile",
            "crl.pem",
            "leaf.pem",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "leaf.pem: OK" in verdict()
    assert "certificate revoked" in verdict(RevokedSerial(serial=leaf.serial_number, at=now))
