"""xDS messages to and from Envoy's protobuf types (envoy/service/discovery/v3/discovery.proto)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from envoy.service.discovery.v3 import discovery_pb2 as pb

from vestibule.xds.messages import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse
from vestibule.xds.resources import SECRET, Resource

_INVALID_ARGUMENT: Final = 3
"""google.rpc.Code of a NACK, as Envoy sends it."""


def delta_request_from(message: Any) -> DeltaRequest:
    """Read a ``DeltaDiscoveryRequest``."""
    return DeltaRequest(
        type_url=message.type_url,
        node_id=_node_id(message),
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=_error(message),
    )


def delta_request_to(request: DeltaRequest) -> Any:
    """Write a ``DeltaDiscoveryRequest``."""
    message = pb.DeltaDiscoveryRequest(
        type_url=request.type_url,
        resource_names_subscribe=request.subscribe,
        resource_names_unsubscribe=request.unsubscribe,
        initial_resource_versions=dict(request.initial_versions),
        response_nonce=request.nonce,
    )
    if request.node_id is not None:
        message.node.id = request.node_id
    if request.error is not None:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = request.error
    return message


def delta_response_to(response: DeltaResponse) -> Any:
    """Write a ``DeltaDiscoveryResponse``."""
    message = pb.DeltaDiscoveryResponse(
        type_url=response.type_url,
        system_version_info=response.version,
        nonce=response.nonce,
        removed_resources=response.removed,
    )
    for resource in response.resources:
        _add(message, resource)
    return message


def delta_response_bytes(
    response: DeltaResponse, *, entry: Callable[[Resource], bytes] | None = None
) -> bytes:
    """``delta_response_to`` as bytes.  What many get of it is written once: resources, which are most of it.

    ``entry`` writes a resource otherwise than ``entry_of``.

    Protobuf reads fields that follow one another as one message, and these follow in the order of their numbers.
    """
    tail = _tail(response.type_url, response.nonce, response.removed)
    return b"".join((_head(response.version), *map(entry or entry_of, response.resources), tail))


@lru_cache(maxsize=64)
def _head(version: str) -> bytes:
    written: bytes = pb.DeltaDiscoveryResponse(system_version_info=version).SerializeToString()
    return written


@lru_cache(maxsize=1024)
def _tail(type_url: str, nonce: str, removed: tuple[str, ...]) -> bytes:
    """Streams that have lasted equally long have the same."""
    message = pb.DeltaDiscoveryResponse(type_url=type_url, nonce=nonce, removed_resources=removed)
    written: bytes = message.SerializeToString()
    return written


def entry_of(resource: Resource) -> bytes:
    """The field of one resource.  Secrets are not kept a second time."""
    if resource.entry is not None:
        return resource.entry
    message = pb.DeltaDiscoveryResponse()
    _add(message, resource)
    written: bytes = message.SerializeToString()
    if resource.type_url != SECRET:
        object.__setattr__(resource, "entry", written)
    return written


def _add(message: Any, resource: Resource) -> None:
    entry = message.resources.add(name=resource.name, version=resource.version)
    entry.resource.type_url = resource.type_url
    entry.resource.value = resource.body


def _as_it_stands(_type_url: str, entry: Any) -> Resource:
    return Resource(entry.resource.type_url, entry.name, entry.resource.value, entry.version)


def delta_response_from(
    message: Any, *, whole: Callable[[str, Any], Resource] = _as_it_stands
) -> tuple[DeltaResponse, tuple[str, ...]]:
    """Read a ``DeltaDiscoveryResponse``, and the names of its heartbeats.

    ``whole`` reads a resource of a type from its entry.

    A resource without a body prolongs a time to live and changes nothing (xds_protocol.rst, "TTL").
    """
    resources = tuple(
        whole(message.type_url, entry) for entry in message.resources if entry.HasField("resource")
    )
    heartbeats = tuple(entry.name for entry in message.resources if not entry.HasField("resource"))
    response = DeltaResponse(
        type_url=message.type_url,
        version=message.system_version_info,
        nonce=message.nonce,
        resources=resources,
        removed=tuple(message.removed_resources),
    )
    return response, heartbeats


def sotw_request_from(message: Any) -> SotwRequest:
    """Read a ``DiscoveryRequest``."""
    return SotwRequest(
        type_url=message.type_url,
        node_id=_node_id(message),
        names=tuple(message.resource_names),
        version=message.version_info,
        nonce=message.response_nonce,
        error=_error(message),
    )


def sotw_response_to(response: SotwResponse) -> Any:
    """Write a ``DiscoveryResponse``."""
    message = pb.DiscoveryResponse(
        type_url=response.type_url, version_info=response.version, nonce=response.nonce
    )
    for resource in response.resources:
        message.resources.add(type_url=resource.type_url, value=resource.body)
    return message


def _node_id(message: Any) -> str | None:
    return str(message.node.id) if message.HasField("node") else None


def _error(message: Any) -> str | None:
    if not message.HasField("error_detail"):
        return None
    return str(message.error_detail.message) or f"code {message.error_detail.code}, without a message"
