"""What a lone proxy follows: files in a private directory, each replaced as a whole whenever it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import Message

from vestibule.envoy.bootstrap import HEAP_BYTES, bootstrap
from vestibule.envoy.lone.access_lines import Lines
from vestibule.envoy.lone.rewriting import Rewriting
from vestibule.envoy.names import DECISIONS_CLUSTER
from vestibule.envoy.protos import seconds, serialized
from vestibule.spiffe import SpiffeId
from vestibule.xds.resources import CLUSTER, EXTENSION, LISTENER, ROUTES, Resource, Snapshot

LISTENERS_FILE: Final = "listeners.pb"
CLUSTERS_FILE: Final = "clusters.pb"
_KINDS: Final[dict[str, type[Message]]] = {CLUSTER: cluster_pb2.Cluster, LISTENER: listener_pb2.Listener}


def delivered(snapshot: Snapshot, identity: SpiffeId, *, directory: str, access_log: str) -> dict[str, bytes]:
    """The files by their names, in the order in which they are to be written: what refers to others comes last.

    ``directory`` is where they will be; ``access_log`` is a file, or ``-`` for the proxy's standard output.
    """

    def place(type_url: str, name: str) -> config_source_pb2.ConfigSource:
        return source(f"{directory}/{_file(type_url, name)}")

    rewriting = Rewriting(snapshot, identity, Lines(str(identity), access_log), place)
    files = {
        _file(type_url, name): _response(type_url, [found.body])
        for type_url in (ROUTES, EXTENSION)
        for name, found in sorted(snapshot.of_type(type_url).items())
    }
    for type_url, file in ((CLUSTER, CLUSTERS_FILE), (LISTENER, LISTENERS_FILE)):
        every = [found for _, found in sorted(snapshot.of_type(type_url).items())]
        files[file] = _response(type_url, [_rewritten(each, rewriting) for each in every])
    return files


def lone_bootstrap(
    *,
    node_id: str,
    service: str,
    directory: str,
    agent_socket: str,
    admin_socket: str,
    host_socket: str,
    heap_bytes: int = HEAP_BYTES,
    files: int | None = None,
) -> dict[str, Any]:
    """What its Envoy is started with: as any sidecar's, but that it follows files in ``directory``."""
    document = bootstrap(
        node_id=node_id,
        cluster=service,
        agent_socket=agent_socket,
        admin_socket=admin_socket,
        host_socket=host_socket,
        heap_bytes=heap_bytes,
        files=files,
    )
    # An agent that knows nothing of sidecars is not to take it for one; nobody is asked for decisions.
    document["node"]["metadata"] = {}
    static = document["static_resources"]
    static["clusters"] = [each for each in static["clusters"] if each["name"] != DECISIONS_CLUSTER]
    document["dynamic_resources"] = {
        key: {
            "path_config_source": {"path": f"{directory}/{file}"},
            "resource_api_version": "V3",
            "initial_fetch_timeout": "0s",
        }
        for key, file in (("cds_config", CLUSTERS_FILE), ("lds_config", LISTENERS_FILE))
    }
    return document


def source(path: str) -> config_source_pb2.ConfigSource:
    """A file that is followed."""
    return config_source_pb2.ConfigSource(
        path_config_source=config_source_pb2.PathConfigSource(path=path),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=seconds(0),
    )


def _file(type_url: str, name: str) -> str:
    """The same for the same resource, whatever it holds."""
    return f"{hashlib.sha256(f'{type_url} {name}'.encode()).hexdigest()[:24]}.pb"


def _rewritten(resource: Resource, rewriting: Rewriting) -> bytes:
    message = _KINDS[resource.type_url].FromString(resource.body)
    rewriting.apply(message)
    return serialized(message)


def _response(type_url: str, bodies: Iterable[bytes]) -> bytes:
    response = discovery_pb2.DiscoveryResponse(type_url=type_url)
    digest = hashlib.sha256()
    for body in bodies:
        response.resources.add(type_url=type_url, value=body)
        digest.update(hashlib.sha256(body).digest())
    response.version_info = digest.hexdigest()[:16]
    return serialized(response)
