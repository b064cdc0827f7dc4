"""A last look at what a proxy would be sent: does each resource keep Envoy's rules, and does what it names exist?

Each distinct resource is looked at once, however many proxies get it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from google.protobuf.message import DecodeError

from vestibule.xds.codes import RESOURCE_INVALID
from vestibule.xds.resources import (
    CLUSTER,
    DECISIONS,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    Resource,
    Snapshot,
)
from vestibule.xds.rules import unpacked, violations

SHOWN: Final = 5
"""Findings that an error names; the first are enough to find the rest."""

_FLAT: Final = frozenset({(EXTENSION, "revoked")})
"""What names nothing else and is of one make, with entries by the ten thousand: to walk it takes seconds, in which
nobody would be refused.  By type, and by how the name begins."""

_TREES: Final = (EXTENSION, "policy")
MOST_WALKED: Final = 1024 * 1024
"""Bytes of a tree of rules that is walked through.  What is larger says the same more often, to more callers."""

Reference = tuple[str, str]
"""A type of resource, and a name."""

_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "envoy.config.route.v3.RouteAction": ("cluster", CLUSTER),
    "envoy.config.route.v3.WeightedCluster.ClusterWeight": ("name", CLUSTER),
    "envoy.config.route.v3.RouteAction.RequestMirrorPolicy": ("cluster", CLUSTER),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": ("cluster", CLUSTER),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": ("name", CLUSTER),
    "envoy.config.core.v3.GrpcService.EnvoyGrpc": ("cluster_name", CLUSTER),
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds": ("route_config_name", ROUTES),
}
"""The field that names another resource, by message, and of which type that is."""


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is wrong with one resource by itself, and what it refers to."""

    findings: tuple[str, ...]
    references: frozenset[Reference]
    addresses: tuple[str, ...] = ()


def check(snapshot: Snapshot, *, given: Iterable[str] = (), before: Snapshot | None = None) -> None:
    """Refuse what a proxy would refuse, or could not use.  ``given`` are the clusters that it has from elsewhere.

    ``before`` passed already: types that are the same there are not looked at again, unless others lost something.
    Raises: VST3110, with the first findings.
    """
    same = _same(snapshot, before) if before is not None else frozenset[str]()
    findings = list(_findings(snapshot, frozenset(given), same))
    if findings:
        shown = "; ".join(findings[:SHOWN])
        more = f" (and {len(findings) - SHOWN} more)" if len(findings) > SHOWN else ""
        raise RESOURCE_INVALID.error(f"{shown}{more}")


def _same(snapshot: Snapshot, before: Snapshot) -> frozenset[str]:
    """The types that need no look; none where something is gone that they may refer to."""
    for url, old in before.resources.items():
        now = snapshot.of_type(url)
        if now is not old and old.keys() - now.keys():
            return frozenset()
    return frozenset(url for url, now in snapshot.resources.items() if now is before.resources.get(url))


def _findings(snapshot: Snapshot, given: frozenset[str], same: frozenset[str]) -> Iterator[str]:
    addresses: Counter[str] = Counter()
    types = snapshot.resources
    for url, by_name in types.items():
        if url in same:
            continue
        for name, resource in by_name.items():
            inspected = inspect(resource)
            yield from inspected.findings
            if inspected.addresses:
                addresses.update(inspected.addresses)
            for of_type, wanted in inspected.references:
                exists = wanted in types.get(of_type, ()) or (of_type == CLUSTER and wanted in given)
                if not exists:
                    yield f"{_short(url)} {name!r} refers to {_short(of_type)} {wanted!r}, which does not exist"
    yield from (f"two listeners are at {address}" for address, times in addresses.items() if times > 1)


@lru_cache(maxsize=32_768)
def inspect(resource: Resource) -> Inspected:
    """Look at one resource by itself."""
    what = f"{_short(resource.type_url)} {resource.name!r}"
    kind = (resource.type_url, resource.name.partition("/")[0])
    if (
        resource.type_url == DECISIONS
        or kind in _FLAT
        or (kind == _TREES and len(resource.body) > MOST_WALKED)
    ):
        return Inspected((), frozenset())
    try:
        message: Any = unpacked(resource.type_url, resource.body)
    except (KeyError, DecodeError):
        return Inspected((f"{what} cannot be read",), frozenset())
    broken, references = _IN_PARTS.get(resource.type_url, _walked)(message)
    found = [f"{what}{text}" for text in broken]
    named = _name_of(message)
    if named is not None and named != resource.name:
        found.append(f"{what} is called {named!r} inside")
    found += [f"{what} {text}" for text in _repeated(resource.type_url, message)]
    return Inspected(tuple(found), references, tuple(_addresses(resource.type_url, message)))


def _walked(message: Any) -> tuple[tuple[str, ...], frozenset[Reference]]:
    """The rules that a message breaks, and what it refers to."""
    references: set[Reference] = set()
    broken = tuple(violations(message, lambda each, _: references.update(_refers(each))))
    return broken, frozenset(references)


def _by_parts(routes: Any) -> tuple[tuple[str, ...], frozenset[Reference]]:
    """The same for routes, whose virtual hosts many have in common: each of them is looked at once."""
    shell = type(routes)()
    shell.CopyFrom(routes)
    shell.ClearField("virtual_hosts")
    parts = [_walked(shell)]
    parts += [_host(each.SerializeToString(deterministic=True)) for each in routes.virtual_hosts]
    if any(broken for broken, _ in parts):
        return _walked(routes)  # with the whole path of what is broken
    return (), frozenset().union(*(references for _, references in parts))


def _by_address(listener: Any) -> tuple[tuple[str, ...], frozenset[Reference]]:
    """The same for listeners, which instances of a service have in common but for the address."""
    shape = type(listener)()
    shape.CopyFrom(listener)
    shape.address.CopyFrom(_SOMEWHERE)
    broken, references = _shape(shape.SerializeToString(deterministic=True))
    if broken or _walked(listener.address)[0] or not listener.HasField("address"):
        return _walked(listener)
    return (), references


@lru_cache(maxsize=16_384)
def _shape(body: bytes) -> tuple[tuple[str, ...], frozenset[Reference]]:
    return _walked(Listener.FromString(body))


_IN_PARTS: Final = {ROUTES: _by_parts, LISTENER: _by_address}
_SOMEWHERE: Final = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=1))


@lru_cache(maxsize=16_384)
def _host(body: bytes) -> tuple[tuple[str, ...], frozenset[Reference]]:
    host = VirtualHost.FromString(body)
    parts = [_route(each.SerializeToString(deterministic=True)) for each in host.routes]
    host.ClearField("routes")
    parts.append(_walked(host))
    if any(broken for broken, _ in parts):
        return _walked(VirtualHost.FromString(body))
    return (), frozenset().union(*(references for _, references in parts))


@lru_cache(maxsize=16_384)
def _route(body: bytes) -> tuple[tuple[str, ...], frozenset[Reference]]:
    """Those that answer by themselves are the same in many hosts."""
    return _walked(Route.FromString(body))


def _refers(message: Any) -> Iterator[Reference]:
    full_name = message.DESCRIPTOR.full_name
    if (known := _NAMES.get(full_name)) is not None:
        field, of_type = known
        if name := getattr(message, field):
            yield of_type, name
    elif full_name == "envoy.config.cluster.v3.Cluster":
        if message.type == message.EDS:
            yield ENDPOINTS, message.eds_cluster_config.service_name or message.name
    elif _is_discovered(message):
        yield EXTENSION, message.name


def _is_discovered(message: Any) -> bool:
    """Whether it is a filter whose configuration comes by ADS (ECDS)."""
    if "config_discovery" not in message.DESCRIPTOR.fields_by_name:
        return False
    return bool(message.config_discovery.config_source.HasField("ads"))


def _name_of(message: Any) -> str | None:
    """What a resource calls itself; token buckets have no name."""
    names = message.DESCRIPTOR.fields_by_name
    return next((str(getattr(message, each)) for each in ("cluster_name", "name") if each in names), None)


def _repeated(type_url: str, message: Any) -> Iterator[str]:
    """What must not occur twice within one resource, beyond what its rules say."""
    if type_url != ROUTES:
        return
    hosts = message.virtual_hosts
    twice = _twice(each.name for each in hosts)
    yield from (f"has the virtual host {name!r} twice" for name in twice)
    domains = chain.from_iterable((domain.lower() for domain in each.domains) for each in hosts)
    yield from (f"has the domain {name!r} twice" for name in _twice(domains))


def _twice(names: Iterable[str]) -> list[str]:
    every = list(names)
    if len(set(every)) == len(every):
        return []
    return [name for name, times in Counter(every).items() if times > 1]


def _addresses(type_url: str, message: Any) -> Iterator[str]:
    if type_url == LISTENER and message.HasField("address"):
        address = message.address
        if address.HasField("pipe"):
            yield str(address.pipe.path)
        elif address.socket_address.port_value:
            yield f"{address.socket_address.address}:{address.socket_address.port_value}"


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]
