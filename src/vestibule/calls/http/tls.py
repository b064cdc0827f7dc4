"""TLS contexts for plain HTTP clients."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(
    ca_file: Path | None = None,
    *,
    verify: bool = True,
    certificate_file: Path | None = None,
    key_file: Path | None = None,
) -> ssl.SSLContext:
    """A context that trusts ``ca_file`` (default: the system's authorities), and may show a certificate.

    Raises: OSError, ssl.SSLError for files that cannot be read.
    """
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate_file is not None:
        context.load_cert_chain(certificate_file, key_file)
    return context
