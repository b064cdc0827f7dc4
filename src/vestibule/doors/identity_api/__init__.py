"""SPIRE's server APIs, with their exact wire form and meaning: one file per service."""

from collections.abc import Sequence

from vestibule.doors.identity_api.agent import AgentDoor
from vestibule.doors.identity_api.bundle import BundleDoor
from vestibule.doors.identity_api.entry import EntryDoor
from vestibule.doors.identity_api.local_authority import LocalAuthorityDoor
from vestibule.doors.identity_api.svid import SvidDoor
from vestibule.doors.identity_api.trust_domain import TrustDomainDoor
from vestibule.doors.limits import Limits
from vestibule.identity.authorities import Authorities
from vestibule.identity.downstream import Downstream
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.federated_bundles import FederatedBundles
from vestibule.identity.federation import Federation
from vestibule.identity.issuance import Issuance
from vestibule.identity.jwt_issuance import JwtIssuance
from vestibule.identity.nodes import Nodes
from vestibule.identity.registration import Registration
from vestibule.identity.relationships import Relationships
from vestibule.identity.wit_issuance import WitIssuance
from vestibule.net.grpc import Servable


def identity_services(
    authorities: Authorities,
    entitlements: Entitlements,
    registration: Registration,
    nodes: Nodes,
    issuance: Issuance,
    jwt_issuance: JwtIssuance,
    wit_issuance: WitIssuance,
    downstream: Downstream,
    bundles: FederatedBundles,
    relationships: Relationships,
    federation: Federation,
    limits: Limits,
) -> Sequence[Servable]:
    """All of them, not yet guarded (``doors.access``)."""
    return (
        AgentDoor(nodes, limits).servable(),
        EntryDoor(registration, entitlements).servable(),
        SvidDoor(issuance, jwt_issuance, downstream, wit_issuance, limits).servable(),
        BundleDoor(authorities, downstream, bundles).servable(),
        LocalAuthorityDoor(authorities).servable(),
        TrustDomainDoor(relationships, federation, bundles).servable(),
    )


__all__ = [
    "AgentDoor",
    "BundleDoor",
    "EntryDoor",
    "LocalAuthorityDoor",
    "SvidDoor",
    "TrustDomainDoor",
    "identity_services",
]
