"""The client's half of incremental xDS, for one stream: subscribes to everything of each type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vestibule.xds.codes import BAD_RESPONSE
from vestibule.xds.messages import WILDCARD, DeltaRequest, DeltaResponse
from vestibule.xds.resources import Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one response changes; it is answered with ``accept`` or ``refuse`` under its nonce."""

    type_url: str
    version: str
    nonce: str
    resources: Mapping[str, Resource]
    removed: frozenset[str]


class DeltaClient:
    """Says what to send; what was received is checked here and kept by the caller."""

    def __init__(self, types: Iterable[str], *, node_id: str) -> None:
        self._types = tuple(types)
        self._node_id = node_id

    def opening(self, has: Mapping[str, Mapping[str, str]]) -> list[DeltaRequest]:
        """The first requests of a stream; ``has`` are the versions from before, by type and name.

        They are sent together, so that the server knows the whole before it takes anything away.
        """
        requests = [
            DeltaRequest(type_url=url, subscribe=(WILDCARD,), initial_versions=dict(has.get(url, {})))
            for url in self._types
        ]
        first = requests[0]
        requests[0] = DeltaRequest(
            type_url=first.type_url,
            node_id=self._node_id,
            subscribe=first.subscribe,
            initial_versions=first.initial_versions,
        )
        return requests

    def read(self, response: DeltaResponse) -> Change:
        """Check a response.  Raises: VST3108, which is then the answer to it."""
        names = [resource.name for resource in response.resources]
        if response.type_url not in self._types:
            raise BAD_RESPONSE.error(f"resources of {response.type_url[:200]!r}, which was not asked for")
        if len(set(names)) < len(names) or not set(names).isdisjoint(response.removed):
            raise BAD_RESPONSE.error("a name occurs twice in one response")
        if any(resource.type_url != response.type_url for resource in response.resources):
            raise BAD_RESPONSE.error("a resource is of another type than its response")
        return Change(
            type_url=response.type_url,
            version=response.version,
            nonce=response.nonce,
            resources={resource.name: resource for resource in response.resources},
            removed=frozenset(response.removed),
        )

    def accept(self, type_url: str, nonce: str) -> DeltaRequest:
        """The ACK of a response."""
        return DeltaRequest(type_url=type_url, nonce=nonce)

    def refuse(self, type_url: str, nonce: str, error: str) -> DeltaRequest:
        """The NACK of a response, with the reason."""
        return DeltaRequest(type_url=type_url, nonce=nonce, error=error)
