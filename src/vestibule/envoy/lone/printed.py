"""One file to start an Envoy with, for people who run it themselves: everything stands in it, nothing is followed.

What has no form in JSON that we know is left out; so is what only makes sense with somebody who tells of changes.
``LACKS`` says what that means.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from google.protobuf import json_format
from google.protobuf.message import Message

from vestibule.envoy import revoked
from vestibule.envoy.host_secrets import CredentialFile, PublicTrust, name_of
from vestibule.envoy.lone.access_lines import Lines
from vestibule.envoy.lone.delivery import lone_bootstrap
from vestibule.envoy.lone.rewriting import Rewriting
from vestibule.envoy.names import SIDECAR_CLUSTER
from vestibule.envoy.nothing import NOTHING
from vestibule.intent.lone import Lone
from vestibule.xds.resources import CLUSTER, EXTENSION, LISTENER, Snapshot

LACKS: Final = (
    "revocations are not followed: a revoked caller or callee is refused only when its SVID has ended",
    "a change of the file needs this to be printed again, and Envoy to be restarted",
    "nobody watches that the app listens on loopback only, or starts and stops it",
    "the ages of connections fit SVIDs that live for an hour or longer",
)


def printed(
    snapshot: Snapshot,
    lone: Lone,
    *,
    agent_socket: str,
    access_log: str,
    public_authorities: str,
) -> dict[str, Any]:
    """The bootstrap, as JSON has it.  ``public_authorities`` is a PEM file of the host."""
    document = lone_bootstrap(
        node_id=lone.name,
        service=lone.name,
        directory="",
        agent_socket=agent_socket,
        admin_socket="",
        host_socket="",
    )
    # An admin interface is for whoever runs it to add: whoever reaches it can stop Envoy.
    for key in ("dynamic_resources", "overload_manager", "admin"):
        del document[key]
    rewriting = Rewriting(snapshot, lone.identity, Lines(str(lone.identity), access_log), None)
    static = document["static_resources"]
    static["clusters"] = [
        *(each for each in static["clusters"] if each["name"] != SIDECAR_CLUSTER),
        *_documents(snapshot, CLUSTER, cluster_pb2.Cluster, rewriting),
    ]
    static["listeners"] = list(_documents(snapshot, LISTENER, listener_pb2.Listener, rewriting))
    secrets = list(_secrets(lone, public_authorities))
    if secrets:
        static["secrets"] = secrets
    found: dict[str, Any] = _without_sidecar(document)
    return found


def _documents(
    snapshot: Snapshot, type_url: str, kind: type[Message], rewriting: Rewriting
) -> Iterator[dict[str, Any]]:
    idle = _idle(snapshot)
    for _, resource in sorted(snapshot.of_type(type_url).items()):
        message = kind.FromString(resource.body)
        if isinstance(message, listener_pb2.Listener):
            _leave_out(message, idle)
        rewriting.apply(message)
        found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
        yield found


def _idle(snapshot: Snapshot) -> frozenset[str]:
    """The filters that nobody would fill, or that do nothing."""
    empty = {
        name
        for name, each in snapshot.of_type(EXTENSION).items()
        if extension_pb2.TypedExtensionConfig.FromString(each.body).typed_config.type_url == NOTHING.type_url
    }
    return frozenset({revoked.HTTP, revoked.TCP, revoked.facts().name, *empty})


def _leave_out(listener: listener_pb2.Listener, idle: frozenset[str]) -> None:
    for chain in listener.filter_chains:
        kept = [each for each in chain.filters if each.name not in idle]
        for each in kept:
            _leave_out_of_manager(each, idle)
        del chain.filters[:]
        chain.filters.extend(kept)


def _leave_out_of_manager(found: listener_components_pb2.Filter, idle: frozenset[str]) -> None:
    manager = hcm_pb2.HttpConnectionManager()
    if not found.typed_config.Unpack(manager):
        return
    kept = [each for each in manager.http_filters if each.name not in idle]
    del manager.http_filters[:]
    manager.http_filters.extend(kept)
    found.typed_config.Pack(manager)


def _secrets(lone: Lone, public_authorities: str) -> Iterator[dict[str, Any]]:
    externals = [each for each in lone.intent.externals.values() if each.allow]
    if externals:
        yield {
            "name": name_of(PublicTrust()),
            "validation_context": {"trusted_ca": {"filename": public_authorities}},
        }
    for each in externals:
        if each.credential is not None:
            file = CredentialFile(file=each.credential.file, prefix=each.credential.prefix)
            yield {
                "name": name_of(file),
                "generic_secret": {"secret": {"filename": each.credential.file}},
            }


def _without_sidecar(value: Any) -> Any:
    """Secrets of the host are named; nobody has to be asked for them."""
    if isinstance(value, list):
        return [_without_sidecar(each) for each in value]
    if not isinstance(value, dict):
        return value
    asked = value.get("sds_config", {}).get("api_config_source", {}).get("grpc_services", ())
    if any(each.get("envoy_grpc", {}).get("cluster_name") == SIDECAR_CLUSTER for each in asked):
        return {key: each for key, each in value.items() if key != "sds_config"}
    return {key: _without_sidecar(each) for key, each in value.items()}
