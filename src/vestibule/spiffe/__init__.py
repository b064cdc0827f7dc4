"""The nouns of SPIFFE as immutable values: identifiers, selectors, documents."""

from vestibule.spiffe.documents import JwtAuthority, JwtSvid, TrustBundle, X509Svid
from vestibule.spiffe.ids import SpiffeId, TrustDomain
from vestibule.spiffe.selectors import Selector, covers

__all__ = [
    "JwtAuthority",
    "JwtSvid",
    "Selector",
    "SpiffeId",
    "TrustBundle",
    "TrustDomain",
    "X509Svid",
    "covers",
]
