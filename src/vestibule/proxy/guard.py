"""The boundary ``guard``: which user may use which of a sidecar's ports on loopback, as packet filters.

Decided where a connection leaves the process that makes it, since only there the kernel knows whose it is.  Packets
of other machines never pass here: what an app must not offer them is ``listeners``' to see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vestibule.records import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """Who may connect where.

    ``ways_out`` (egress and upstreams) are for ``callers``, the service's own uid; ``apps`` for ``proxies``, the uids
    of Envoy and of those who look after the app.  ``ingress`` stays open to everybody: there is mutual TLS.
    """

    ways_out: tuple[Address, ...]
    apps: tuple[Address, ...]
    ingress: tuple[Address, ...]
    callers: frozenset[int]
    proxies: frozenset[int]


def chains(guarded: Guarded) -> list[str]:
    """The chains of one table.

    A first packet needs the right uid, whatever address of this host it goes to.  Later ones are refused for wrong uids
    (their connections may be older than the rules) and pass where no process owns them any more, as at a close.
    """
    return [
        _chain(
            "output",
            "type filter hook output priority filter; policy accept;",
            'oif != "lo" accept',
            *(f"{_to(each)} accept" for each in guarded.ingress),
            f"tcp dport {_ports(guarded.ways_out)} goto ways_out" if guarded.ways_out else "",
            f"tcp dport {_ports(guarded.apps)} goto apps" if guarded.apps else "",
        ),
        _only("ways_out", guarded.callers),
        _only("apps", guarded.proxies),
    ]


def _only(name: str, uids: Iterable[int]) -> str:
    allowed = f"{{ {', '.join(map(str, sorted(uids)))} }}"
    return _chain(
        name,
        f"meta skuid {allowed} accept",
        "tcp flags & (syn | ack) == syn counter reject with tcp reset",
        f"ip daddr 127.0.0.1 meta skuid != {allowed} counter reject with tcp reset",
    )


def _to(address: Address) -> str:
    family = "ip6" if ":" in address.host else "ip"
    return f"{family} daddr {address.host} tcp dport {address.port}"


def _ports(addresses: Iterable[Address]) -> str:
    return f"{{ {', '.join(str(each.port) for each in sorted(addresses))} }}"


def _chain(name: str, *rules: str) -> str:
    return "\n".join((f"chain {name} {{", *(f"  {rule}" for rule in rules if rule), "}"))
