"""How far the database had come, kept outside of it: so that an older copy that is put back is noticed.

Whoever can change the database, this file and the audit log together can put back all three; the audit log's other
sinks, and other servers, then still know better.  What was written in the second before a stop may not be anchored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from vestibule.audit.files import all_files
from vestibule.keys.files import read_private, write_private, written

_MAX_BYTES: Final = 100
_MOST: Final = 2**63
_FILES: Final = 2
_MARK: Final = b'"generation":'


class Anchor(Protocol):
    """Remembers the highest generation of the database."""

    async def newest(self) -> int:
        """The generation that was reached for certain; 0 if nothing is known."""
        ...

    async def keep(self, generation: int) -> None:
        """This one is reached.  Raises: OSError."""
        ...


class FileAnchor:
    """``Anchor``: a small file, mode 0600, which does not belong on the disk of the database."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def newest(self) -> int:
        """What the file says; 0 if there is none, or it is not readable."""
        return await asyncio.to_thread(self._read)

    async def keep(self, generation: int) -> None:
        """Replace the file."""
        await written(lambda: write_private(self._path, f"{generation}\n".encode()))

    def _read(self) -> int:
        with suppress(OSError, ValueError):
            generation = int(read_private(self._path, _MAX_BYTES))
            return generation if 0 < generation < _MOST else 0
        return 0


class AuditAnchor:
    """``Anchor``: the newest record of the secret manager's in the audit log at ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def newest(self) -> int:
        """What the newest record says that names a generation, in the newest files."""
        return await asyncio.to_thread(self._read)

    async def keep(self, generation: int) -> None:
        """Records are made where something is done."""

    def _read(self) -> int:
        with suppress(OSError):
            for file in list(all_files(self._path))[: -_FILES - 1 : -1]:
                if (found := _newest(file)) is not None:
                    return found
        return 0


class Anchors:
    """``Anchor``: several, of which each alone is enough."""

    def __init__(self, anchors: Sequence[Anchor]) -> None:
        self._anchors = tuple(anchors)

    async def newest(self) -> int:
        """The highest of what they say."""
        return max([0, *[await each.newest() for each in self._anchors]])

    async def keep(self, generation: int) -> None:
        """All of them keep it."""
        for each in self._anchors:
            await each.keep(generation)


def _newest(file: Path) -> int | None:
    found: int | None = None
    with file.open("rb") as lines:
        for line in lines:
            if _MARK in line and b'"action":"secrets.' in line:
                found = _generation(line) or found
    return found


def _generation(line: bytes) -> int | None:
    with suppress(ValueError, KeyError, TypeError):
        generation = json.loads(line)["details"]["generation"]
        return generation if isinstance(generation, int) else None
    return None
