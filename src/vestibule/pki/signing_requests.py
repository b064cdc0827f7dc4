"""Requests for signing certificates, put together from their parts.

``cryptography`` builds a request only where it holds the private key.  A key manager lends its keys for
signatures, but never gives them away; so the few bytes around name and key (RFC 2986, section 4) are written here.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from vestibule.pki.keys import public_key_der
from vestibule.pki.names import alternative_names
from vestibule.pki.profiles import authority_name
from vestibule.spiffe import TrustDomain

_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_BIT_STRING: Final = 0x03
_OCTET_STRING: Final = 0x04
_ATTRIBUTES: Final = 0xA0
_VERSION: Final = bytes.fromhex("020100")
_EXTENSION_REQUEST: Final = bytes.fromhex(
    "06092a864886f70d01090e"
)  # 1.2.840.113549.1.9.14, RFC 2985 section 5.4.2
_ALTERNATIVE_NAMES: Final = bytes.fromhex("0603551d11")  # 2.5.29.17
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")  # 1.2.840.10045.4.3.2


def request_to_sign(public_key: EllipticCurvePublicKey, trust_domain: TrustDomain) -> bytes:
    """What the holder of the key signs (ECDSA with SHA-256) to ask for a signing certificate of the trust domain."""
    extension = _ALTERNATIVE_NAMES + _der(_OCTET_STRING, alternative_names(trust_domain.id).public_bytes())
    extensions = _der(_SEQUENCE, _der(_SEQUENCE, extension))
    attributes = _der(_SEQUENCE, _EXTENSION_REQUEST + _der(_SET, extensions))
    name = authority_name(public_key).public_bytes()
    return _der(_SEQUENCE, _VERSION + name + public_key_der(public_key) + _der(_ATTRIBUTES, attributes))


def signed_request(to_sign: bytes, signature: bytes) -> bytes:
    """The whole request (PKCS #10, DER), from what was signed and its signature (DER)."""
    return _der(_SEQUENCE, to_sign + _ECDSA_SHA256 + _der(_BIT_STRING, b"\x00" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
