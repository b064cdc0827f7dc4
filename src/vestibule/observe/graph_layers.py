"""In which column and row each node of a graph stands, so that calls run from left to right and cross seldom."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from vestibule.observe.graph import Graph, Link

_SWEEPS: Final = 4


def layers(graph: Graph) -> list[list[str]]:
    """The names of the nodes, column by column; every node once.  The same graph has always the same answer.

    Where a link passes a column, it has a place of its own there, with the name of ``passing``.
    """
    column = _columns(graph)
    found: list[list[str]] = [[] for _ in range(max(column.values(), default=-1) + 1)]
    for node in graph.nodes:
        found[column[node.name]].append(node.name)
    near: defaultdict[str, set[str]] = defaultdict(set)
    for link in graph.links:
        way = [link.source, *_passed(link, column), link.destination]
        for place, name in enumerate(way[1:-1], start=column[link.source] + 1):
            found[place].append(name)
        for one, other in pairwise(way):
            near[one].add(other)
            near[other].add(one)
    for sweep in range(_SWEEPS):
        order = range(1, len(found)) if sweep % 2 == 0 else range(len(found) - 2, -1, -1)
        for place in order:
            beside = found[place - 1] if sweep % 2 == 0 else found[place + 1]
            rank = {name: row for row, name in enumerate(beside)}
            found[place].sort(key=lambda name: (_middle(near[name], rank), name))
    return found


def passing(link: Link, column: int) -> str:
    """The place of a link in a column between its ends; no node is called so."""
    return f"{link.source}\0{link.destination}\0{column}"


def _passed(link: Link, column: dict[str, int]) -> Iterator[str]:
    return (passing(link, each) for each in range(column[link.source] + 1, column[link.destination]))


def _columns(graph: Graph) -> dict[str, int]:
    """Callers before callees; calls that lead back in a circle do not count."""
    callees: defaultdict[str, list[str]] = defaultdict(list)
    for link in graph.links:
        callees[link.source].append(link.destination)
    forward: list[tuple[str, str]] = []
    done: set[str] = set()
    called = {link.destination for link in graph.links if link.destination != link.source}
    # Those whom nobody calls begin; what is left then are circles.
    starts = [each.name for each in graph.nodes if each.name not in called] + [
        each.name for each in graph.nodes
    ]
    order: list[str] = []
    for start in starts:
        if start not in done:
            _walk(start, callees, done, forward, order)
    column = {each.name: 0 for each in graph.nodes}
    incoming: defaultdict[str, list[str]] = defaultdict(list)
    for source, destination in forward:
        incoming[destination].append(source)
    for name in reversed(order):
        column[name] = max((column[each] + 1 for each in incoming[name]), default=0)
    return column


def _walk(
    start: str,
    callees: dict[str, list[str]],
    done: set[str],
    forward: list[tuple[str, str]],
    order: list[str],
) -> None:
    """Depth first, without recursion: graphs may be long chains."""
    path: list[tuple[str, list[str]]] = [(start, sorted(set(callees.get(start, ()))))]
    on_path = {start}
    done.add(start)
    while path:
        name, left = path[-1]
        if not left:
            path.pop()
            on_path.discard(name)
            order.append(name)
            continue
        callee = left.pop(0)
        if callee in on_path:
            continue
        forward.append((name, callee))
        if callee not in done:
            done.add(callee)
            on_path.add(callee)
            path.append((callee, sorted(set(callees.get(callee, ())))))


def _middle(names: set[str], rank: dict[str, int]) -> float:
    rows = [rank[name] for name in names if name in rank]
    return sum(rows) / len(rows) if rows else len(rank) / 2
