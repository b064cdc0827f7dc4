"""Whether nothing is wrong with routes, found out by their virtual hosts: many have the same ones.

What is wrong with others is found by a look at all of it (``xds.inspection``).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from typing import Final

from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.message import DecodeError

from vestibule.xds.fields import fields
from vestibule.xds.walking import Reference, walked

_HOSTS: Final = RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER
_References = frozenset[Reference]


def sound_routes(name: str, body: bytes) -> _References | None:
    """What routes of this name refer to; None if anything is wrong with them."""
    try:
        shell, bodies = _parts(body)
        around, hosts = _shell(shell), tuple(map(_host, bodies))
    except (ValueError, DecodeError):
        return None
    sound = [each for each in hosts if each is not None]
    if around is None or around[0] != name or len(sound) < len(hosts) or _repeat(tuple(sound)):
        return None
    return around[1].union(*(each.references for each in sound))


def _parts(body: bytes) -> tuple[bytes, list[bytes]]:
    """All but the virtual hosts, and each of these."""
    around, hosts = list[bytes](), list[bytes]()
    for each in fields(body):
        if each.number == _HOSTS:
            hosts.append(body[each.value : each.end])
        else:
            around.append(body[each.start : each.end])
    return b"".join(around), hosts


@lru_cache(maxsize=4096)
def _shell(body: bytes) -> tuple[str, _References] | None:
    routes = RouteConfiguration.FromString(body)
    broken, references = walked(routes)
    return None if broken else (routes.name, references)


@dataclass(frozen=True, slots=True)
class _Host:
    """One virtual host that breaks no rule; ``domains`` is a digest of them."""

    name: str
    domains: bytes
    references: _References = field(compare=False)
    body: bytes = field(compare=False, repr=False)


@lru_cache(maxsize=16_384)
def _host(body: bytes) -> _Host | None:
    host = VirtualHost.FromString(body)
    parts = [_route(each.SerializeToString(deterministic=True)) for each in host.routes]
    host.ClearField("routes")
    parts.append(walked(host))
    if any(broken for broken, _ in parts):
        return None
    domains = VirtualHost(domains=host.domains).SerializeToString()
    references = frozenset[Reference]().union(*(references for _, references in parts))
    return _Host(host.name, hashlib.sha256(domains).digest(), references, body)


@lru_cache(maxsize=16_384)
def _route(body: bytes) -> tuple[tuple[str, ...], _References]:
    """Those that answer by themselves are the same in many hosts."""
    return walked(Route.FromString(body))


@lru_cache(maxsize=4096)
def _repeat(hosts: tuple[_Host, ...]) -> bool:
    """Whether a name or a domain occurs twice among these: most changes leave both as they are."""
    if twice(each.name for each in hosts):
        return True
    every = chain.from_iterable(VirtualHost.FromString(each.body).domains for each in hosts)
    return bool(twice(domain.lower() for domain in every))


def twice(names: Iterable[str]) -> list[str]:
    """What occurs more than once."""
    every = list(names)
    if len(set(every)) == len(every):
        return []
    return [name for name, times in Counter(every).items() if times > 1]
