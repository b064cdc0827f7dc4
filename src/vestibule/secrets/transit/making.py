"""Making the secret of a new version."""

from __future__ import annotations

import secrets
from base64 import b64encode
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from vestibule.secrets.transit.keys import KeyVersion
from vestibule.secrets.transit.kinds import KeyKind

MAC_BYTES: Final = 32

_BYTES: Final = {KeyKind.AES128: 16, KeyKind.AES256: 32, KeyKind.CHACHA20: 32}
_CURVES: Final[dict[KeyKind, ec.EllipticCurve]] = {
    KeyKind.P256: ec.SECP256R1(),
    KeyKind.P384: ec.SECP384R1(),
    KeyKind.P521: ec.SECP521R1(),
}
_BITS: Final = {KeyKind.RSA2048: 2048, KeyKind.RSA3072: 3072, KeyKind.RSA4096: 4096}


def new_version(kind: KeyKind, number: int, now: datetime) -> KeyVersion:
    """A fresh version.  RSA keys take up to seconds of a processor: not on the event loop."""
    material, public = _material(kind)
    mac = material if kind is KeyKind.HMAC else secrets.token_bytes(MAC_BYTES)
    return KeyVersion(number=number, created=now, material=material, mac=mac, public=public)


def _material(kind: KeyKind) -> tuple[bytes, str]:
    if kind is KeyKind.ED25519:
        key = Ed25519PrivateKey.generate()
        return key.private_bytes_raw(), b64encode(key.public_key().public_bytes_raw()).decode()
    if kind in _CURVES:
        return _pair(ec.generate_private_key(_CURVES[kind]))
    if kind in _BITS:
        return _pair(rsa.generate_private_key(public_exponent=65537, key_size=_BITS[kind]))
    return secrets.token_bytes(_BYTES.get(kind, MAC_BYTES)), ""


def _pair(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> tuple[bytes, str]:
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private, public.decode()
