"""``spire.api.server.bundle.v1.Bundle``: what to trust; open to everybody."""

from __future__ import annotations

from typing import Final

from vestibule.doors.identity_api.values import bundle_to_wire, mask_of, receive
from vestibule.identity.authorities import Authorities
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.wire.gen.spire import bundle_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Bundle"]


class BundleDoor:
    """Translates for ``identity.authorities``."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities

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
