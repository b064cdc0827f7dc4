"""What the secret manager keeps: rows that only it can read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Place: TypeAlias = tuple[str, str]
"""A space and a key in it: what a row is known by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRow:
    """One encrypted value.

    ``revision`` is the number of the change that wrote it; numbers grow over the whole database and are never used
    again.  ``key_id`` says which key of the keyring sealed ``body``; 0: none of them.
    """

    space: str
    key: str
    revision: int
    key_id: int
    body: bytes = field(repr=False)

    @property
    def place(self) -> Place:
        """What it is known by."""
        return self.space, self.key
