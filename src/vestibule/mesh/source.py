"""Where the intent comes from: what every source offers, and what was read from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from vestibule.intent import Intent, Problem
from vestibule.mesh.revision import Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitInfo:
    """The commit an intent was read from.  ``signed_by`` is the allowed key's name, None where none is asked for."""

    id: str
    author: str
    subject: str
    committed_at: datetime
    signed_by: str | None = None

    @property
    def short(self) -> str:
        """As people and versions name it."""
        return self.id[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What was read: the last good intent with its files, when it was taken up, and the problems as they are now.

    ``files`` and ``commit`` are those that ``intent`` was read from, never those of a newer one with problems;
    ``commit`` is None where the source is no Git repository; ``head`` is the newest commit of one, whether taken up
    or not.
    """

    intent: Intent | None = None
    loaded_at: datetime | None = None
    problems: tuple[Problem, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}), repr=False, hash=False)
    commit: CommitInfo | None = None
    head: str | None = None


class Source(Protocol):
    """Keeps the last good intent.  ``revision`` grows when the intent changes, not when only problems do."""

    @property
    def revision(self) -> Revision: ...

    @property
    def reading(self) -> Reading:
        """What is known now."""
        ...

    @property
    def place(self) -> str:
        """The directory or URL, as it may be shown to anybody."""
        ...

    async def load(self) -> Reading:
        """Read once, now.  What is wrong comes back as problems."""
        ...

    async def run(self) -> None:
        """Follow it."""
        ...
