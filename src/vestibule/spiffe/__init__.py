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
from vestibule.spiffe.templates import PathTemplate, Variable

__all__ = [
    "JwtAuthority",
    "JwtSvid",
    "PathTemplate",
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
    "Variable",
    "WitSvid",
    "X509Svid",
    "covers",
]
