"""A graph as a picture: Graphviz' DOT, or an SVG that needs no other program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from vestibule.observe.graph import Graph, Kind, Link, Node
from vestibule.observe.graph_layers import layers, passing

WIDTH: Final = 150
HEIGHT: Final = 44
ACROSS: Final = 320
DOWN: Final = 84
MARGIN: Final = 40

GOOD: Final = "#2e7d32"
BAD: Final = "#c62828"
SO_SO: Final = "#b26a00"
_FILL: Final = {Kind.SERVICE: "#e8f0fe", Kind.OUTSIDE: "#fff4e0", Kind.UNKNOWN: "#fde7e9"}
_LONGEST: Final = 20


def colour(link: Link) -> str:
    """Green where all goes well, red where every tenth call does not, amber between."""
    return GOOD if link.well == 1 else BAD if link.well < 0.9 else SO_SO


def label(link: Link) -> str:
    """What stands at a link: calls, how many did not go well, how long they took, whether they came in plain text."""
    parts = [f"{link.calls}"]
    if link.denied:
        parts.append(f"{link.denied} denied")
    if link.failed:
        parts.append(f"{link.failed} failed")
    if link.p95 is not None:
        parts.append(f"p95 {link.p95:.0f} ms")
    if link.plaintext:
        parts.append("plaintext")
    return ", ".join(parts)


def dot(graph: Graph) -> str:
    """For Graphviz."""
    lines = [
        "digraph mesh {",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    lines += [f'  {_quoted(each.name)} [fillcolor="{_FILL[each.kind]}"];' for each in graph.nodes]
    for link in graph.links:
        style = ', style="dashed"' if link.plaintext else ""
        lines.append(
            f"  {_quoted(link.source)} -> {_quoted(link.destination)} "
            f'[label={_quoted(label(link))}, color="{colour(link)}"{style}];'
        )
    return "\n".join([*lines, "}", ""])


def svg(graph: Graph) -> str:
    """Complete, without scripts, styles or anything fetched from elsewhere."""
    columns = layers(graph)
    tallest = max(map(len, columns), default=1)
    place = {
        name: (MARGIN + column * ACROSS, MARGIN + 20 + int((row + (tallest - len(names)) / 2) * DOWN))
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    width = 2 * MARGIN + max(0, len(columns) - 1) * ACROSS + WIDTH
    height = 2 * MARGIN + 20 + (tallest - 1) * DOWN + HEIGHT
    ways = [_way(link, place) for link in graph.links]
    body = [
        *(_line(link, way) for link, way in zip(graph.links, ways, strict=True)),
        *(_box(node, place[node.name]) for node in graph.nodes),
        *(_words(link, way) for link, way in zip(graph.links, ways, strict=True)),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="#555555"/></marker></defs>',
            *body,
            "</svg>",
            "",
        ]
    )


def _box(node: Node, place: tuple[int, int]) -> str:
    x, y = place
    return (
        f"<g><title>{escape(node.name)} ({node.kind.value})</title>"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{_FILL[node.kind]}" stroke="#5f6b7a"/>'
        f'<text x="{x + WIDTH // 2}" y="{y + HEIGHT // 2 + 5}" text-anchor="middle" font-size="14">'
        f"{escape(_short(node.name))}</text></g>"
    )


def _line(link: Link, way: _Way) -> str:
    dashes = ' stroke-dasharray="6 4"' if link.plaintext else ""
    return (
        f"<g><title>{escape(f'{link.source} → {link.destination}: {label(link)}')}</title>"
        f'<path d={quoteattr(way.path)} fill="none" stroke="{colour(link)}" stroke-width="2"{dashes} '
        'marker-end="url(#tip)"/></g>'
    )


def _words(link: Link, way: _Way) -> str:
    return (
        f'<text x="{way.x}" y="{way.y}" text-anchor="middle" font-size="11" fill="#333333" stroke="#ffffff" '
        f'stroke-width="3" paint-order="stroke">{escape(label(link))}</text>'
    )


@dataclass(frozen=True, slots=True)
class _Way:
    """How a link runs, and the middle of its words."""

    path: str
    x: int
    y: int


def _way(link: Link, place: Mapping[str, tuple[int, int]]) -> _Way:
    """From a box's right side to the next one's left, through the gaps; back over the top where that lies behind it."""
    (left, top), end = place[link.source], place[link.destination]
    if end[0] <= left:
        x1, x2 = left + WIDTH * 2 // 3, end[0] + WIDTH // 3
        peak = min(top, end[1]) - 36
        return _Way(f"M{x1},{top} C{x1},{peak} {x2},{peak} {x2},{end[1]}", (x1 + x2) // 2, peak + 4)
    x, y = left + WIDTH, top + HEIGHT // 2
    path = f"M{x},{y}"
    words = (x, y)
    for column in range((left - MARGIN) // ACROSS + 1, (end[0] - MARGIN) // ACROSS + 1):
        passed = place.get(passing(link, column))
        to_x, to_y = passed or end
        to_y += HEIGHT // 2
        bend = (to_x - x) // 2
        path += f" C{x + bend},{y} {to_x - bend},{to_y} {to_x},{to_y}"
        words = ((x + to_x) // 2, (y + to_y) // 2 - 6)
        x, y = to_x, to_y
        if passed:
            x += WIDTH
            path += f" L{x},{y}"
    return _Way(path, *words)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _quoted(text: str) -> str:
    inside = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inside}"'
