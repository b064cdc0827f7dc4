"""``spire.api.server.trustdomain.v1.TrustDomain``: federation relationships, for the operator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from vestibule.doors.identity_api.bundle import domain_or_error
from vestibule.doors.identity_api.bundle_values import (
    bundle_from_wire,
    domain_from_wire,
    profile_from_wire,
    relationship_to_wire,
)
from vestibule.doors.identity_api.values import actor, mask_of, ok, receive, status
from vestibule.errors import VestibuleError
from vestibule.identity.codes import INVALID_RELATIONSHIP
from vestibule.identity.federated_bundles import FederatedBundles
from vestibule.identity.federation import Federation
from vestibule.identity.relationships import Given, RelationshipPatch, Relationships, Result
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import FederationRelationship
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import trustdomain_pb2 as wire
from vestibule.wire.gen.spire import types_pb2 as types

SERVICE: Final = wire.DESCRIPTOR.services_by_name["TrustDomain"]
# Of our private pool: the well-known module's own Empty is another type to the codec.
Empty: Final = GetMessageClass(SERVICE.methods_by_name["RefreshBundle"].output_type)


class TrustDomainDoor:
    """Translates for ``identity.relationships`` and ``identity.federation``."""

    def __init__(
        self, relationships: Relationships, federation: Federation, bundles: FederatedBundles
    ) -> None:
        self._relationships = relationships
        self._federation = federation
        self._bundles = bundles

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def list_federation_relationships(self, stream: Stream) -> None:
        """ListFederationRelationships."""
        request = await receive(stream)
        page = await self._relationships.page(max(request.page_size, 0), request.page_token)
        mask = mask_of(request)
        found = [self._to_wire(relationship, mask) for relationship in page.items]
        await stream.send_message(
            wire.ListFederationRelationshipsResponse(
                federation_relationships=found, next_page_token=page.next_token
            )
        )

    async def get_federation_relationship(self, stream: Stream) -> None:
        """GetFederationRelationship."""
        request = await receive(stream)
        relationship = await self._relationships.get(domain_from_wire(request.trust_domain))
        await stream.send_message(self._to_wire(relationship, mask_of(request)))

    async def batch_create_federation_relationship(self, stream: Stream) -> None:
        """BatchCreateFederationRelationship; a bundle in it takes the place of one that is kept."""
        request = await receive(stream)
        wanted = [_read(each) for each in request.federation_relationships]
        outcomes = await self._relationships.create(actor(), wanted)
        response = wire.BatchCreateFederationRelationshipResponse()
        await stream.send_message(self._filled(response, outcomes, mask_of(request)))

    async def batch_update_federation_relationship(self, stream: Stream) -> None:
        """BatchUpdateFederationRelationship; without an input mask every field is replaced, except by no bundle."""
        request = await receive(stream)
        mask = mask_of(request, "input_mask")
        patches = [_patch(each, mask) for each in request.federation_relationships]
        outcomes = await self._relationships.update(actor(), patches)
        response = wire.BatchUpdateFederationRelationshipResponse()
        await stream.send_message(self._filled(response, outcomes, mask_of(request)))

    async def batch_delete_federation_relationship(self, stream: Stream) -> None:
        """BatchDeleteFederationRelationship; the bundles stay."""
        request = await receive(stream)
        domains = [domain_or_error(name) for name in request.trust_domains]
        errors = await self._relationships.delete(actor(), domains)
        response = wire.BatchDeleteFederationRelationshipResponse()
        for name, error in zip(request.trust_domains, errors, strict=True):
            response.results.add(status=status(error) if error else ok(), trust_domain=name)
        await stream.send_message(response)

    async def refresh_bundle(self, stream: Stream) -> None:
        """RefreshBundle: answered once the bundle was fetched, or could not be."""
        request = await receive(stream)
        await self._federation.refresh(actor(), domain_from_wire(request.trust_domain))
        await stream.send_message(Empty())

    def _to_wire(
        self, relationship: FederationRelationship, mask: types.FederationRelationshipMask | None
    ) -> types.FederationRelationship:
        return relationship_to_wire(relationship, self._bundles.bundle(relationship.trust_domain), mask)

    def _filled(
        self, response: Any, outcomes: Iterable[Result], mask: types.FederationRelationshipMask | None
    ) -> Any:
        for outcome in outcomes:
            if isinstance(outcome, VestibuleError):
                response.results.add(status=status(outcome))
            else:
                response.results.add(status=ok(), federation_relationship=self._to_wire(outcome, mask))
        return response


def _read(message: types.FederationRelationship) -> Given | VestibuleError:
    try:
        relationship = FederationRelationship(
            trust_domain=domain_from_wire(message.trust_domain),
            bundle_endpoint_url=message.bundle_endpoint_url,
            endpoint_spiffe_id=profile_from_wire(message),
        )
        return Given(relationship=relationship, bundle=_bundle(message, relationship.trust_domain))
    except VestibuleError as error:
        return error


def _bundle(message: types.FederationRelationship, domain: TrustDomain) -> TrustBundle | None:
    if not message.HasField("trust_domain_bundle"):
        return None
    bundle = bundle_from_wire(message.trust_domain_bundle)
    if bundle.trust_domain != domain:
        raise INVALID_RELATIONSHIP.error(
            f"trust domain bundle ({bundle.trust_domain}) must match the trust domain of the federation "
            f"relationship ({domain})"
        )
    return bundle


def _patch(
    message: types.FederationRelationship, mask: types.FederationRelationshipMask | None
) -> RelationshipPatch | VestibuleError:
    try:
        domain = domain_from_wire(message.trust_domain)
        values: dict[str, str | SpiffeId | None] = {}
        if mask is None or mask.bundle_endpoint_url:
            values["bundle_endpoint_url"] = message.bundle_endpoint_url
        if mask is None or mask.bundle_endpoint_profile:
            values["endpoint_spiffe_id"] = profile_from_wire(message)
        bundle = _bundle(message, domain) if mask is None or mask.trust_domain_bundle else None
    except VestibuleError as error:
        return error

    def change(kept: FederationRelationship) -> FederationRelationship:
        changes: Any = values
        return replace(kept, **changes)

    return RelationshipPatch(trust_domain=domain, change=change, bundle=bundle)
