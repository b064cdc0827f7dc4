"""Showing that one record is in a log, to somebody who sees no other: by the signed root and the way up to it."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.audit import checkpoints
from vestibule.audit.chain import decode
from vestibule.audit.checkpointing import read_leaves
from vestibule.audit.checkpoints import LEAVES, SUFFIX, Checkpoint
from vestibule.audit.codes import AUDIT_UNAVAILABLE, NOT_PROVABLE, PROOF_INVALID
from vestibule.audit.files import all_files, last_of
from vestibule.audit.merkle import includes, inclusion, leaf_hash, root_of
from vestibule.audit.notes import NoteVerifier

VERSION: Final = "vestibule.audit-proof/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A record's line, the nodes beside its way up (RFC 6962 section 2.1.1), and the checkpoint that it leads to."""

    line: str
    path: tuple[bytes, ...]
    checkpoint: Checkpoint

    @property
    def record(self) -> dict[str, Any]:
        """What the line says.  Raises: VST8104."""
        if (record := decode(self.line.encode())) is None:
            raise PROOF_INVALID.error("the line is not a record")
        return record

    def check(self, verifier: NoteVerifier) -> dict[str, Any]:
        """The record, if it is proven.  Raises: VST8104.

        1. The checkpoint is signed by that key.  2. The line is a record.  3. Its place is in the tree, under the root.
        """
        if not self.checkpoint.is_by(verifier):
            raise PROOF_INVALID.error(f"the checkpoint is not signed by {verifier.name} with that key")
        record = self.record
        leaf, index = leaf_hash(self.line.encode()), record["seq"] - 1
        if not includes(leaf, index, self.checkpoint.size, self.path, self.checkpoint.root):
            raise PROOF_INVALID.error(f"record {record['seq']} is not shown to be in the log")
        return record

    @property
    def document(self) -> dict[str, Any]:
        """As JSON carries it."""
        return {
            "version": VERSION,
            "record": self.line,
            "path": [b64encode(node).decode() for node in self.path],
            "checkpoint": str(self.checkpoint),
        }

    @classmethod
    def parse(cls, text: str) -> Proof:
        """From JSON.  Raises: VST8104."""
        try:
            document = json.loads(text)
            found = checkpoints.parsed(document["checkpoint"])
            path = tuple(b64decode(node, validate=True) for node in document["path"])
            line = document["record"]
        except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
            raise PROOF_INVALID.error("it is not the document of a proof") from None
        if len(found) != 1 or len(path) > 64 or not isinstance(line, str) or not line.isascii():
            raise PROOF_INVALID.error("it is not the document of a proof")
        return cls(line=line, path=path, checkpoint=found[0])


def prove(log: Path, number: int) -> Proof:
    """The proof of record ``number``.  Raises: VST8100, VST8103, VST8105."""
    try:
        line = _line(log, number)
        leaves = read_leaves(log.with_name(f"{log.name}{LEAVES}"))
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{log} can not be read: {error.strerror}") from error
    known = checkpoints.read(log.with_name(f"{log.name}{SUFFIX}"))
    checkpoint = next((each for each in reversed(known) if number <= each.size <= len(leaves)), None)
    if checkpoint is None:
        raise NOT_PROVABLE.error(f"no checkpoint includes record {number} yet")
    leaves = leaves[: checkpoint.size]
    path = tuple(inclusion(leaves, number - 1))
    if leaves[number - 1] != leaf_hash(line) or root_of(leaves) != checkpoint.root:
        raise PROOF_INVALID.error(f"record {number} is not what was signed: verify the log")
    return Proof(line=line.decode("ascii"), path=path, checkpoint=checkpoint)


def _line(log: Path, number: int) -> bytes:
    for file in all_files(log):
        if file != log and last_of(file) < number:
            continue
        with file.open("rb") as lines:
            for each in lines:
                line = each.removesuffix(b"\n")
                record = decode(line)
                if record is not None and record["seq"] == number:
                    return line
    raise NOT_PROVABLE.error(f"there is no record {number} in {log}")
