"""What the ASGI scope says about a connection.

The keys are those of the TLS extension of ASGI (asgiref, "TLS Extension").
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from vestibule.sdk.connections import Connection

TLS_1_3: Final = 0x0304
"""Contexts of the SDK speak nothing else."""

_SUITES: Final[Mapping[str, int]] = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
    "TLS_AES_128_CCM_SHA256": 0x1304,
    "TLS_AES_128_CCM_8_SHA256": 0x1305,
}
"""RFC 8446, section B.4."""


def tls_extension(tls: ssl.SSLObject | ssl.SSLSocket, connection: Connection) -> dict[str, Any]:
    """The value of ``scope["extensions"]["tls"]``; certificates are PEM texts, the leaf first."""
    leaf = x509.load_der_x509_certificate(connection.chain[0])
    cipher = tls.cipher()
    return {
        "server_cert": _pem(connection.own_chain[0]),
        "client_cert_chain": [_pem(each) for each in connection.chain],
        "client_cert_name": leaf.subject.rfc4514_string(),
        "client_cert_error": None,
        "tls_version": TLS_1_3,
        "cipher_suite": _SUITES.get(cipher[0]) if cipher else None,
    }


def _pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode("ascii")
