"""Keys of which one must stand, or only one may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vestibule.intent import codes
from vestibule.intent.nodes import Position
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import Fields, Key


def exactly_one(
    fields: Fields, keys: Sequence[Key[Any]], at: Position, findings: Findings, what: str
) -> bool:
    """Whether one of these keys is written and no second one; else a problem is noted."""
    written = sorted((place, key.name) for key in keys if (place := fields.place(key)))
    if len(written) > 1:
        message = f"{what} has {written[0][1]} and {written[1][1]}, which exclude each other"
        findings.add(codes.EXCLUSIVE_KEYS, message, written[1][0])
        return False
    return at_least_one(fields, keys, at, findings, what)


def at_least_one(
    fields: Fields, keys: Sequence[Key[Any]], at: Position, findings: Findings, what: str
) -> bool:
    """Whether any of these keys is written; else a problem is noted."""
    if any(fields.place(key) for key in keys):
        return True
    names = ", ".join(key.name for key in keys)
    findings.add(codes.MISSING_KEY, f"{what} says nothing", at, advice=f"Write one of {names}.")
    return False
