"""X509-SVIDs and trust bundles as plain values.  Certificates are DER; nothing here does cryptography."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from vestibule.spiffe.ids import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A certificate with its private key.

    ``chain`` is leaf first and leaves out the trust bundle's own certificates; ``key`` is PKCS #8 DER,
    unencrypted, and never part of the value's ``repr``.  ``serial`` is the leaf's serial number.
    """

    spiffe_id: SpiffeId
    chain: tuple[bytes, ...]
    key: bytes = field(repr=False)
    serial: int
    not_before: datetime
    not_after: datetime
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The certificates that a trust domain's SVIDs chain up to.

    ``sequence`` grows with every change of the content; ``refresh_hint`` is in seconds, 0 for none.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[bytes, ...]
    sequence: int = 0
    refresh_hint: int = 0
