"""Keystores that other programs open: OpenSSL by ``cryptography``, and Java by its keytool."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

from vestibule.errors import VestibuleError
from vestibule.pki.codes import MALFORMED_KEY
from vestibule.pki.keys import key_to_pkcs8
from vestibule.pki.keystores import jks_keystore, jks_truststore, pkcs12_keystore, pkcs12_truststore
from vestibule.testing import TestAuthority

NOW = datetime(2026, 5, 1, tzinfo=UTC)
PASSWORD = "correct horse"
AUTHORITY = TestAuthority("example.org", intermediates=1)
SVID = AUTHORITY.svid("/orders")
keytool = pytest.mark.skipif(shutil.which("keytool") is None, reason="keytool (a JDK) is not installed")


def opened(data: bytes) -> tuple[bytes, list[bytes]]:
    key, leaf, others = pkcs12.load_key_and_certificates(data, PASSWORD.encode())
    assert isinstance(key, EllipticCurvePrivateKey)
    assert leaf is not None
    return key_to_pkcs8(key), [each.public_bytes(Encoding.DER) for each in (leaf, *others)]


def run(*words: str) -> str:
    done = subprocess.run(
        ["keytool", "-J-Duser.language=en", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pkcs12_keystore_holds_key_and_chain() -> None:
    assert opened(pkcs12_keystore(SVID.key, SVID.chain, PASSWORD)) == (SVID.key, list(SVID.chain))


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(VestibuleError) as raised:
        pkcs12_keystore(b"no key", SVID.chain, PASSWORD)
    assert raised.value.code is MALFORMED_KEY


def test_the_key_does_not_stand_in_a_jks_keystore_as_it_is() -> None:
    assert SVID.key not in jks_keystore(SVID.key, SVID.chain, PASSWORD, NOW)


@keytool
def test_java_takes_the_key_out_of_a_jks_keystore(tmp_path: Path) -> None:
    store, other = tmp_path / "store.jks", tmp_path / "store.p12"
    store.write_bytes(jks_keystore(SVID.key, SVID.chain, PASSWORD, NOW))
    source = ("-srckeystore", str(store), "-srcstorepass", PASSWORD, "-srcstoretype", "JKS")
    target = ("-destkeystore", str(other), "-deststorepass", PASSWORD, "-deststoretype", "PKCS12")
    run("-importkeystore", "-noprompt", *source, *target)
    assert opened(other.read_bytes()) == (SVID.key, list(SVID.chain))


@keytool
def test_java_reads_the_truststores(tmp_path: Path) -> None:
    two = (*AUTHORITY.bundle.x509_authorities, *TestAuthority("other.org").bundle.x509_authorities)
    for name, data in {
        "trust.jks": jks_truststore(two, PASSWORD, NOW),
        "trust.p12": pkcs12_truststore(two, PASSWORD),
    }.items():
        (tmp_path / name).write_bytes(data)
        told = run("-list", "-keystore", str(tmp_path / name), "-storepass", PASSWORD)
        assert told.count("trustedCertEntry") == 2
