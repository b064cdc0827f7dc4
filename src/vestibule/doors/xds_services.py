"""The separate discovery services, one for each type of resource, beside the aggregated one.

Each serves one type with the very machines that ADS uses; what is lost is the order between types, which only one
stream for all can keep (xds_protocol.rst, "Aggregated Discovery Service").
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Protocol

from envoy.service.cluster.v3 import cds_pb2
from envoy.service.endpoint.v3 import eds_pb2
from envoy.service.extension.v3 import config_discovery_pb2
from envoy.service.listener.v3 import lds_pb2
from envoy.service.route.v3 import rds_pb2
from google.protobuf.descriptor import ServiceDescriptor

from vestibule.doors.xds_serving import serve_delta, serve_sotw
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES

Variant = Callable[..., Coroutine[Any, Any, None]]
"""``serve_delta`` or ``serve_sotw``."""

SERVICES: Final[dict[str, ServiceDescriptor]] = {
    CLUSTER: cds_pb2.DESCRIPTOR.services_by_name["ClusterDiscoveryService"],
    ENDPOINTS: eds_pb2.DESCRIPTOR.services_by_name["EndpointDiscoveryService"],
    LISTENER: lds_pb2.DESCRIPTOR.services_by_name["ListenerDiscoveryService"],
    ROUTES: rds_pb2.DESCRIPTOR.services_by_name["RouteDiscoveryService"],
    EXTENSION: config_discovery_pb2.DESCRIPTOR.services_by_name["ExtensionConfigDiscoveryService"],
}
_KINDS: Final = ("Stream", "Delta", "Fetch")
XDS_METHODS: Final = tuple(
    f"/{service.full_name}/{method.name}"
    for service in SERVICES.values()
    for method in service.methods
    if method.name.startswith(_KINDS)
)
"""The paths of all methods that are served."""


class Answers(Protocol):
    """A door for clients of one type."""

    async def follow(self, stream: Stream, variant: Variant, types: tuple[str, ...]) -> None:
        """Serve a stream."""
        ...

    async def fetch(self, stream: Stream, type_url: str) -> None:
        """Answer one ``DiscoveryRequest``."""
        ...


def separate_services(door: Answers) -> Iterator[Servable]:
    """The services of all types, answered by one door."""
    for url, service in SERVICES.items():
        methods: dict[str, Callable[[Stream], Coroutine[Any, Any, None]]] = {}
        for method in service.methods:
            kind = next((each for each in _KINDS if method.name.startswith(each)), None)
            if kind is None:
                continue
            noun = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in method.name)
            methods[noun.removeprefix("_")] = _answer(door, kind, url)
        yield serve(service, SimpleNamespace(**methods))


def _answer(door: Answers, kind: str, url: str) -> Callable[[Stream], Coroutine[Any, Any, None]]:
    if kind == "Fetch":
        return partial(_fetch, door, url)
    return partial(_follow, door, serve_delta if kind == "Delta" else serve_sotw, url)


async def _fetch(door: Answers, url: str, stream: Stream) -> None:
    await door.fetch(stream, url)


async def _follow(door: Answers, variant: Variant, url: str, stream: Stream) -> None:
    await door.follow(stream, variant, (url,))


class Peeked:
    """A stream whose first message was looked at before somebody else reads it."""

    def __init__(self, stream: Stream, first: Any) -> None:
        self._inner = stream
        self._first = first

    async def recv_message(self) -> Any:
        """The next message; None at the end."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._inner.recv_message()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
