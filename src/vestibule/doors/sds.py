"""Envoy's secret discovery service, on the agent's public socket.

Names a client may ask for (SPIRE's conventions, so that existing Envoy configurations work):

    default             the caller's first identity           certificate and key
    spiffe://TD/path    one of the caller's identities        certificate and key
    ROOTCA              the own trust domain's bundle         validation context
    spiffe://TD         a trust domain's bundle               validation context
    ALL                 every bundle                          validation context

Validation contexts use Envoy's SPIFFE validator: a peer is held against its own trust domain's bundle only.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Final

from envoy.service.secret.v3 import sds_pb2

from vestibule.agent.workloads import Caller, Identities, Workloads
from vestibule.doors.xds_serving import answer_once, serve_delta, serve_sotw
from vestibule.envoy.tls_secrets import certificate_secret, validation_secret
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import peer_of
from vestibule.xds.resources import SECRET, Resource, Snapshot

SERVICE: Final = sds_pb2.DESCRIPTOR.services_by_name["SecretDiscoveryService"]
DEFAULT: Final = "default"
ROOT: Final = "ROOTCA"
ALL: Final = "ALL"
TYPES: Final = (SECRET,)


class SdsDoor:
    """Serves each caller its own secrets."""

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads

    def servable(self) -> Servable:
        """The service, to be mounted on the public socket."""
        return serve(SERVICE, self)

    async def stream_secrets(self, stream: Stream) -> None:
        """State of the world.  Raises: what ``Workloads.watch`` and ``serve_sotw`` raise."""
        await serve_sotw(stream, self._snapshots(peer_of(stream)), types=TYPES, node_required=False)

    async def delta_secrets(self, stream: Stream) -> None:
        """Incremental.  Raises: what ``Workloads.watch`` and ``serve_delta`` raise."""
        await serve_delta(stream, self._snapshots(peer_of(stream)), types=TYPES, node_required=False)

    async def fetch_secrets(self, stream: Stream) -> None:
        """Once.  Raises: what ``Workloads.fetch`` raises."""
        caller = peer_of(stream)
        request = await stream.recv_message()
        snapshot = secrets_of(await self._workloads.fetch(caller))
        await stream.send_message(answer_once(request, snapshot, types=TYPES))

    async def _snapshots(self, caller: Caller) -> AsyncIterator[Snapshot]:
        async for identities in self._workloads.watch(caller):
            yield secrets_of(identities)


def secrets_of(identities: Identities) -> Snapshot:
    """All secrets of a workload, by every name that they go by."""
    resources = [Resource.of(SECRET, name, body) for name, body in _secrets(identities)]
    versions = "".join(resource.version for resource in resources)
    return Snapshot.of(hashlib.sha256(versions.encode()).hexdigest()[:16], resources)


def _secrets(identities: Identities) -> Iterator[tuple[str, bytes]]:
    yield DEFAULT, certificate_secret(DEFAULT, identities.svids[0])
    seen: set[str] = set()
    for svid in identities.svids:
        # Of several entries with the same identity the first one counts, as in the Workload API.
        if (name := str(svid.spiffe_id)) not in seen:
            seen.add(name)
            yield name, certificate_secret(name, svid)
    for name in (ROOT, str(identities.bundle.trust_domain.id), ALL):
        yield name, validation_secret(name, [identities.bundle])
