"""Trees as plain values, as they are written again."""

from __future__ import annotations

from typing import Any

from vestibule.intent.nodes import Broken, Kind, Mapping, Node, Scalar, Sequence


def value_of(node: Node | None) -> Any:
    """What a tree says, without its places; None for nothing, and for what was refused."""
    match node:
        case Mapping(entries=entries):
            return {name.text: value_of(each) for name, each in entries}
        case Sequence(items=items):
            return [value_of(each) for each in items]
        case Scalar(text=text, kind=kind):
            return _scalar(text, kind)
        case Broken() | None:
            return None


def _scalar(text: str, kind: Kind) -> Any:
    match kind:
        case Kind.INTEGER:
            return int(text)
        case Kind.NUMBER:
            return float(text)
        case Kind.BOOLEAN:
            return text.lower() == "true"
        case Kind.NULL:
            return None
        case Kind.TEXT:
            return text
