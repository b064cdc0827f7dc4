"""Checkpoints (C2SP tlog-checkpoint): what the log was at an instant, signed, in four lines.

    vestibule.audit/example.org/3f9c…      the log: its trust domain, and the server's own name
    1234                                   how many records it has
    qk6T…=                                 the root of the Merkle tree over their lines (RFC 6962)
    time 2026-11-22T17:00:00+00:00         when

    — vestibule.audit/example.org/3f9c… …  by whose key

Who keeps a checkpoint elsewhere can show later that records were changed or cut off, even by one who can write
everything on the server but has not the key; and can have single records proven without seeing the others.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.audit.notes import NoteSigner, NoteVerifier

SUFFIX: Final = ".checkpoints"
LEAVES: Final = ".leaves"
"""What the files beside a log are called: its checkpoints, and the hashes of its records' lines, 32 bytes each."""

_NOTE: Final = re.compile(r"((?:[^\n—][^\n]*\n)+)\n((?:— [^\n]+\n)+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log was: ``size`` records, under ``root``.  ``note`` is what was signed, ``signatures`` by whom."""

    origin: str
    size: int
    root: bytes
    at: datetime | None
    note: str
    signatures: str

    def is_by(self, verifier: NoteVerifier) -> bool:
        """Whether that key has signed it, for the log that the key is named for."""
        return self.origin == verifier.name and verifier.has_signed(self.note, self.signatures)

    def __str__(self) -> str:
        return f"{self.note}\n{self.signatures}"


def made(signer: NoteSigner, size: int, root: bytes, at: datetime) -> Checkpoint:
    """A checkpoint, signed."""
    note = f"{signer.name}\n{size}\n{b64encode(root).decode()}\ntime {at.isoformat(timespec='seconds')}\n"
    return Checkpoint(
        origin=signer.name, size=size, root=root, at=at, note=note, signatures=signer.sign(note)
    )


def parsed(text: str) -> list[Checkpoint]:
    """The checkpoints in a text, in its order.  What is none, is passed over: an unfinished one at the end, say."""
    return list(_parsed(text))


def read(path: Path) -> list[Checkpoint]:
    """The checkpoints in a file; none where it is not there.  Raises: VST8100."""
    try:
        return parsed(path.read_text("utf-8", "replace"))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise AUDIT_UNAVAILABLE.error(f"{path} can not be read: {error.strerror}") from error


def _parsed(text: str) -> Iterator[Checkpoint]:
    for note, signatures in _NOTE.findall(text):
        lines = note.splitlines()
        if len(lines) < 3 or not re.fullmatch("0|[1-9][0-9]{0,17}", lines[1]):
            continue
        try:
            root = b64decode(lines[2], validate=True)
        except binascii.Error:
            continue
        if len(root) == 32:
            yield Checkpoint(
                origin=lines[0],
                size=int(lines[1]),
                root=root,
                at=_time(lines[3:]),
                note=note,
                signatures=signatures,
            )


def _time(lines: list[str]) -> datetime | None:
    for line in lines:
        if line.startswith("time "):
            try:
                return datetime.fromisoformat(line[5:])
            except ValueError:
                return None
    return None
