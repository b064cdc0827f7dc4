"""Keys and certificates in one file, for programs that take no PEM: PKCS #12 (RFC 7292), and Java's own JKS.

JKS is what old Java programs insist on.  Its form is published in the source of OpenJDK (``sun.security.provider``:
``JavaKeyStore`` and ``KeyProtector``).  The key is hidden by a stream of SHA-1 alone: what protects it is the mode of
the file, and PKCS #12, which every Java since 8u301 reads, is to be preferred.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Sequence
from datetime import datetime
from typing import Final, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_der_private_key, pkcs12

from vestibule.pki.codes import MALFORMED_KEY
from vestibule.pki.der import octets, sequence

ALIAS: Final = "svid"
"""The name of the key within a keystore."""

_MAGIC: Final = 0xFEEDFEED
_VERSION: Final = 2
_PRIVATE_KEY: Final = 1
_TRUSTED: Final = 2
_SALT_BYTES: Final = 20
# 1.3.6.1.4.1.42.2.17.1.1 (Sun's key protector), and no parameters.
_PROTECTOR: Final = bytes.fromhex("060a2b060104012a021101010500")
_WHITENER: Final = b"Mighty Aphrodite"


def pkcs12_keystore(key: bytes, chain: Sequence[bytes], password: str) -> bytes:
    """Key (PKCS #8 DER) and chain (DER, leaf first) under a password, by PBES2 and AES-256.  Raises: VST1010."""
    leaf, *rest = (x509.load_der_x509_certificate(der) for der in chain)
    protection = BestAvailableEncryption(password.encode())
    return pkcs12.serialize_key_and_certificates(ALIAS.encode(), _loaded(key), leaf, rest, protection)


def pkcs12_truststore(authorities: Sequence[bytes], password: str) -> bytes:
    """Certificates (DER) that Java takes for trusted: with the attribute that its truststores have."""
    entries = [
        pkcs12.PKCS12Certificate(x509.load_der_x509_certificate(der), name.encode())
        for name, der in _named(authorities)
    ]
    return pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(password.encode()))


def jks_keystore(key: bytes, chain: Sequence[bytes], password: str, now: datetime) -> bytes:
    """Key (PKCS #8 DER) and chain (DER, leaf first) in Java's form."""
    hidden = sequence(sequence(_PROTECTOR), octets(_hidden(key, password)))
    certificates = b"".join(_certificate(der) for der in chain)
    entry = _counted(hidden) + struct.pack(">I", len(chain)) + certificates
    return _sealed([_entry(_PRIVATE_KEY, ALIAS, now) + entry], password)


def jks_truststore(authorities: Sequence[bytes], password: str, now: datetime) -> bytes:
    """Certificates (DER) in Java's form, all of them trusted."""
    return _sealed(
        [_entry(_TRUSTED, name, now) + _certificate(der) for name, der in _named(authorities)], password
    )


def _loaded(key: bytes) -> pkcs12.PKCS12PrivateKeyTypes:
    """Of any type: whoever issued it chose it."""
    try:
        return cast("pkcs12.PKCS12PrivateKeyTypes", load_der_private_key(key, password=None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MALFORMED_KEY.error("not an unencrypted PKCS #8 private key") from error


def _named(authorities: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(f"authority-{number}", der) for number, der in enumerate(authorities)]


def _sealed(entries: Sequence[bytes], password: str) -> bytes:
    body = struct.pack(">III", _MAGIC, _VERSION, len(entries)) + b"".join(entries)
    # The form's own choice; it finds accidents and wrong passwords, and keeps nothing secret.
    return body + hashlib.sha1(_utf16(password) + _WHITENER + body).digest()  # noqa: S324


def _entry(kind: int, alias: str, now: datetime) -> bytes:
    return struct.pack(">I", kind) + _text(alias) + struct.pack(">q", int(now.timestamp() * 1000))


def _certificate(der: bytes) -> bytes:
    return _text("X.509") + _counted(der)


def _text(text: str) -> bytes:
    data = text.encode("ascii")
    return struct.pack(">H", len(data)) + data


def _counted(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _hidden(key: bytes, password: str) -> bytes:
    """Salt, the key under a stream of chained digests, and a digest by which a wrong password is noticed."""
    secret, salt = _utf16(password), secrets.token_bytes(_SALT_BYTES)
    stream, block = b"", salt
    while len(stream) < len(key):
        block = hashlib.sha1(secret + block).digest()  # noqa: S324
        stream += block
    covered = bytes(a ^ b for a, b in zip(key, stream, strict=False))
    return salt + covered + hashlib.sha1(secret + key).digest()  # noqa: S324


def _utf16(password: str) -> bytes:
    return password.encode("utf-16-be")
