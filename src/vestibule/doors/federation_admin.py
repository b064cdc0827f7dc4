"""``vestibule.admin.v1.FederationAdmin``: how federation goes, for the operator on the server's private socket."""

from __future__ import annotations

from typing import Final

from vestibule.doors.identity_api.values import receive, unix
from vestibule.identity.federated_bundles import FederatedBundles
from vestibule.identity.federation import Federation
from vestibule.identity.relationships import Relationships
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import FederationRelationship
from vestibule.wire.gen.vestibule.admin.v1 import federation_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["FederationAdmin"]


class FederationAdminDoor:
    """Says how old what is kept is, and why."""

    def __init__(
        self, relationships: Relationships, federation: Federation, bundles: FederatedBundles
    ) -> None:
        self._relationships = relationships
        self._federation = federation
        self._bundles = bundles

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get_federation_status(self, stream: Stream) -> None:
        """GetFederationStatus."""
        await receive(stream)
        page = await self._relationships.page(0, "")
        lines = [self._line(relationship) for relationship in page.items]
        await stream.send_message(wire.FederationStatus(relationships=lines))

    def _line(self, relationship: FederationRelationship) -> wire.RelationshipStatus:
        progress = self._federation.progress(relationship.trust_domain)
        bundle = self._bundles.bundle(relationship.trust_domain)
        line = wire.RelationshipStatus(
            trust_domain=str(relationship.trust_domain),
            fetched_at=unix(progress.fetched_at or relationship.fetched_at),
            attempted_at=unix(progress.attempted_at),
            next_attempt_at=unix(progress.next_at),
            failures=progress.failures,
        )
        if bundle is not None:
            line.has_bundle, line.sequence, line.refresh_hint = True, bundle.sequence, bundle.refresh_hint
        if (problem := progress.problem) is not None:
            line.problem_code, line.problem, line.advice = problem.code.code, problem.message, problem.advice
        return line
