"""A root's key under a passphrase."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vestibule.errors import VestibuleError
from vestibule.pki.encrypted_keys import MIN_PASSPHRASE, decrypt_key, encrypt_key
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.pem import CERTIFICATE, pem_block, pem_blocks

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def encrypted() -> tuple[bytes, bytes]:
    """The PEM, and the public key: deriving the key costs a second, on purpose."""
    key = generate_key()
    return encrypt_key(key, PASSPHRASE), public_key_der(key.public_key())


def test_the_passphrase_opens_it_and_another_does_not(encrypted: tuple[bytes, bytes]) -> None:
    pem, public = encrypted
    assert public_key_der(decrypt_key(pem, PASSPHRASE).public_key()) == public
    for wrong in ("correct horse battery stable", ""):
        with pytest.raises(VestibuleError, match="VST1033") as refused:
            decrypt_key(pem, wrong)
        assert wrong not in str(refused.value) or not wrong


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_opens_it_without_us(encrypted: tuple[bytes, bytes], tmp_path: Path) -> None:
    pem, public = encrypted
    (tmp_path / "root.key").write_bytes(pem)
    (tmp_path / "pass").write_text(PASSPHRASE)
    command = ["openssl", "pkey", "-in", "root.key", "-passin", "file:pass", "-pubout", "-outform", "DER"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == public


def test_a_short_passphrase_is_refused_before_anything_is_written() -> None:
    with pytest.raises(VestibuleError, match="VST1034"):
        encrypt_key(generate_key(), "x" * (MIN_PASSPHRASE - 1))


def test_pem_blocks_are_found_among_other_text() -> None:
    first, second = pem_block(CERTIFICATE, b"one"), pem_block(CERTIFICATE, bytes(100))
    assert pem_blocks(b"step 1\n" + first + b"more\n" + second, CERTIFICATE) == (b"one", bytes(100))
    assert pem_blocks(first.replace(b"\n", b"\r\n"), CERTIFICATE) == (b"one",)


@pytest.mark.parametrize(
    "data", [b"", b"-----BEGIN CERTIFICATE-----\n", pem_block("X509 CRL", b"x"), b"x" * (1024 * 1024 + 1)]
)
def test_a_file_without_the_block_is_refused(data: bytes) -> None:
    with pytest.raises(VestibuleError, match="VST1032"):
        pem_blocks(data, CERTIFICATE)
