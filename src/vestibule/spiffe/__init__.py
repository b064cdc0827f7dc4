"""The nouns of SPIFFE as immutable values: identifiers, selectors, documents."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
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


def __getattr__(name: str) -> object:
    """Selectors are the server's and the agent's: programs that import the library do without them."""
    if name not in ("Selector", "covers"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vestibule.spiffe import selectors

    found: object = getattr(selectors, name)
    return found
