"""Reading one certificate, with our errors instead of the library's."""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.utils import CryptographyDeprecationWarning

from vestibule.pki.codes import MALFORMED_CERTIFICATE

MAX_CERTIFICATE_BYTES: Final = 64 * 1024

# What `cryptography` raises, by experiment, on bytes that are not what they should be.
PARSE_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # where warnings are errors: things RFC 5280 forbids
)


def load_certificate(der: bytes) -> x509.Certificate:
    """Read one DER certificate and all its extensions.  Raises: VST1005."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise MALFORMED_CERTIFICATE.error(f"the certificate is larger than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # The library parses these lazily; done here, nobody later meets a surprise.
        certificate.extensions  # noqa: B018
        certificate.public_key()
        certificate.subject  # noqa: B018
    except PARSE_ERRORS as error:
        raise MALFORMED_CERTIFICATE.error("the bytes are not an X.509 certificate in DER") from error
    if certificate.serial_number <= 0:  # RFC 5280 section 4.1.2.2
        raise MALFORMED_CERTIFICATE.error("the certificate's serial number is not positive")
    return certificate


def subject_key_id(certificate: x509.Certificate) -> str:
    """The subject key identifier in lower-case hex: what the certificate says, else computed from its key."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        found = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return found.digest.hex()


def signer_of(der: bytes) -> str:
    """The ID of the authority that signed a certificate: its authority key identifier in lower-case hex, or empty.

    Raises: VST1005.
    """
    try:
        found = load_certificate(der).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except x509.ExtensionNotFound:
        return ""
    return found.key_identifier.hex() if found.key_identifier else ""
