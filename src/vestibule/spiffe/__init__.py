"""The nouns of SPIFFE as immutable values: identifiers, selectors, documents."""

from vestibule.spiffe.documents import JwtAuthority, JwtSvid, TrustBundle, WitSvid, X509Svid
from vestibule.spiffe.ids import SpiffeId, TrustDomain
from vestibule.spiffe.revocations import (
    Reason,
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    RevokedJwtKey,
)
from vestibule.spiffe.selectors import Selector, covers

__all__ = [
    "JwtAuthority",
    "JwtSvid",
    "Reason",
    "Revocation",
    "Revocations",
    "RevokedAgent",
    "RevokedAuthority",
    "RevokedCertificate",
    "RevokedIdentity",
    "RevokedJwtKey",
    "Selector",
    "SpiffeId",
    "TrustBundle",
    "TrustDomain",
    "WitSvid",
    "X509Svid",
    "covers",
]
