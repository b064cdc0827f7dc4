"""Requests per edge, counted from the agent's access log as it grows."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.observe.access_log import Edge
from vestibule.observe.access_record import AccessRecord, Direction, Verdict

MOST_BYTES: Final = 4 * 1024 * 1024
"""How much is read per look; after a burst the counts follow within a few looks."""


class Traffic:
    """Reads what was appended since the last look, across one rotation of the file."""

    def __init__(self, path: Path, names: dict[str, str]) -> None:
        """``names`` are services by SPIFFE ID."""
        self._path = path
        self._names = names
        self._inode = 0
        self._offset = 0
        self.edges: Counter[Edge] = Counter()

    def look(self) -> None:
        """Count what is new."""
        try:
            inode = self._path.stat().st_ino
        except OSError:
            return
        if self._inode and inode != self._inode:
            # The file was turned over: what we have not read of it is in the first numbered one.
            self._read(self._path.with_name(f"{self._path.name}.1"))
            self._offset = 0
        self._inode = inode
        self._read(self._path)

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                file.seek(self._offset, os.SEEK_SET)
                data = file.read(MOST_BYTES)
        except OSError:
            return
        # The last line may still be being written.
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        for line in whole.splitlines():
            self._count(line)

    def _count(self, line: bytes) -> None:
        try:
            record = AccessRecord.from_json(line.decode("utf-8", "replace"))
        except VestibuleError:
            return
        if record.direction is Direction.INBOUND:
            source = record.source_spiffe_id
            self._add(self._names.get(source, source or "unknown"), record.reporter_service, record)
        elif record.verdict is not Verdict.ALLOWED:
            # What the caller's own proxy refused, or could not deliver, the callee never saw.
            self._add(record.reporter_service, record.destination_service or _called(record), record)

    def _add(self, source: str, destination: str, record: AccessRecord) -> None:
        self.edges[Edge(source, destination or "?", record.verdict.value)] += 1


def _called(record: AccessRecord) -> str:
    """What the app called its destination, where no route led to one."""
    return record.authority.partition(":")[0]
