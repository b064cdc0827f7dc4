"""JSON from strangers: UTF-8, an object, no name twice, no constants that JSON does not have."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_object(document: bytes) -> dict[str, Any]:
    """Read one JSON object.  Raises: ValueError, which the caller turns into its own error."""
    try:
        parsed = json.loads(
            document.decode("utf-8"), object_pairs_hook=_each_name_once, parse_constant=_no_constants
        )
    except RecursionError as error:  # thousands of nested brackets
        raise ValueError("too deeply nested") from error
    if not isinstance(parsed, dict):
        raise ValueError("not an object")  # noqa: TRY004 - it is the document's value that is wrong
    return parsed


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(parsed := dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return parsed


def _no_constants(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
