"""A last look at what a proxy would be sent: does each resource keep Envoy's rules, and does what it names exist?

Each distinct resource is looked at once, however many proxies get it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.listener.v3.listener_pb2 import Listener
from google.protobuf.message import DecodeError

from vestibule.xds.codes import RESOURCE_INVALID
from vestibule.xds.resources import (
    CLUSTER,
    DECISIONS,
    EXTENSION,
    LISTENER,
    ROUTES,
    Resource,
    Snapshot,
)
from vestibule.xds.rules import unpacked
from vestibule.xds.sound_routes import sound_routes, twice
from vestibule.xds.walking import Reference, walked

SHOWN: Final = 5
"""Findings that an error names; the first are enough to find the rest."""

_FLAT: Final = frozenset({(EXTENSION, "revoked")})
"""What names nothing else and is of one make, with entries by the ten thousand: to walk it takes seconds, in which
nobody would be refused.  By type, and by how the name begins."""

_TREES: Final = (EXTENSION, "policy")
MOST_WALKED: Final = 1024 * 1024
"""Bytes of a tree of rules that is walked through.  What is larger says the same more often, to more callers."""

_NOTHING: Final[Mapping[str, Resource]] = {}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is wrong with one resource by itself, and what it refers to."""

    findings: tuple[str, ...]
    references: frozenset[Reference]
    addresses: tuple[str, ...] = ()
    names: tuple[tuple[str, frozenset[str]], ...] = field(init=False, repr=False)
    """What it refers to, by type."""

    def __post_init__(self) -> None:
        types = {url for url, _ in self.references}
        named = ((url, frozenset(name for each, name in self.references if each == url)) for url in types)
        object.__setattr__(self, "names", tuple(named))


def check(snapshot: Snapshot, *, given: Iterable[str] = (), before: Snapshot | None = None) -> None:
    """Refuse what a proxy would refuse, or could not use.  ``given`` are the clusters that it has from elsewhere.

    ``before`` passed already: what was in it is not looked at again, unless something is gone.
    Raises: VST3110, with the first findings.
    """
    passed = {} if before is None or _is_gone(snapshot, before) else before.resources
    findings = list(_findings(snapshot, frozenset(given), passed))
    if findings:
        shown = "; ".join(findings[:SHOWN])
        more = f" (and {len(findings) - SHOWN} more)" if len(findings) > SHOWN else ""
        raise RESOURCE_INVALID.error(f"{shown}{more}")


def _is_gone(snapshot: Snapshot, before: Snapshot) -> bool:
    """Whether anything is gone, which others may refer to."""
    for url, old in before.resources.items():
        now = snapshot.of_type(url)
        if now is not old and not old.keys() <= now.keys():
            return True
    return False


def _findings(
    snapshot: Snapshot, given: frozenset[str], passed: Mapping[str, Mapping[str, Resource]]
) -> Iterator[str]:
    """What is wrong with all that has not ``passed`` already; nothing is gone that it may refer to."""
    types = snapshot.resources
    for url, by_name in types.items():
        known = passed.get(url, _NOTHING)
        if by_name is known:
            continue
        for name, resource in by_name.items():
            if known.get(name) is not resource:
                inspected = inspect(resource)
                yield from inspected.findings
                for of_type, wanted in inspected.names:
                    if not wanted <= types.get(of_type, _NOTHING).keys():
                        yield from _missing(resource, of_type, wanted, types, given)
        if url == LISTENER:
            yield from _same_address(by_name.values())


def _missing(
    resource: Resource,
    of_type: str,
    wanted: frozenset[str],
    types: Mapping[str, Mapping[str, Resource]],
    given: frozenset[str],
) -> Iterator[str]:
    what = f"{_short(resource.type_url)} {resource.name!r}"
    for name in wanted - types.get(of_type, _NOTHING).keys() - (given if of_type == CLUSTER else frozenset()):
        yield f"{what} refers to {_short(of_type)} {name!r}, which does not exist"


def _same_address(listeners: Iterable[Resource]) -> Iterator[str]:
    addresses = Counter(chain.from_iterable(inspect(each).addresses for each in listeners))
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
    if resource.type_url == ROUTES and (sound := sound_routes(resource.name, resource.body)) is not None:
        return Inspected((), sound)
    try:
        message: Any = unpacked(resource.type_url, resource.body)
    except (KeyError, DecodeError):
        return Inspected((f"{what} cannot be read",), frozenset())
    broken, references = _IN_PARTS.get(resource.type_url, walked)(message)
    found = [f"{what}{text}" for text in broken]
    named = _name_of(message)
    if named is not None and named != resource.name:
        found.append(f"{what} is called {named!r} inside")
    found += [f"{what} {text}" for text in _repeated(resource.type_url, message)]
    return Inspected(tuple(found), references, tuple(_addresses(resource.type_url, message)))


def _by_address(listener: Any) -> tuple[tuple[str, ...], frozenset[Reference]]:
    """The same for listeners, which instances of a service have in common but for the address."""
    shape = type(listener)()
    shape.CopyFrom(listener)
    shape.address.CopyFrom(_SOMEWHERE)
    broken, references = _shape(shape.SerializeToString(deterministic=True))
    if broken or walked(listener.address)[0] or not listener.HasField("address"):
        return walked(listener)
    return (), references


@lru_cache(maxsize=16_384)
def _shape(body: bytes) -> tuple[tuple[str, ...], frozenset[Reference]]:
    return walked(Listener.FromString(body))


_IN_PARTS: Final = {LISTENER: _by_address}
_SOMEWHERE: Final = Address(socket_address=SocketAddress(address="127.0.0.1", port_value=1))


def _name_of(message: Any) -> str | None:
    """What a resource calls itself; token buckets have no name."""
    names = message.DESCRIPTOR.fields_by_name
    return next((str(getattr(message, each)) for each in ("cluster_name", "name") if each in names), None)


def _repeated(type_url: str, message: Any) -> Iterator[str]:
    """What must not occur twice within one resource, beyond what its rules say."""
    if type_url != ROUTES:
        return
    hosts = message.virtual_hosts
    names = twice(each.name for each in hosts)
    yield from (f"has the virtual host {name!r} twice" for name in names)
    domains = chain.from_iterable((domain.lower() for domain in each.domains) for each in hosts)
    yield from (f"has the domain {name!r} twice" for name in twice(domains))


def _addresses(type_url: str, message: Any) -> Iterator[str]:
    if type_url == LISTENER and message.HasField("address"):
        address = message.address
        if address.HasField("pipe"):
            yield str(address.pipe.path)
        elif address.socket_address.port_value:
            yield f"{address.socket_address.address}:{address.socket_address.port_value}"


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]
