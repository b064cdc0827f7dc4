"""Checking an audit log from its first record to its last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.audit.chain import Link, accounts_for, decode, discards, follows
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.audit.files import all_files


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was found.

    ``records`` is how many are whole and in their place, ``last_hash`` the hash of the last of these: compare
    it with one noted elsewhere, for nobody can see from a log alone that its end was cut off or that it was
    written anew from some point on.  ``torn`` counts unfinished lines that crashes left and that are accounted for;
    ``unfinished`` says that the log ends in the middle of a line, as it may while it is being written or after a
    crash.  ``problem`` says what is wrong in ``line`` (from 1) of ``file``, the first one that is.
    ``first`` is the number of the first record that is still there, ``last_seq`` that of the last.
    """

    records: int
    last_hash: str
    torn: int = 0
    unfinished: bool = False
    problem: str = ""
    line: int | None = None
    file: Path | None = None
    first: int = 1
    last_seq: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing was changed, removed or inserted between the first record and the last."""
        return not self.problem


def verify(path: Path, anchor: Link | None = None) -> AuditReport:
    """Read the log, through all of its files, and check every link of its chain; in small memory, without stopping
    who writes to it.

    An ``anchor`` is the end that the log once had, noted elsewhere: it must still be in it.  Where old files were
    removed, the log begins later than with its first record; a record in it has to say so.
    Raises: VST8100 when it can not be read.
    """
    walk = _Walk(anchor)
    try:
        for file in all_files(path):
            walk.begin(file)
            with file.open("rb") as lines:
                for line in lines:
                    if not walk.take(line):
                        return walk.report()
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{path} can not be read: {error.strerror}") from error
    return walk.end()


class _Walk:
    """The state of one reading."""

    def __init__(self, anchor: Link | None) -> None:
        self._anchor = anchor
        self._file = Path()
        self._line = 0
        self._link = Link()
        self._begun = False
        self._missing: Link | None = None
        self._torn = 0
        self._fragment = b""
        self._unfinished = False
        self._first = 1
        self._met = anchor is None or anchor == Link()
        self._problem = ""

    def begin(self, file: Path) -> None:
        """The next file."""
        self._file, self._line = file, 0

    def take(self, line: bytes) -> bool:
        """The next line; false if the reading is over."""
        self._line += 1
        if not line.endswith(b"\n"):
            self._unfinished = True
            return True  # it is the last one
        record = decode(line[:-1])
        if self._fragment:
            if record is None or not accounts_for(record, self._fragment):
                self._line -= 1
                return self._broken(_NO_RECORD)
            self._torn, self._fragment = self._torn + 1, b""
        if record is None:
            self._fragment = line[:-1] or b"\n"
            return True
        return self._next(record)

    def _next(self, record: dict[str, Any]) -> bool:
        if not self._begun and record["seq"] > 1:
            # Either somebody removed the beginning, or we did; then a record further on says so.
            self._first = record["seq"]
            self._link = self._missing = Link(seq=record["seq"] - 1, hash=record["prev"])
            self._met = self._met or self._anchor == self._link
        self._begun = True
        if not follows(record, self._link):
            return self._broken(f"record {record['seq']} does not follow record {self._link.seq}")
        self._link = Link(seq=record["seq"], hash=record["hash"])
        if self._missing is not None and discards(record, self._missing):
            self._missing = None
        if self._anchor is not None and self._anchor.seq == self._link.seq:
            self._met = self._anchor == self._link
        return True

    def _broken(self, problem: str) -> bool:
        self._problem = problem
        return False

    def end(self) -> AuditReport:
        """All was read."""
        if self._fragment:
            self._broken(_NO_RECORD)
        elif self._missing is not None:
            self._broken(f"the records up to {self._missing.seq} are gone, and no record accounts for that")
        elif not self._met:
            assert self._anchor is not None
            self._broken(
                f"record {self._anchor.seq} is not the one of the anchor: the log was cut off or written anew"
            )
        return self.report()

    def report(self) -> AuditReport:
        """What was found so far."""
        problem = self._problem
        return AuditReport(
            records=self._link.seq - self._first + 1,
            first=self._first,
            last_seq=self._link.seq,
            last_hash=self._link.hash,
            torn=self._torn,
            unfinished=self._unfinished and not problem,
            problem=problem,
            line=self._line if problem else None,
            file=self._file if problem else None,
        )


_NO_RECORD: Final = "the line is not a record, and no record accounts for it"
