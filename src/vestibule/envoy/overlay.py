"""A configuration that was kept through an outage, with all that is known to be revoked by now.

What is revoked and what a proxy has come by different ways and are kept in different files, so that one may be older.
An overlay only takes away: what the kept configuration refuses stays refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy import clusters, revoked
from vestibule.envoy.revoked import NOBODY, Refused
from vestibule.spiffe import Revocations, RevokedIdentity, SpiffeId
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, Resource, Snapshot

_OVERLAID: Final = "kept+"
"""How the versions begin that no server gives, so that it sends its own again."""


def overlaid(kept: Snapshot, revocations: Revocations) -> Snapshot:
    """The snapshot as it is to be served now: revoked callers are refused, callees that are revoked are not called."""
    refused = Refused.of(revocations.entries)
    if refused == NOBODY:
        return kept
    return kept.with_resources(*_slots(kept, refused), *_nowhere(kept, revocations))


def _slots(kept: Snapshot, refused: Refused) -> Iterator[Resource]:
    for name, is_http in ((revoked.HTTP, True), (revoked.TCP, False)):
        before, wanted = kept.of_type(EXTENSION).get(name), revoked.slots(refused)[is_http]
        version = f"{_OVERLAID}{wanted.version}"
        if before is None or before.version in (wanted.version, version):
            continue
        found = _matcher(before, is_http=is_http)
        if found is None:
            yield wanted
            continue
        body = revoked.slot_before(refused, found, is_http=is_http)
        yield Resource(EXTENSION, name, body.body, version)


def _matcher(slot: Resource, *, is_http: bool) -> Matcher | None:
    """What a slot asks; None if nothing."""
    config = extension_pb2.TypedExtensionConfig.FromString(slot.body).typed_config
    rbac = http_rbac_pb2.RBAC() if is_http else network_rbac_pb2.RBAC()
    if not config.Unpack(rbac) or not rbac.HasField("matcher"):
        return None
    return rbac.matcher


def _nowhere(kept: Snapshot, revocations: Revocations) -> Iterator[Resource]:
    """No endpoints for callees whose identity is revoked for good."""
    for name, cluster in kept.of_type(CLUSTER).items():
        if name in kept.of_type(ENDPOINTS) and any(_is_out(each, revocations) for each in _callees(cluster)):
            body = clusters.endpoints(name, ()).body
            yield Resource(ENDPOINTS, name, body, f"{_OVERLAID}{cluster.version}")


def _callees(cluster: Resource) -> Iterator[SpiffeId]:
    socket = cluster_pb2.Cluster.FromString(cluster.body).transport_socket.typed_config
    tls = tls_pb2.UpstreamTlsContext()
    if not socket.Unpack(tls):
        return
    validation = tls.common_tls_context.combined_validation_context.default_validation_context
    for each in validation.match_typed_subject_alt_names:
        if each.matcher.exact.startswith("spiffe://"):
            yield SpiffeId.parse(each.matcher.exact)


def _is_out(callee: SpiffeId, revocations: Revocations) -> bool:
    known = revocations.get(f"{RevokedIdentity.kind}:{callee}")
    target = None if known is None else known.target
    return isinstance(target, RevokedIdentity) and target.issued_before is None
