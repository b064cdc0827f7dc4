"""Proving, without a valid certificate, that one still has the key of the last one (``presence.proto``).

What is signed names everything that a relay or a replay would have to change: the certificate of the server that
the prover is connected to, the verifier's challenge, the certificate's serial number, and the request for the next.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.keys import certifiable, public_key_der
from vestibule.spiffe import SpiffeId

CHALLENGE_BYTES: Final = 32
_PURPOSE: Final = b"vestibule.node.v1.Presence/Return\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What the holder of a key says when it returns.  ``server_leaf`` is the SHA-256 of the server's certificate."""

    spiffe_id: SpiffeId
    serial: str
    challenge: bytes
    server_leaf: bytes
    csr: bytes

    @property
    def signed(self) -> bytes:
        """The bytes under the signature; no two statements have the same."""
        parts = (
            self.spiffe_id.trust_domain.name.encode(),
            str(self.spiffe_id).encode(),
            self.serial.encode(),
            self.challenge,
            self.server_leaf,
            hashlib.sha256(self.csr).digest(),
        )
        return _PURPOSE + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def sign_statement(statement: Statement, key: EllipticCurvePrivateKey) -> bytes:
    """The signature (ECDSA with SHA-256, DER)."""
    return key.sign(statement.signed, ECDSA(SHA256()))


def holds(statement: Statement, signature: bytes, public_key: bytes) -> bool:
    """Whether the holder of this key (SubjectPublicKeyInfo, DER) signed the statement."""
    try:
        key = certifiable(load_der_public_key(public_key))
    except (ValueError, UnsupportedAlgorithm, VestibuleError):
        return False
    if not isinstance(key, EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, statement.signed, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def key_fingerprint(certificate: bytes) -> str:
    """SHA-256, in lower-case hex, of the public key in a certificate (DER)."""
    return key_sha256(public_key_der(certifiable(load_certificate(certificate).public_key())))


def key_sha256(public_key: bytes) -> str:
    """SHA-256, in lower-case hex, of a SubjectPublicKeyInfo (DER)."""
    return hashlib.sha256(public_key).hexdigest()
