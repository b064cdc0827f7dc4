"""What is kept of other trust domains that this one federates with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from vestibule.spiffe import SpiffeId, TrustDomain


class EndpointProfile(Enum):
    """How a bundle endpoint proves who it is (SPIFFE_Federation.md, section 5.2)."""

    HTTPS_WEB = "https_web"
    HTTPS_SPIFFE = "https_spiffe"


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationRelationship:
    """Where the bundle of another trust domain is fetched, and how the endpoint is known.

    Trust domain, URL and profile are said by the operator, never inferred from each other (section 5.1).
    ``endpoint_spiffe_id`` is that of the endpoint's server in the profile ``https_spiffe``; ``None`` is the profile
    ``https_web``.  ``fetched_at`` is when the endpoint last gave a bundle that was taken, changed or not.
    """

    trust_domain: TrustDomain
    bundle_endpoint_url: str
    endpoint_spiffe_id: SpiffeId | None = None
    fetched_at: datetime | None = None

    @property
    def profile(self) -> EndpointProfile:
        """The endpoint's profile."""
        return EndpointProfile.HTTPS_WEB if self.endpoint_spiffe_id is None else EndpointProfile.HTTPS_SPIFFE


class BundleDeletion(Enum):
    """What becomes of entries that federate with a trust domain whose bundle is deleted."""

    RESTRICT = "restrict"
    """Nothing: while there are such entries the bundle is not deleted."""
    DISSOCIATE = "dissociate"
    """They stay, and no longer federate with it."""
    DELETE = "delete"
    """They are deleted, too."""
