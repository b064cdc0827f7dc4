"""The files of one audit log: the one that grows, and those that it was before.

A full file is renamed to ``audit.jsonl.NNNNNNNNNNNN``, after its last record's number; the chain goes on in a new one
as if nothing had happened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

DIGITS: Final = 12


def segment_path(path: Path, last: int) -> Path:
    """What the file at ``path`` is called once it ends with record ``last``."""
    return path.with_name(f"{path.name}.{last:0{DIGITS}}")


def last_of(segment: Path) -> int:
    """The number of the last record in a former file."""
    return int(segment.name.rpartition(".")[2])


def segments(path: Path) -> Sequence[Path]:
    """The former files, oldest first.  Raises: OSError."""
    pattern = re.compile(rf"{re.escape(path.name)}\.[0-9]{{{DIGITS},}}")
    try:
        found = [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]
    except FileNotFoundError:
        return ()
    return sorted(found, key=last_of)


def all_files(path: Path) -> Sequence[Path]:
    """All files of the log in their order; the last one need not be there, if a crash came while it was renamed."""
    former = segments(path)
    return (*former, path) if path.exists() or not former else former
