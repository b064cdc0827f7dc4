"""Finding records in an audit log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from os import SEEK_END
from pathlib import Path
from typing import Any

from vestibule.audit.chain import decode
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.audit.files import all_files


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """All given conditions must hold; patterns have ``*`` and ``?``."""

    since: datetime | None = None
    until: datetime | None = None
    actor: str = "*"
    action: str = "*"
    subject: str = "*"
    outcome: str = "*"

    def admits(self, record: dict[str, Any]) -> bool:
        """Whether ``record`` is asked for."""
        if any(
            not fnmatchcase(str(record[name]), getattr(self, name))
            for name in ("actor", "action", "subject", "outcome")
        ):
            return False
        if self.since is None and self.until is None:
            return True
        at = datetime.fromisoformat(record["time"])
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)


def records(path: Path, wanted: RecordFilter | None = None) -> Iterator[dict[str, Any]]:
    """The records of a log, through all of its files, oldest first.  Whether they are whole is ``verify``'s to say.

    Raises: VST8100 when it can not be read.
    """
    wanted = wanted or RecordFilter()
    try:
        for file in all_files(path):
            with file.open("rb") as lines:
                for line in lines:
                    record = decode(line.removesuffix(b"\n"))
                    if record is not None and wanted.admits(record):
                        yield record
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{path} can not be read: {error.strerror}") from error


def latest(path: Path, wanted: RecordFilter, most: int) -> Iterator[dict[str, Any]]:
    """The records among the last ``most`` bytes of a log, newest file first.  Raises: VST8100."""
    try:
        for file in reversed(all_files(path)):
            with file.open("rb") as lines:
                size = lines.seek(0, SEEK_END)
                lines.seek(max(0, size - most))
                # Of the first line there may be only the end, which is no record.
                found = (decode(line.removesuffix(b"\n")) for line in lines)
                yield from (record for record in found if record is not None and wanted.admits(record))
            if (most := most - size) <= 0:
                return
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{path} can not be read: {error.strerror}") from error
