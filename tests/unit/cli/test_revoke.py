"""What operators type for a certificate, and what they are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.cli.revoke import certificate_in, serial_of
from vestibule.cli.revoke_report import entry_document, impact_document, show_report
from vestibule.errors import VestibuleError
from vestibule.testing import TestAuthority
from vestibule.wire.gen.vestibule.admin.v1 import revocation_pb2 as wire


@pytest.mark.parametrize(
    ("text", "serial"),
    [
        ("12345", 12345),
        ("0x3039", 12345),
        ("0X3039", 12345),
        ("30:39", 12345),
        ("DE:AD:be:ef", 0xDEADBEEF),
        ("deadbeef", 0xDEADBEEF),
        ("10", 10),
        ("1:0", 16),
    ],
)
def test_serial_numbers_are_read_as_people_have_them(text: str, serial: int) -> None:
    assert serial_of(text) == serial


@pytest.mark.parametrize("text", ["", "leaf.pem", "./deadbeef.pem", "-1", "0x", "f" * 60, "１２", "zz"])
def test_what_is_no_serial_number_is_the_name_of_a_file(text: str) -> None:
    assert serial_of(text) is None


def test_a_certificate_is_read_from_pem_and_der(tmp_path: Path) -> None:
    der = TestAuthority().certificate
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (tmp_path / "a.pem").write_bytes(b"text before\n" + pem)
    (tmp_path / "a.der").write_bytes(der)
    assert certificate_in(tmp_path / "a.pem") == certificate_in(tmp_path / "a.der") == der


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_a_certificate_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(VestibuleError, match="VST9100"):
        certificate_in(tmp_path / "x")


def test_a_file_that_is_not_there_is_said_to_be_neither(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match="neither a serial number or ID nor a file"):
        certificate_in(tmp_path / "nothing")


def test_a_report_says_what_was_done_and_who_listens_when(capsys: pytest.CaptureFixture[str]) -> None:
    impact = wire.Impact(certificates=2, until=1_800_000_000, offline_root="nothing", warnings=["look here"])
    impact.identities.add(spiffe_id="spiffe://example.org/web", certificates=2, until=1_800_000_000)
    impact.agents.add(spiffe_id="spiffe://example.org/spire/agent/one", connected=True)
    impact.clients.add(kind="Envoy [old]", how_soon="never", how="it ignores CRLs")
    entry = wire.RevocationEntry(kind="identity", name="spiffe://example.org/web", at=1, reason="unspecified")
    data = {
        "dry_run": True,
        "version": None,
        "revocations": [entry_document(entry)],
        "impact": impact_document(impact),
    }
    show_report(data)
    told = capsys.readouterr().out
    assert told.startswith("Dry run: nothing was changed.")
    for line in (
        "identity spiffe://example.org/web",
        r"Valid certificates cut off, on record here: 2, the last until 2027-",
        r"spiffe://example.org/spire/agent/one \(connected\)",
        r"Envoy \[old\]: never",
        "Needed of the offline root: nothing",
        "Note: look here",
    ):
        assert re.search(line, told), line
