"""What is kept, as plain values: no behaviour, no storage or wire form."""

from vestibule.records.emergency import BREAK_GLASS, LONGEST_EMERGENCY, Emergency, EmergencyUse
from vestibule.records.federation import BundleDeletion, EndpointProfile, FederationRelationship
from vestibule.records.identity import (
    Administrator,
    AgentRecord,
    AppendedAuthority,
    AppendedKind,
    Authority,
    AuthorityState,
    Entry,
    JoinToken,
    JwtKey,
    PublishedJwtKey,
    UpstreamRoot,
)
from vestibule.records.mesh import (
    Address,
    Boundary,
    CheckView,
    Health,
    Instance,
    Keeper,
    Lease,
    PortView,
    ServiceView,
    UpstreamView,
)
from vestibule.records.revocation import (
    AgentMark,
    Distrust,
    LowerAuthority,
    PublishedCrl,
    identity_digest,
)
from vestibule.records.rollout import IntentOutcome, KeptIntent, RolloutRecord
from vestibule.records.traffic import ProxyTraffic, Requests

__all__ = [
    "BREAK_GLASS",
    "LONGEST_EMERGENCY",
    "Address",
    "Administrator",
    "AgentMark",
    "AgentRecord",
    "AppendedAuthority",
    "AppendedKind",
    "Authority",
    "AuthorityState",
    "Boundary",
    "BundleDeletion",
    "CheckView",
    "Distrust",
    "Emergency",
    "EmergencyUse",
    "EndpointProfile",
    "Entry",
    "FederationRelationship",
    "Health",
    "Instance",
    "IntentOutcome",
    "JoinToken",
    "JwtKey",
    "Keeper",
    "KeptIntent",
    "Lease",
    "LowerAuthority",
    "PortView",
    "ProxyTraffic",
    "PublishedCrl",
    "PublishedJwtKey",
    "Requests",
    "RolloutRecord",
    "ServiceView",
    "UpstreamRoot",
    "UpstreamView",
    "identity_digest",
]
