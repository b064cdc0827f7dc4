"""Secret discovery for the Envoy in front of the server's own services: their SVID, and the trust domain's bundle.

It is served on a private socket, to the one process that the server started, and to no other of the same user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from envoy.service.secret.v3 import sds_pb2

from vestibule.doors.platform.codes import NOT_THE_PLATFORM
from vestibule.doors.xds_serving import serve_delta
from vestibule.envoy.names import BUNDLE_SECRET, SVID_SECRET, WEB_SECRET
from vestibule.envoy.tls_secrets import certificate_secret, validation_secret, web_secret
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import Peer, peer_of
from vestibule.spiffe import TrustBundle, X509Svid
from vestibule.xds.resources import SECRET, Resource, Snapshot

SERVICE: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the Envoy is to have; ``bundle`` is without authorities that are revoked.

    ``web`` is the chain and the key, in PEM, that clients with tokens are shown in the place of the SVID.
    """

    svid: X509Svid
    bundle: TrustBundle
    web: tuple[bytes, bytes] | None = field(default=None, repr=False)

    def secrets(self) -> list[Resource]:
        """As Envoy gets them."""
        found = [
            Resource.of(SECRET, SVID_SECRET, certificate_secret(SVID_SECRET, self.svid)),
            Resource.of(SECRET, BUNDLE_SECRET, validation_secret(BUNDLE_SECRET, [self.bundle])),
        ]
        if self.web is not None:
            found.append(Resource.of(SECRET, WEB_SECRET, web_secret(WEB_SECRET, *self.web)))
        return found


class PlatformSdsDoor:
    """Serves them, and again whenever they change.  ``credentials`` gives those of now, then every newer ones."""

    def __init__(
        self, credentials: Callable[[], AsyncIterator[Credentials]], is_ours: Callable[[Peer], bool]
    ) -> None:
        self._credentials = credentials
        self._is_ours = is_ours

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def delta_secrets(self, stream: Stream) -> None:
        """Incremental.  Raises: VST5200 for any process but the Envoy."""
        if not self._is_ours(peer := peer_of(stream)):
            raise NOT_THE_PLATFORM.error(f"process {peer.pid} is not the platform's Envoy")
        await serve_delta(stream, self._snapshots(), types=(SECRET,), node_required=False)

    async def _snapshots(self) -> AsyncIterator[Snapshot]:
        async for each in self._credentials():
            yield Snapshot.of("platform", each.secrets())
