"""The head: one sealed row that every change rewrites, and that says what all the other rows together must be.

Each row alone is tied to its place and revision, but nothing in it tells whether it is still the latest, or whether
another one is missing.  For that the head keeps, for each space, how many rows there are and the sum, modulo 2^256, of
a keyed hash (HMAC-SHA256) of each row's key and revision.  A change subtracts what it replaces and adds what it writes,
so the sum costs the same however much is kept; adding all rows up again (``Barrier.verify``) must give the same.
(A multiset hash: Clarke et al., "Incremental Multiset Hash Functions", ASIACRYPT 2003, MSet-Add-Hash; both the
key of the hash and the sum are secret, the latter because the head is encrypted.)
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from vestibule.secrets.keyring import bound

_MODULUS: Final = 2**256


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows there are in a space, and the sum of their hashes."""

    count: int = 0
    sum: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """``generation`` is the number of the last change, ``sealed`` how many values the active data key has sealed."""

    generation: int
    sealed: int
    spaces: Mapping[str, Tally] = field(default_factory=dict)

    def encode(self) -> bytes:
        """As a text that ``decode`` reads."""
        spaces = {space: [tally.count, f"{tally.sum:x}"] for space, tally in self.spaces.items()}
        return json.dumps([self.generation, self.sealed, spaces]).encode()

    @classmethod
    def decode(cls, encoded: bytes) -> Head:
        """What ``encode`` made; it was authenticated before, so what is malformed is a bug."""
        generation, sealed, spaces = json.loads(encoded)
        tallies = {space: Tally(count, int(total, 16)) for space, (count, total) in spaces.items()}
        return cls(generation=generation, sealed=sealed, spaces=tallies)


class Tallies:
    """The tallies of a head while they change."""

    def __init__(self, key: bytes, spaces: Mapping[str, Tally] | None = None) -> None:
        """``key`` is that of the hash, and a secret."""
        self._key = key
        self._spaces = dict(spaces or {})

    def add(self, space: str, key: str, revision: int) -> None:
        """A row is there."""
        self._count(space, 1, self._hash(space, key, revision))

    def remove(self, space: str, key: str, revision: int) -> None:
        """A row is no longer there."""
        self._count(space, -1, -self._hash(space, key, revision))

    def result(self) -> dict[str, Tally]:
        """The tallies of all spaces that have rows, or should have."""
        return {space: tally for space, tally in self._spaces.items() if tally != Tally()}

    def _count(self, space: str, number: int, amount: int) -> None:
        tally = self._spaces.get(space, Tally())
        self._spaces[space] = Tally(tally.count + number, (tally.sum + amount) % _MODULUS)

    def _hash(self, space: str, key: str, revision: int) -> int:
        return int.from_bytes(hmac.digest(self._key, bound(space, key, revision), "sha256"), "big")


def differing(stored: Mapping[str, Tally], counted: Mapping[str, Tally]) -> list[str]:
    """The spaces in which rows are missing, too many, or of another revision."""
    spaces: Iterable[str] = stored.keys() | counted.keys()
    return sorted(space for space in spaces if stored.get(space) != counted.get(space))
