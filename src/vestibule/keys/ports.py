"""The key-manager port.  A private key never crosses it."""

from __future__ import annotations

from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.x509 import (
    CertificateBuilder,
    CertificateRevocationListBuilder,
    CertificateSigningRequestBuilder,
)


class KeyManager(Protocol):
    """Makes, keeps and uses signing keys.  A key ID is 1 to 128 of ``[A-Za-z0-9._-]``, not starting with a dot."""

    async def generate(self, key_id: str) -> EllipticCurvePublicKey:
        """Make a P-256 key; one that had this ID is replaced.  It is kept for good when this returns.

        Raises: VST1100 (malformed ID), VST1103 (can not be kept).
        """
        ...

    async def public_key(self, key_id: str) -> EllipticCurvePublicKey:
        """The public half.  Raises: VST1101 (no such key), VST1102 (kept, but unreadable)."""
        ...

    async def sign_certificate(self, key_id: str, builder: CertificateBuilder) -> bytes:
        """Sign what a profile built; gives DER.  Raises: VST1101, VST1102."""
        ...

    async def sign_crl(self, key_id: str, builder: CertificateRevocationListBuilder) -> bytes:
        """Sign what ``pki.crls`` built; gives DER.  Raises: VST1101, VST1102."""
        ...

    async def sign_csr(self, key_id: str, builder: CertificateSigningRequestBuilder) -> bytes:
        """Sign what ``pki.csr`` built: a request for this key; gives DER.  Raises: VST1101, VST1102."""
        ...

    async def sign(self, key_id: str, data: bytes) -> bytes:
        """Sign ``data``: ECDSA with SHA-256, in DER.  Raises: VST1101, VST1102."""
        ...

    async def delete(self, key_id: str) -> None:
        """Forget a key; nothing happens if there is none.  Raises: VST1103."""
        ...

    async def key_ids(self) -> frozenset[str]:
        """The IDs of all keys."""
        ...
