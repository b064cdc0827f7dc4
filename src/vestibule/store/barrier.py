"""Encrypted storage, by which secrets and the signing keys of tokens are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What is kept under one key.  ``value`` is a secret.

    ``revision`` is the number of the change that wrote it.  Numbers grow over all that is kept, and are never used
    again, not even for a key that was removed: they are no count of the key's own changes.
    """

    value: bytes
    revision: int

    def __repr__(self) -> str:
        return f"Item(revision={self.revision})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """Keep a value under a key.

    ``expected`` is the revision that must be there now: 0 for nothing, None for whatever there is.
    """

    space: str
    key: str
    value: bytes
    expected: int | None = None

    def __repr__(self) -> str:
        return f"Put(space={self.space!r}, key={self.key!r}, expected={self.expected})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Forget what is kept under a key; ``expected`` as for ``Put``.  Nothing there to forget is no error."""

    space: str
    key: str
    expected: int | None = None


Change: TypeAlias = Put | Remove


class Barrier(Protocol):
    """Encrypted storage.  A *space* belongs to one engine (``kv``, ``database``, …); a key is a path in it.

    Values are encrypted before they reach the database, and tied to space, key and revision.
    Every method but ``is_sealed`` raises VST5000 while sealed; and what the store raises (VST80nn).
    """

    @property
    def is_sealed(self) -> bool:
        """Whether nothing can be read now."""
        ...

    async def get(self, space: str, key: str) -> Item | None:
        """What is kept under ``key``."""
        ...

    async def keys(self, space: str, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        """Up to ``limit`` whole keys that begin with ``prefix``, in byte order, behind ``after``."""
        ...

    async def children(self, space: str, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
        """Up to ``limit`` next segments below ``prefix`` (empty, or ends with ``/``), in byte order.

        One with something below it ends with ``/``.  The cost grows with what is returned, not with what is kept.
        """
        ...

    async def apply(self, changes: Sequence[Change]) -> tuple[int, ...]:
        """Make all changes durably, or none; the revisions that are there now (0: removed).

        Raises: VST5001 when an expectation is not met.
        """
        ...

    def mac(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SHA256 under a key derived for ``purpose``, which lasts as long as what is kept."""
        ...
