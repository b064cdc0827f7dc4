"""``spire.api.server.bundle.v1.Bundle``: what to trust.  Our own bundle is open to everybody."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from vestibule.doors.identity_api.bundle_values import (
    MASKED,
    bundle_from_wire,
    domain_from_wire,
)
from vestibule.doors.identity_api.values import (
    actor,
    bundle_to_wire,
    jwt_key_from_wire,
    jwt_key_to_wire,
    mask_of,
    ok,
    own_id,
    receive,
    status,
    wit_key_to_wire,
)
from vestibule.errors import VestibuleError
from vestibule.identity.authorities import Authorities
from vestibule.identity.codes import MISSING_PARAMETER
from vestibule.identity.downstream import Downstream
from vestibule.identity.federated_bundles import BundlePatch, FederatedBundles, Kept
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import BundleDeletion
from vestibule.spiffe import TrustDomain
from vestibule.wire.gen.spire import bundle_pb2 as wire
from vestibule.wire.gen.spire import types_pb2 as types

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Bundle"]
_MODES: Final = {
    wire.BatchDeleteFederatedBundleRequest.RESTRICT: BundleDeletion.RESTRICT,
    wire.BatchDeleteFederatedBundleRequest.DELETE: BundleDeletion.DELETE,
    wire.BatchDeleteFederatedBundleRequest.DISSOCIATE: BundleDeletion.DISSOCIATE,
}


class BundleDoor:
    """Translates for ``identity.authorities`` and ``identity.federated_bundles``."""

    def __init__(self, authorities: Authorities, downstream: Downstream, federated: FederatedBundles) -> None:
        self._authorities = authorities
        self._downstream = downstream
        self._federated = federated

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    # ---------------------------------------------------------------------------------- our own

    async def get_bundle(self, stream: Stream) -> None:
        """GetBundle."""
        request = await receive(stream)
        await stream.send_message(bundle_to_wire(self._authorities.bundle(), mask_of(request)))

    async def count_bundles(self, stream: Stream) -> None:
        """CountBundles: the server's own, and the federated ones."""
        await receive(stream)
        await stream.send_message(wire.CountBundlesResponse(count=await self._federated.count()))

    async def append_bundle(self, stream: Stream) -> None:
        """AppendBundle: authorities of elsewhere, into our own bundle."""
        request = await receive(stream)
        bundle = await self._authorities.append(
            [each.asn1 for each in request.x509_authorities],
            [jwt_key_from_wire(each) for each in request.jwt_authorities],
            [jwt_key_from_wire(each) for each in request.wit_authorities],
            actor(),
        )
        await stream.send_message(bundle_to_wire(bundle, mask_of(request)))

    async def publish_jwt_authority(self, stream: Stream) -> None:
        """PublishJWTAuthority: of a server below this one."""
        request = await receive(stream)
        if not request.HasField("jwt_authority"):
            raise MISSING_PARAMETER.error("missing JWT authority")
        keys = await self._downstream.publish_jwt(own_id(), jwt_key_from_wire(request.jwt_authority))
        await stream.send_message(
            wire.PublishJWTAuthorityResponse(jwt_authorities=[jwt_key_to_wire(key) for key in keys])
        )

    async def publish_wit_authority(self, stream: Stream) -> None:
        """PublishWITAuthority: of a server below this one."""
        request = await receive(stream)
        if not request.HasField("wit_authority"):
            raise MISSING_PARAMETER.error("missing WIT authority")
        keys = await self._downstream.publish_wit(own_id(), jwt_key_from_wire(request.wit_authority))
        await stream.send_message(
            wire.PublishWITAuthorityResponse(wit_authorities=[wit_key_to_wire(key) for key in keys])
        )

    # ---------------------------------------------------------------------------------- others'

    async def list_federated_bundles(self, stream: Stream) -> None:
        """ListFederatedBundles."""
        request = await receive(stream)
        page = await self._federated.page(max(request.page_size, 0), request.page_token)
        mask = mask_of(request)
        bundles = [bundle_to_wire(bundle, mask) for bundle in page.items]
        message = wire.ListFederatedBundlesResponse(bundles=bundles, next_page_token=page.next_token)
        await stream.send_message(message)

    async def get_federated_bundle(self, stream: Stream) -> None:
        """GetFederatedBundle; for agents, too."""
        request = await receive(stream)
        bundle = self._federated.get(domain_from_wire(request.trust_domain))
        await stream.send_message(bundle_to_wire(bundle, mask_of(request)))

    async def batch_create_federated_bundle(self, stream: Stream) -> None:
        """BatchCreateFederatedBundle."""
        request = await receive(stream)
        outcomes = await self._federated.create(actor(), [_read(each) for each in request.bundle])
        response = wire.BatchCreateFederatedBundleResponse()
        await stream.send_message(_filled(response, outcomes, mask_of(request)))

    async def batch_set_federated_bundle(self, stream: Stream) -> None:
        """BatchSetFederatedBundle."""
        request = await receive(stream)
        outcomes = await self._federated.set(actor(), [_read(each) for each in request.bundle])
        response = wire.BatchSetFederatedBundleResponse()
        await stream.send_message(_filled(response, outcomes, mask_of(request)))

    async def batch_update_federated_bundle(self, stream: Stream) -> None:
        """BatchUpdateFederatedBundle; without an input mask every field is replaced."""
        request = await receive(stream)
        mask = mask_of(request, "input_mask")
        outcomes = await self._federated.update(actor(), [_patch(each, mask) for each in request.bundle])
        response = wire.BatchUpdateFederatedBundleResponse()
        await stream.send_message(_filled(response, outcomes, mask_of(request)))

    async def batch_delete_federated_bundle(self, stream: Stream) -> None:
        """BatchDeleteFederatedBundle."""
        request = await receive(stream)
        if (mode := _MODES.get(request.mode)) is None:
            raise MISSING_PARAMETER.error(
                f"failed to parse deletion mode: unhandled delete mode {request.mode}"
            )
        domains = [domain_or_error(name) for name in request.trust_domains]
        errors = await self._federated.delete(actor(), domains, mode)
        response = wire.BatchDeleteFederatedBundleResponse()
        for name, error in zip(request.trust_domains, errors, strict=True):
            response.results.add(status=status(error) if error else ok(), trust_domain=name)
        await stream.send_message(response)


def domain_or_error(name: str) -> TrustDomain | VestibuleError:
    """A trust domain of a batch, or what is wrong with it."""
    try:
        return domain_from_wire(name)
    except VestibuleError as error:
        return error


def _read(message: types.Bundle) -> Kept:
    try:
        return bundle_from_wire(message)
    except VestibuleError as error:
        return error


def _patch(
    message: types.Bundle, mask: types.BundleMask | None
) -> tuple[TrustDomain, BundlePatch] | VestibuleError:
    try:
        bundle = bundle_from_wire(message)
    except VestibuleError as error:
        return error
    wanted = {
        field: getattr(bundle, field) for name, field in MASKED.items() if mask is None or getattr(mask, name)
    }
    return bundle.trust_domain, wanted


def _filled(response: Any, outcomes: Iterable[Kept], mask: types.BundleMask | None) -> Any:
    for outcome in outcomes:
        if isinstance(outcome, VestibuleError):
            response.results.add(status=status(outcome))
        else:
            response.results.add(status=ok(), bundle=bundle_to_wire(outcome, mask))
    return response
