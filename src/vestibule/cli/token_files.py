"""Tokens in files: read from one, written into a new one; they never stand on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from vestibule.cli.codes import USAGE
from vestibule.pki.jwt import MAX_TOKEN

_PLACE: Final = "Name a file in a directory that exists, where this user may write and where there is room."


def read_token(path: Path) -> str:
    """What stands in a file, or comes from standard input (``-``).  Raises: VST9100."""
    try:
        if str(path) == "-":
            return sys.stdin.read(MAX_TOKEN + 2).strip()
        with path.open(encoding="ascii") as file:
            return file.read(MAX_TOKEN + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise USAGE.error(f"cannot read a token from {path}: {error}", advice="Check the file.") from error


@contextmanager
def new_file(path: Path) -> Iterator[IO[str]]:
    """A file of mode 0600 that only stays if something came of it.  Raises: VST9100."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise USAGE.error(
            f"{path} exists already", advice="Name a new file, or remove this one first."
        ) from error
    except OSError as error:
        raise USAGE.error(f"{path} cannot be made: {error.strerror}", advice=_PLACE) from error
    try:
        with os.fdopen(descriptor, "w") as file:
            yield file
    except OSError as error:
        path.unlink(missing_ok=True)
        raise USAGE.error(
            f"{path} cannot be written: {error.strerror}; the token is lost and will end unused",
            advice=_PLACE,
        ) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
