"""What children print: into files of bounded size, and line by line to whoever waits for one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

_CHUNK: Final = 65536
_LONGEST_LINE: Final = 8192
_TAIL_LINES: Final = 20


class BoundedFile:
    """Append-only file that moves to ``NAME.1`` (replacing the last one) before it outgrows ``most`` bytes."""

    def __init__(self, path: Path, *, most: int = 4 << 20) -> None:
        self._path = path
        self._most = most
        self._size = 0
        self._file: int | None = None

    def write(self, data: bytes) -> None:
        """Append; a full disk loses output, never the process that prints."""
        with contextlib.suppress(OSError):
            if self._file is None or self._size + len(data) > self._most:
                self._turn_over()
            if self._file is not None:
                self._size += os.write(self._file, data)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _turn_over(self) -> None:
        if self._file is not None:
            self.close()
            os.replace(self._path, f"{self._path}.1")  # noqa: PTH105 - the suffix is appended, not replaced
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._file).st_size


class Capture:
    """Reads one child's output from a pipe: to a file, to the last lines kept, and to a listener."""

    def __init__(self, file: BoundedFile | None = None, on_line: Callable[[str], None] | None = None) -> None:
        self._file = file
        self._on_line = on_line
        self._partial = b""
        self._last: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader: int | None = None

    def open(self) -> int:
        """The descriptor to give to the child; close it here once the child has it."""
        self.close()
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        asyncio.get_running_loop().add_reader(self._reader, self._read)
        return writer

    @property
    def tail(self) -> str:
        """The last lines, for error messages."""
        return "\n".join(self._last)

    def close(self) -> None:
        """Take what is still in the pipe, then stop reading."""
        while self._reader is not None and self._read():
            pass
        self._end()

    def _read(self) -> bool:
        if self._reader is None:
            return False
        try:
            data = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        if self._file is not None:
            self._file.write(data)
        self._split(data)
        return True

    def _split(self, data: bytes) -> None:
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[-_LONGEST_LINE:]
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        text = line[:_LONGEST_LINE].decode(errors="replace").rstrip("\r")
        self._last.append(text)
        if self._on_line is not None:
            self._on_line(text)

    def _end(self) -> None:
        if self._partial:
            self._take(self._partial)
            self._partial = b""
        if self._reader is not None:
            asyncio.get_running_loop().remove_reader(self._reader)
            os.close(self._reader)
            self._reader = None
