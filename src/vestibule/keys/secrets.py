"""Passphrases and PINs: from a file that is ours alone or from an inherited descriptor.

Never from the command line or the environment: every process of the machine may read the first, and every child
inherits the second.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.keys.codes import SECRET_REFUSED
from vestibule.keys.files import read_private

MAX_SECRET_BYTES: Final = 1024


class Secret:
    """A text that nothing shows: not ``repr``, not a traceback's locals, not a log line."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"


def secret_in_file(path: Path) -> Secret:
    """The one line in a file; the end of the line is not part of it.

    Raises: VST1105 when the file can not be read, is not ours alone, or does not hold one line of text.
    """
    try:
        return _secret(read_private(path, MAX_SECRET_BYTES + 2), str(path))
    except OSError as error:
        raise SECRET_REFUSED.error(f"{path} is refused: {error.strerror or error}") from error


def secret_from_descriptor(descriptor: int) -> Secret:
    """The one line that can be read from an inherited descriptor, which is closed: it is read once.

    Raises: VST1105.
    """
    try:
        with os.fdopen(descriptor, "rb") as file:
            return _secret(file.read(MAX_SECRET_BYTES + 2), f"descriptor {descriptor}")
    except OSError as error:
        raise SECRET_REFUSED.error(f"descriptor {descriptor} is refused: {error.strerror}") from error


def _secret(line: bytes, where: str) -> Secret:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    if not 0 < len(line) <= MAX_SECRET_BYTES:
        raise _refused(where)
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(where) from None  # its message would show the bytes
    if not text.isprintable():
        raise _refused(where)
    return Secret(text)


def _refused(where: str) -> VestibuleError:
    return SECRET_REFUSED.error(
        f"{where} is refused: it does not hold one line of printable text of at most {MAX_SECRET_BYTES} bytes"
    )
