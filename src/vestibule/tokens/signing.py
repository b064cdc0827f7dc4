"""One signature and nothing else: what a token costs beside it is what can be saved."""

from __future__ import annotations

from binascii import b2a_base64
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.pki import token_texts
from vestibule.pki.token_texts import ACCESS_TOKEN

TRANSACTION_TOKEN: Final = "txntoken+jwt"  # noqa: S105 - a type

_ECDSA: Final = ECDSA(SHA256())
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")


class Signer:
    """Signs claims with one key.  Headers are always the same, and are made once."""

    def __init__(self, key: EllipticCurvePrivateKey, key_id: str) -> None:
        self.key_id = key_id
        self._key = key
        self._headers = {each: _header(each, key_id) for each in (ACCESS_TOKEN, TRANSACTION_TOKEN)}

    def signed(self, claims: str, typ: str = ACCESS_TOKEN) -> str:
        """The JWT of claims in JSON: ES256, in compact form.  A secret."""
        signing_input = self._headers[typ] + base64url(claims.encode())
        signature = raw_signature(self._key.sign(signing_input, _ECDSA))
        return (signing_input + b"." + base64url(signature)).decode()


def base64url(data: bytes) -> bytes:
    """Without padding, as JOSE has it (RFC 7515, section 2)."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_URL_SAFE)


def raw_signature(der: bytes) -> bytes:
    """The two numbers of an ECDSA signature on P-256, side by side (RFC 7518, section 3.4).

    In DER (a sequence of two integers, below 128 bytes) each has its length before it, and a zero in front or fewer
    bytes where the number is so.
    """
    middle = 4 + der[3]
    r, s = der[4:middle], der[middle + 2 :]
    return r[-32:].rjust(32, b"\0") + s[-32:].rjust(32, b"\0")


def _header(typ: str, key_id: str) -> bytes:
    return base64url(token_texts.header(typ, key_id).encode()) + b"."
