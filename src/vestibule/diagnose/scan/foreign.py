"""An identity that nobody can know, to see who lets it in."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.spiffe import SpiffeId, X509Svid

NOBODY: Final = SpiffeId.parse("spiffe://vestibule-scan.invalid/nobody")
"""Of a name that can exist nowhere (RFC 2606)."""
_LIFE: Final = timedelta(hours=12)
_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def foreign_identity(now: datetime) -> X509Svid:
    """A certificate that has the form of an SVID and is signed by itself alone."""
    key = generate_key()
    name = x509.Name([])
    serial = x509.random_serial_number()
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(NOBODY))]), critical=True
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_USAGE, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .sign(key, SHA256())
    )
    return X509Svid(
        spiffe_id=NOBODY,
        chain=(certificate.public_bytes(Encoding.DER),),
        key=key_to_pkcs8(key),
        serial=serial,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )
