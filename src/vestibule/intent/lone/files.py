"""The file of a lone sidecar on disk, with what it names beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vestibule.errors import SeveralError, VestibuleError
from vestibule.intent.files import CERTS, KEYS, MAX_BYTES
from vestibule.intent.lone.codes import LONE_INVALID, LONE_UNREADABLE
from vestibule.intent.lone.model import LoadedLone, Lone
from vestibule.intent.lone.reading import read_lone

_BESIDE: Final = {CERTS: ".pem", KEYS: ".json"}
_Facts = tuple[tuple[str, int, int, int], ...]


@dataclass(slots=True)
class LoneFile:
    """Reads the file, and tells whether it may have changed since."""

    path: Path
    _facts: _Facts = field(default=(), init=False)

    def load(self) -> LoadedLone:
        """As it is now.  Raises: VST7320."""
        self._facts = self._look()
        try:
            content = _content(self.path)
            beside = {name: _content(path) for name, path in self._beside().items()}
        except OSError as error:
            # Of a directory Python knows only the descriptor's number.
            name = error.filename if isinstance(error.filename, str) else self.path
            raise LONE_UNREADABLE.error(f"cannot read {name}: {error.strerror}") from error
        return read_lone(content, str(self.path), beside)

    def valid(self) -> Lone:
        """As it is now.  Raises: VST7320; everything that is wrong with it, VST7321 in front."""
        return checked(self.path, self.load())

    def has_changed(self) -> bool:
        """Whether it is worth reading again."""
        return self._look() != self._facts

    def _beside(self) -> dict[str, Path]:
        found = {}
        for folder, suffix in _BESIDE.items():
            for path in sorted((self.path.parent / folder).glob(f"*{suffix}")):
                found[f"{folder}/{path.name}"] = path
        return found

    def _look(self) -> _Facts:
        return tuple(map(_facts, (self.path, *self._beside().values())))


def checked(path: Path, loaded: LoadedLone) -> Lone:
    """What was read, if it holds.  Raises: everything that is wrong with it, VST7321 in front."""
    if loaded.lone is None:
        raise _invalid(path, loaded)
    return loaded.lone


def _invalid(path: Path, loaded: LoadedLone) -> VestibuleError:
    """Everything that is wrong, as one error."""
    errors = [each.error for each in loaded.errors]
    count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
    return SeveralError([LONE_INVALID.error(f"{path} has {count}"), *errors])


def _facts(path: Path) -> tuple[str, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def _content(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise LONE_UNREADABLE.error(f"{path} is larger than {MAX_BYTES} bytes")
    return content
