"""The nouns of SPIFFE as immutable values: identifiers, selectors, documents."""

from vestibule.spiffe.documents import TrustBundle, X509Svid
from vestibule.spiffe.ids import SpiffeId, TrustDomain
from vestibule.spiffe.selectors import Selector, covers

__all__ = ["Selector", "SpiffeId", "TrustBundle", "TrustDomain", "X509Svid", "covers"]
