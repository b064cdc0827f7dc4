"""The fields of a serialised message, without reading what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_MORE: Final = 0x80
_LONGEST: Final = 10
"""Bytes of a varint."""


class Field(NamedTuple):
    """One field: its number, where it starts, where its value starts, and where both end."""

    number: int
    start: int
    value: int
    end: int


def fields(body: bytes) -> Iterator[Field]:
    """Every field of a message, in the order of the bytes.

    Raises: ValueError for what is no message, or has groups, which nobody writes any more.
    """
    at, size = 0, len(body)
    while at < size:
        start, tag = at, body[at]
        # Most have small numbers.
        tag, at = (tag, at + 1) if tag < _MORE else _varint(body, at)
        kind, value = tag & 7, at
        if kind == _LENGTH:
            length, value = _varint(body, at)
            at = value + length
        elif kind == _VARINT:
            _, at = _varint(body, at)
        elif kind in _SIZES:
            at += _SIZES[kind]
        else:
            raise ValueError(f"there is no wire type {kind}")
        if at > size:
            raise ValueError("a field is cut short")
        yield Field(tag >> 3, start, value, at)


def _varint(body: bytes, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    found = shift = 0
    for byte in body[at : at + _LONGEST]:
        at += 1
        if byte < _MORE:
            return found | byte << shift, at
        found |= (byte - _MORE) << shift
        shift += 7
    raise ValueError("a number has no end")
