"""Reading JSON that somebody else wrote: strict, bounded, and one meaning only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def json_object(data: bytes | str) -> dict[str, Any]:
    """The object in ``data``.  Raises: ValueError for anything else, and for a key that stands in it twice."""
    try:
        found = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - one kind of error for all bad input
    return found


def text_at(document: Any, *path: str) -> str:
    """The text at a path of keys, "" where there is none, or something else than text."""
    found = at(document, *path)
    return found if isinstance(found, str) else ""


def at(document: Any, *path: str) -> Any:
    """What stands at a path of keys; ``None`` where there is nothing."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document


def objects_at(document: Any, *path: str) -> Iterator[Mapping[str, Any]]:
    """The objects in the list at a path of keys."""
    found = at(document, *path)
    if isinstance(found, Sequence) and not isinstance(found, str):
        yield from (each for each in found if isinstance(each, Mapping))


def texts_at(document: Any, *path: str) -> list[str]:
    """The texts in the list at a path of keys."""
    found = at(document, *path)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def labels_at(document: Any, *path: str) -> dict[str, str]:
    """The text values of the object at a path of keys."""
    found = at(document, *path)
    if not isinstance(found, Mapping):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
