"""Conditions at random, each with a reading in Python that shares nothing with CEL."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from tests.differential.naive import Reading

HEADERS: Final = {
    "x-tenant": ("a", "b", "acme", "acme-2", ""),
    "x-level": ("1", "7", "12", "x"),
}
"""What calls may carry."""


@dataclass(frozen=True, slots=True)
class Written:
    """A condition, what it says of a call, and the operators in it."""

    text: str
    reading: Reading
    operators: tuple[str, ...]


def written(random: Random) -> Written | None:
    """None until conditions are enforced."""
    del random
    return None
