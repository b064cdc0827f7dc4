"""Which SPIFFE IDs may stand where (SPIRE's rules)."""

from __future__ import annotations

from vestibule.identity.codes import FOREIGN_TRUST_DOMAIN, RESERVED_ID
from vestibule.spiffe import SpiffeId, TrustDomain

AGENT_PREFIX = "/spire/agent/"
PLATFORM_PREFIX = "/vestibule/"
"""What the server's own services are called below it."""


def server_id(trust_domain: TrustDomain) -> SpiffeId:
    """The server's own ID."""
    return SpiffeId.of(trust_domain, "/spire/server")


def secrets_id(trust_domain: TrustDomain) -> SpiffeId:
    """The secret manager's."""
    return SpiffeId.of(trust_domain, f"{PLATFORM_PREFIX}secrets")


def tokens_id(trust_domain: TrustDomain) -> SpiffeId:
    """The token service's."""
    return SpiffeId.of(trust_domain, f"{PLATFORM_PREFIX}tokens")


def member_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> SpiffeId:
    """``spiffe_id`` if it is of the trust domain and has a path.  Raises: VST1204, VST1205."""
    if spiffe_id.trust_domain != trust_domain:
        raise FOREIGN_TRUST_DOMAIN.error(f"{spiffe_id} is not of the trust domain {trust_domain}")
    if not spiffe_id.path:
        raise RESERVED_ID.error(f"{spiffe_id} has no path")
    return spiffe_id


def workload_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> SpiffeId:
    """``spiffe_id`` if it may be a workload's: a member outside of ``/spire/`` and ``/vestibule/``.

    Raises: VST1204, VST1205.
    """
    if member_id(spiffe_id, trust_domain).is_reserved:
        raise RESERVED_ID.error(f"{spiffe_id} lies below /spire/, which is kept for servers and agents")
    if f"{spiffe_id.path}/".startswith(PLATFORM_PREFIX):
        raise RESERVED_ID.error(
            f"{spiffe_id} lies below /vestibule/, which is kept for the server's own services",
            advice="Choose another path.",
        )
    return spiffe_id


def agent_id(spiffe_id: SpiffeId, trust_domain: TrustDomain) -> SpiffeId:
    """``spiffe_id`` if it can be an agent's.  Raises: VST1204, VST1205."""
    if not member_id(spiffe_id, trust_domain).path.startswith(AGENT_PREFIX):
        raise RESERVED_ID.error(
            f"{spiffe_id} is not an agent's ID", advice=f"Agents have IDs below {AGENT_PREFIX}."
        )
    return spiffe_id
