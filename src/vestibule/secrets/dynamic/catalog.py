"""Where databases, roles and static roles are kept: behind the barrier, static roles also under when they are due."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Generic, TypeVar

from vestibule.secrets.dynamic.codes import MALFORMED_DATABASE
from vestibule.secrets.dynamic.records import (
    Database,
    Role,
    StaticRole,
    decode_database,
    decode_role,
    decode_static_role,
    encode_database,
    encode_role,
    encode_static_role,
)
from vestibule.store.barrier import Barrier, Change, Put, Remove

SPACE: Final = "database"
PAGE: Final = 1000
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept(Generic[T]):
    """What is kept, and its revision."""

    value: T
    revision: int


class Shelf(Generic[T]):
    """Records of one kind, by name.  Methods raise VST5000 while sealed, and errors of the store."""

    def __init__(
        self,
        barrier: Barrier,
        kind: str,
        encode: Callable[[T], bytes],
        decode: Callable[[bytes], T],
        due: Callable[[T], datetime] | None = None,
    ) -> None:
        self._barrier = barrier
        self._kind = kind
        self._encode = encode
        self._decode = decode
        self._due = due

    async def get(self, name: str) -> Kept[T] | None:
        """The record of this name.  Raises: VST5410 for what is no name."""
        item = await self._barrier.get(SPACE, f"{self._kind}/{checked(name)}")
        return Kept(self._decode(item.value), item.revision) if item else None

    async def put(self, name: str, value: T, before: Kept[T] | None) -> Kept[T]:
        """Keep it in the place of ``before``.  Raises: VST5001 when that is not what is kept."""
        changes: list[Change] = [
            Put(
                space=SPACE,
                key=f"{self._kind}/{checked(name)}",
                value=self._encode(value),
                expected=before.revision if before else 0,
            )
        ]
        old = self._marks(name, before.value) if before else set()
        new = self._marks(name, value)
        changes += [Remove(space=SPACE, key=each) for each in old - new]
        changes += [Put(space=SPACE, key=each, value=b"1") for each in new - old]
        revision, *_ = await self._barrier.apply(changes)
        return Kept(value, revision)

    async def remove(self, name: str, kept: Kept[T]) -> None:
        """Forget it.  Raises: VST5001 when it was changed meanwhile."""
        changes: list[Change] = [
            Remove(space=SPACE, key=f"{self._kind}/{checked(name)}", expected=kept.revision)
        ]
        changes += [Remove(space=SPACE, key=each) for each in self._marks(name, kept.value)]
        await self._barrier.apply(changes)

    async def names(self) -> list[str]:
        """All names, in order."""
        prefix, found = f"{self._kind}/", list[str]()
        while page := await self._barrier.keys(
            SPACE, prefix, after=prefix + found[-1] if found else "", limit=PAGE
        ):
            found += [each.removeprefix(prefix) for each in page]
        return found

    async def due(self, limit: int) -> list[tuple[datetime, str]]:
        """When something is to be done, and the name: the most urgent ones first."""
        keys = await self._barrier.keys(SPACE, f"{self._kind}-due/", limit=limit)
        parts = (each.split("/", 2) for each in keys)
        return [(_EPOCH + timedelta(microseconds=int(at)), name) for _, at, name in parts]

    def _marks(self, name: str, value: T) -> set[str]:
        if self._due is None:
            return set()
        at = (self._due(value) - _EPOCH) // timedelta(microseconds=1)
        return {f"{self._kind}-due/{at:017}/{name}"}


class Catalog:
    """All that is configured."""

    def __init__(self, barrier: Barrier) -> None:
        self.barrier = barrier
        self.databases = Shelf[Database](barrier, "config", encode_database, decode_database)
        self.roles = Shelf[Role](barrier, "roles", encode_role, decode_role)
        self.static_roles = Shelf[StaticRole](
            barrier, "static-roles", encode_static_role, decode_static_role, lambda each: each.due
        )


def checked(name: str) -> str:
    """A name as it may stand in a path.  Raises: VST5410."""
    if not _NAME.fullmatch(name):
        raise MALFORMED_DATABASE.error("a name consists of letters, digits, and . _ - between them")
    return name
