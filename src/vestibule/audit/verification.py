"""Checking an audit log from its first record to its last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vestibule.audit.chain import Link, accounts_for, decode, follows
from vestibule.audit.codes import AUDIT_UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was found.

    ``records`` is how many are whole and in their place, ``last_hash`` the hash of the last of these: compare
    it with one noted elsewhere, for nobody can see from a log alone that its end was cut off or that it was
    written anew from some point on.  ``torn`` counts unfinished lines that crashes left and that are accounted for;
    ``unfinished`` says that the log ends in the middle of a line, as it may while it is being written or after a
    crash.  ``problem`` says what is wrong in ``line`` (from 1), the first one that is.
    """

    records: int
    last_hash: str
    torn: int = 0
    unfinished: bool = False
    problem: str = ""
    line: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing was changed, removed or inserted between the first record and the last."""
        return not self.problem


def verify(path: Path) -> AuditReport:
    """Read the log and check every link of its chain; in small memory, without stopping who writes to it.

    Raises: VST8100 when it can not be read.
    """
    try:
        with path.open("rb") as lines:
            return _verify(iter(lines))
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{path} can not be read: {error.strerror}") from error


def _verify(lines: Iterator[bytes]) -> AuditReport:
    link, torn, fragment = Link(), 0, b""
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return AuditReport(records=link.seq, last_hash=link.hash, torn=torn, unfinished=True)
        record = decode(line[:-1])
        if fragment:
            if record is None or not accounts_for(record, fragment):
                return _broken(
                    link, torn, number - 1, "the line is not a record, and no record accounts for it"
                )
            torn, fragment = torn + 1, b""
        if record is None:
            fragment = line[:-1] or b"\n"
        elif not follows(record, link):
            return _broken(link, torn, number, f"record {record['seq']} does not follow record {link.seq}")
        else:
            link = Link(seq=record["seq"], hash=record["hash"])
    if fragment:
        return _broken(link, torn, number, "the line is not a record, and no record accounts for it")
    return AuditReport(records=link.seq, last_hash=link.hash, torn=torn)


def _broken(link: Link, torn: int, line: int, problem: str) -> AuditReport:
    return AuditReport(records=link.seq, last_hash=link.hash, torn=torn, problem=problem, line=line)
