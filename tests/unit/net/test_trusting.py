"""Contexts that trust given authorities."""

from __future__ import annotations

import _ssl
import ctypes
import ssl

from vestibule.net.tls import trust
from vestibule.spiffe import TrustDomain
from vestibule.testing import TestAuthority


def test_an_error_that_somebody_else_forgot_does_not_spoil_a_context() -> None:
    authority = TestAuthority(TrustDomain.parse("example.org"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    forget_an_error()
    trust(context, authority.bundle.x509_authorities)
    assert context.cert_store_stats()["x509_ca"] == 1


def forget_an_error() -> None:
    """Leave an error in OpenSSL's queue for this thread, as a library in this process may."""
    library = ctypes.CDLL(_ssl.__file__)  # the very OpenSSL that contexts use: there may be several here
    library.ERR_new()
    library.ERR_set_debug(b"elsewhere.c", 1, b"elsewhere")
    library.ERR_set_error(38, 100, None)
