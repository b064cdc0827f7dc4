"""Checking a log against the checkpoints that were signed of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from vestibule.audit import checkpoints
from vestibule.audit.chain import decode
from vestibule.audit.checkpointing import read_leaves
from vestibule.audit.checkpoints import LEAVES, SUFFIX, Checkpoint
from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.audit.files import all_files
from vestibule.audit.merkle import Edge, leaf_hash
from vestibule.audit.notes import NoteVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReport:
    """What was found.

    ``checkpoints`` is how many were checked, ``covered`` how many records the newest is of, ``at`` when that was made.
    ``problem`` is the first thing that is wrong.
    """

    checkpoints: int = 0
    covered: int = 0
    at: datetime | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether all that was signed is still there, unchanged."""
        return not self.problem


def verify_signed(log: Path, verifier: NoteVerifier, kept: Sequence[Checkpoint] = ()) -> SignedReport:
    """Check every record that is there, and every checkpoint: those beside the log, and those ``kept`` elsewhere.

    1. Each checkpoint is signed by that key.  2. Each record's line has the hash that the tree has in its place.
    3. The tree has the roots that were signed.  4. It has as many leaves as were signed.
    Raises: VST8100 when something can not be read.
    """
    known = [*checkpoints.read(log.with_name(f"{log.name}{SUFFIX}")), *kept]
    for each in known:
        if not each.is_by(verifier):
            return SignedReport(problem=f"the checkpoint of {each.size} records is not signed by that key")
    if not known:
        return SignedReport(problem="there is no checkpoint")
    newest = max(known, key=lambda each: each.size)
    try:
        leaves = read_leaves(log.with_name(f"{log.name}{LEAVES}"))
        problem = _records(log, leaves, newest.size) or _roots(leaves, known)
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{log} can not be read: {error.strerror}") from error
    return SignedReport(checkpoints=len(known), covered=newest.size, at=newest.at, problem=problem)


def _records(log: Path, leaves: Sequence[bytes], signed: int) -> str:
    """What is wrong with a record that was signed; empty if nothing is."""
    last = 0
    for file in all_files(log):
        with file.open("rb") as lines:
            for each in lines:
                line = each.removesuffix(b"\n")
                if (record := decode(line)) is None:
                    continue
                last = record["seq"]
                if last <= min(signed, len(leaves)) and leaves[last - 1] != leaf_hash(line):
                    return f"record {last} is not the one that was signed"
    return f"the log ends with record {last}, but {signed} were signed" if last < signed else ""


def _roots(leaves: Sequence[bytes], known: Sequence[Checkpoint]) -> str:
    """What is wrong with the tree; empty if nothing is."""
    signed: dict[int, set[bytes]] = {}
    for each in known:
        signed.setdefault(each.size, set()).add(each.root)
    edge, largest = Edge(), max(signed)
    if largest > len(leaves):
        return f"there are hashes of {len(leaves)} records, but {largest} were signed"
    for size, leaf in enumerate(leaves[:largest], 1):
        edge.append(leaf)
        if size in signed and signed[size] != {edge.root}:
            return f"the first {size} records are not those that were signed"
    return ""
