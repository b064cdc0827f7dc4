"""What a secret holds: a JSON object; its text, merging and its shape without its values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from vestibule.secrets.versions.codes import MALFORMED_VALUE, VALUE_TOO_LARGE

Data: TypeAlias = Mapping[str, Any]
"""Names and values as JSON has them."""

LARGEST: Final = 1024 * 1024
"""Bytes of a secret's JSON text."""

DEEPEST: Final = 100
"""Levels of objects and lists."""

_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
)

_DECODER: Final = json.JSONDecoder()


def text_of(data: Data) -> bytes:
    """JSON text in UTF-8.  Raises: VST5101, VST5102."""
    _check_depth(data)
    try:
        text = _ENCODER.encode(data).encode()
    except (TypeError, ValueError):
        # No cause: its message may hold the value.
        raise MALFORMED_VALUE.error(
            "the secret holds a number that is not finite, or text that is not Unicode"
        ) from None
    if len(text) > LARGEST:
        raise VALUE_TOO_LARGE.error(
            f"the secret is {len(text):,} bytes of JSON; at most {LARGEST:,} are kept"
        )
    return text


def data_of(text: bytes) -> dict[str, Any]:
    """What ``text_of`` wrote."""
    # Decoded here, or json would first find out how it is encoded; and there are no spaces around it to look for.
    data: dict[str, Any] = _DECODER.raw_decode(text.decode())[0]
    return data


def merged(data: Data, patch: Data) -> dict[str, Any]:
    """``data`` with a JSON merge patch applied (RFC 7396): null removes, objects merge, all else replaces.

    Raises: VST5101 for a patch nested too deeply.
    """
    _check_depth(patch)
    return _merged(data, patch)


def _merged(data: Data, patch: Data) -> dict[str, Any]:
    result = dict(data)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            there = result.get(name)
            result[name] = _merged(there if isinstance(there, dict) else {}, value)
        else:
            result[name] = value
    return result


def shape(data: Data, depth: int = 0) -> dict[str, Any]:
    """``data`` with None for everything but the names; ``depth`` levels of them, 0 for all."""
    return {name: _inner_shape(value, depth) for name, value in data.items()}


def _inner_shape(value: object, depth: int) -> dict[str, Any] | None:
    if not isinstance(value, dict) or not value or depth == 1:
        return None
    return shape(value, depth and depth - 1)


def _check_depth(data: Data) -> None:
    level: list[Any] = [dict(data)]
    for _ in range(DEEPEST):
        inside = (inner for each in level for inner in (each.values() if isinstance(each, dict) else each))
        level = [each for each in inside if isinstance(each, dict | list)]
        if not level:
            return
    raise MALFORMED_VALUE.error(f"the secret is nested more than {DEEPEST} levels deep")
