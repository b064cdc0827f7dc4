"""Transparent interception: the way of an app that knows nothing of its sidecar leads through it all the same.

Every destination has an address of its own in 127.77.0.0/16, under which the app finds it by name, and what the app
sends there is turned to the listener for this destination alone.  Which one a connection was meant for is thus decided
by where it went, for HTTP, gRPC and bytes alike; Envoy need not guess from what it reads.  Without the rules these
addresses lead nowhere: a call fails, and never leaves the machine in plain text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.records import Address, ServiceView

NETWORK: Final = "127.77"
_SYSTEM: Final = Path("/etc/hosts")
_WEB: Final = ("http", "http2", "grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intercepted:
    """What is turned where.

    ``callers`` are the uids whose calls are turned; None for everybody in a namespace that is the app's own.  Calls of
    theirs to ``ports`` of any other machine go to the ``egress``, which goes by the host's name in the request.
    ``inbound`` is by the app's ports: what comes from other machines to them goes to the sidecar's ingress instead.
    """

    upstreams: Mapping[str, Address]
    egress: Address | None
    ports: tuple[int, ...]
    callers: frozenset[int] | None
    inbound: Mapping[int, Address]


def chains(intercepted: Intercepted) -> list[str]:
    """The chains of one table, besides those of a boundary."""
    who = ""
    if intercepted.callers is not None:
        who = f"meta skuid {{ {', '.join(map(str, sorted(intercepted.callers)))} }} "
    rules = [
        f"{who}ip daddr {address} tcp dport 1-65535 redirect to :{intercepted.upstreams[name].port}"
        for name, address in addresses(intercepted.upstreams).items()
    ]
    if intercepted.ports and intercepted.egress is not None:
        wanted = ", ".join(map(str, sorted(intercepted.ports)))
        rules.append(f'{who}oif != "lo" tcp dport {{ {wanted} }} redirect to :{intercepted.egress.port}')
    way_in = [
        f'iif != "lo" fib daddr type local tcp dport {port} dnat ip to {address}'
        for port, address in sorted(intercepted.inbound.items())
    ]
    return [
        _chain("intercept_out", "type nat hook output priority -100; policy accept;", *rules),
        _chain("intercept_in", "type nat hook prerouting priority -100; policy accept;", *way_in),
    ]


def addresses(upstreams: Mapping[str, Address]) -> dict[str, str]:
    """The address of each upstream: the same on every machine and after every restart, but for a rare collision."""
    given: dict[str, str] = {}
    for name in sorted(upstreams):
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:2], "big")
        while (address := _address(number)) in given.values():
            number += 1
        given[name] = address
    return given


def names(view: ServiceView) -> dict[str, tuple[str, ...]]:
    """By upstream, the names under which an app finds it: those that the egress listener knows."""
    found: dict[str, tuple[str, ...]] = {}
    meant: dict[str, str] = {}
    # A service with several ports is known by its bare name, too: this means the port `http`, else the first for HTTP.
    for upstream in sorted(view.upstreams, key=lambda each: (each.port != "http", each.protocol not in _WEB)):
        meant.setdefault(upstream.name.partition("/")[0], upstream.name)
    for upstream in view.upstreams:
        service, slash, port = upstream.name.partition("/")
        own = [f"{port}.{service}"] if slash else []
        bare = [service] if meant[service] == upstream.name else []
        found[upstream.name] = tuple(name for each in (*own, *bare) for name in (each, f"{each}.{view.mesh}"))
    return found


def hosts_file(view: ServiceView, upstreams: Mapping[str, Address], system: Path = _SYSTEM) -> str:
    """What the app shall see as ``/etc/hosts``: the mesh's names first, then what the machine says."""
    known = names(view)
    lines = [
        f"{address} {' '.join(known[name])}"
        for name, address in addresses(upstreams).items()
        if name in known
    ]
    try:
        rest = system.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        rest = "127.0.0.1 localhost\n"
    return "\n".join(("# by vestibule sidecar --intercept", *lines, rest))


def _address(number: int) -> str:
    # Neither a network's own number nor its broadcast.
    return f"{NETWORK}.{number // 254 % 256}.{number % 254 + 1}"


def _chain(name: str, *rules: str) -> str:
    return "\n".join((f"chain {name} {{", *(f"  {rule}" for rule in rules if rule), "}"))


def inbound(apps: Sequence[tuple[Address, Address]]) -> dict[int, Address]:
    """From pairs of an app's address and its ingress: what can be turned, which is to no loopback address."""
    return {app.port: ingress for app, ingress in apps if not ingress.host.startswith("127.")}
