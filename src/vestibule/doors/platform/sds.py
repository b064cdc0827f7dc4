"""Secret discovery for the Envoy in front of the server's own services: their SVIDs, and the trust domain's bundle.

It is served on a private socket, to the one process that the server started, and to no other of the same user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from envoy.service.secret.v3 import sds_pb2

from vestibule.doors.platform.codes import NOT_THE_PLATFORM
from vestibule.doors.xds_serving import serve_delta
from vestibule.envoy import tls_secrets
from vestibule.envoy.names import BUNDLE_SECRET
from vestibule.envoy.platform import svid_secret, web_secret
from vestibule.envoy.tls_secrets import certificate_secret, validation_secret
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import Peer, peer_of
from vestibule.spiffe import TrustBundle, X509Svid
from vestibule.xds.resources import SECRET, Resource, Snapshot

SERVICE: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the Envoy is to have; ``bundle`` is without authorities that are revoked.

    ``svids`` are those of the services by name.  ``webs`` are the chain and the key, in PEM, that clients with tokens
    are shown in the place of a service's SVID.
    """

    svids: Mapping[str, X509Svid]
    bundle: TrustBundle
    webs: Mapping[str, tuple[bytes, bytes]] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def secrets(self) -> list[Resource]:
        """As Envoy gets them."""
        return [
            *map(_svid, self.svids.items()),
            Resource.of(SECRET, BUNDLE_SECRET, validation_secret(BUNDLE_SECRET, [self.bundle])),
            *map(_web, self.webs.items()),
        ]


def _svid(of: tuple[str, X509Svid]) -> Resource:
    name = svid_secret(of[0])
    return Resource.of(SECRET, name, certificate_secret(name, of[1]))


def _web(of: tuple[str, tuple[bytes, bytes]]) -> Resource:
    name = web_secret(of[0])
    return Resource.of(SECRET, name, tls_secrets.web_secret(name, *of[1]))


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
