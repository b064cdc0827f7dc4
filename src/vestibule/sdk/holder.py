"""What TLS contexts and the book of connections ask of a source."""

from __future__ import annotations

from typing import Protocol

from vestibule.calls.workload_api import X509Context
from vestibule.spiffe import Revocations, TrustBundle, TrustDomain, X509Svid


class Holder(Protocol):
    """What holds the credentials: an ``X509Source``."""

    @property
    def context(self) -> X509Context: ...

    @property
    def svid(self) -> X509Svid: ...

    @property
    def revocations(self) -> Revocations: ...

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle: ...
