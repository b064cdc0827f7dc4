"""Texts that commands are given, and leave behind, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from vestibule.cli.codes import USAGE

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of a file that is read."""


def read_text(path: Path) -> str:
    """Raises: VST9100."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise USAGE.error(
            f"cannot read {path}: {error.strerror}", advice="Check its name and rights."
        ) from error
    if len(data) > MOST_BYTES:
        raise USAGE.error(f"{path} is larger than {MOST_BYTES // 2**20} MB", advice="Name another file.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise USAGE.error(f"{path} is no text", advice="Name another file.") from error


def write_text(path: Path, text: str) -> None:
    """Raises: VST9100."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise USAGE.error(
            f"cannot write {path}: {error.strerror}", advice="Check directory and space."
        ) from error
