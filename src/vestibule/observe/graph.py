"""Who calls whom, drawn from access records: services, and links between them with how the calls went.

Each call is counted once: as its callee's proxy saw it, or, where no callee of ours has a record (a host outside, a
call that never arrived), as its caller's did.  Of a lasting load proxies record a sample of what goes well and nearly
all that does not, so that numbers are of records, and shares of failures are upper bounds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final

from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict

UNKNOWN: Final = "unknown"
"""Whoever called without an identity."""
OUTSIDE: Final = "external:"
"""How hosts outside the mesh are called in records."""
MOST_TIMES: Final = 10_000
"""Durations that are kept of one link."""


class Kind(Enum):
    """What a node stands for."""

    SERVICE = "service"
    OUTSIDE = "outside"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """``name`` is a service's, a host's outside, or ``unknown``."""

    name: str
    kind: Kind = field(compare=False, default=Kind.SERVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Calls from one node to another.

    ``denied`` and ``failed`` are some of ``calls``, and exclude each other.  ``plaintext``: how many came without TLS.
    ``p50`` and ``p95`` are milliseconds; None where no call went well.
    """

    source: str
    destination: str
    calls: int
    denied: int
    failed: int
    plaintext: int
    p50: float | None
    p95: float | None

    @property
    def well(self) -> float:
        """The share of calls that neither failed nor were denied."""
        return 1 - (self.failed + self.denied) / self.calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Nodes and links, each in the order of their names."""

    nodes: tuple[Node, ...]
    links: tuple[Link, ...]


@dataclass(slots=True)
class _Count:
    calls: int = 0
    denied: int = 0
    failed: int = 0
    plaintext: int = 0
    times: list[float] = field(default_factory=list)

    def add(self, record: AccessRecord) -> None:
        self.calls += 1
        self.plaintext += record.plaintext
        if record.verdict in (Verdict.DENIED, Verdict.REFUSED):
            self.denied += 1
        elif record.verdict is Verdict.FAILED or (record.status or 0) >= 500:
            self.failed += 1
        elif record.status != 0 and record.duration_ms is not None and len(self.times) < MOST_TIMES:
            # 0: the caller left before there was an answer.
            self.times.append(record.duration_ms)


def graph(records: Iterable[AccessRecord], *, since: datetime | None = None) -> Graph:
    """Count the calls of all records that are not older than ``since``."""
    counts: defaultdict[tuple[Node, Node], _Count] = defaultdict(_Count)
    arrived: set[tuple[str, str]] = set()
    sent: list[AccessRecord] = []
    for record in records:
        if record.layer is Layer.LISTENER or (since is not None and record.time < since):
            continue
        if record.direction is Direction.INBOUND:
            counts[_source(record), Node(record.reporter_service)].add(record)
            arrived.add((record.request_id, record.reporter_service))
        else:
            sent.append(record)
    for record in sent:
        if (destination := _destination(record)) is None or _counted_there(record, arrived):
            continue
        counts[Node(record.reporter_service), destination].add(record)
    return _graph(counts)


def _counted_there(record: AccessRecord, arrived: set[tuple[str, str]]) -> bool:
    """Whether the callee has a record of it; TCP connections have no id to find that by, but those taken have one."""
    if record.layer is Layer.TCP:
        return record.verdict is Verdict.ALLOWED and bool(record.destination_spiffe_id)
    return bool(record.request_id) and (record.request_id, record.destination_service) in arrived


def _source(record: AccessRecord) -> Node:
    if record.source_spiffe_id:
        return Node(record.source_spiffe_id.rpartition("/")[2])
    return Node(UNKNOWN, Kind.UNKNOWN)


def _destination(record: AccessRecord) -> Node | None:
    """None for what was called by a name that is nobody's."""
    name = record.destination_service
    if name.startswith(OUTSIDE):
        return Node(name.removeprefix(OUTSIDE), Kind.OUTSIDE)
    return Node(name) if name else None


def _graph(counts: dict[tuple[Node, Node], _Count]) -> Graph:
    nodes = {node for link in counts for node in link}
    links = [
        Link(
            source=source.name,
            destination=destination.name,
            calls=count.calls,
            denied=count.denied,
            failed=count.failed,
            plaintext=count.plaintext,
            p50=_quantile(count.times, 0.50),
            p95=_quantile(count.times, 0.95),
        )
        for (source, destination), count in counts.items()
    ]
    return Graph(
        nodes=tuple(sorted(nodes)),
        links=tuple(sorted(links, key=lambda each: (each.source, each.destination))),
    )


def _quantile(times: Sequence[float], share: float) -> float | None:
    """By the nearest rank."""
    if not times:
        return None
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
