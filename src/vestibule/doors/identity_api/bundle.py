"""``spire.api.server.bundle.v1.Bundle``: what to trust; open to everybody."""

from __future__ import annotations

from typing import Final

from vestibule.doors.identity_api.values import (
    bundle_to_wire,
    jwt_key_from_wire,
    jwt_key_to_wire,
    mask_of,
    own_id,
    receive,
)
from vestibule.identity.authorities import Authorities
from vestibule.identity.codes import MISSING_PARAMETER
from vestibule.identity.downstream import Downstream
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.spire import bundle_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Bundle"]


class BundleDoor:
    """Translates for ``identity.authorities``."""

    def __init__(self, authorities: Authorities, downstream: Downstream) -> None:
        self._authorities = authorities
        self._downstream = downstream

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get_bundle(self, stream: Stream) -> None:
        """GetBundle."""
        request = await receive(stream)
        await stream.send_message(bundle_to_wire(self._authorities.bundle(), mask_of(request)))

    async def count_bundles(self, stream: Stream) -> None:
        """CountBundles: the server's own."""
        await receive(stream)
        await stream.send_message(wire.CountBundlesResponse(count=1))

    async def publish_jwt_authority(self, stream: Stream) -> None:
        """PublishJWTAuthority: of a server below this one."""
        request = await receive(stream)
        if not request.HasField("jwt_authority"):
            raise MISSING_PARAMETER.error("missing JWT authority")
        keys = await self._downstream.publish_jwt(own_id(), jwt_key_from_wire(request.jwt_authority))
        await stream.send_message(
            wire.PublishJWTAuthorityResponse(jwt_authorities=[jwt_key_to_wire(key) for key in keys])
        )
