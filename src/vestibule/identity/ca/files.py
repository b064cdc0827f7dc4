"""The directory of an authority: private files that are never overwritten, and the transcript beside them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from vestibule.identity.ca.codes import CA_EXISTS, CA_UNUSABLE
from vestibule.keys import KeyManager
from vestibule.keys.files import make_private_directory, read_private, write_private
from vestibule.pki.pem import MAX_PEM_BYTES
from vestibule.pki.transcripts import MAX_TRANSCRIPT_BYTES, SignedStep, following, read_transcript, render

TRANSCRIPT: Final = "transcript.txt"
_LOCK: Final = ".lock"


def make_directory(path: Path) -> None:
    """Make it, mode 0700.  Raises: VST1381."""
    try:
        make_private_directory(path)
    except OSError as error:
        raise CA_UNUSABLE.error(f"{path} cannot be made: {error.strerror}") from error


@contextmanager
def sole_user(directory: Path) -> Iterator[None]:
    """One ceremony at a time in a directory.  Raises: VST1381."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(directory / _LOCK, flags, 0o600)
    except OSError as error:
        raise CA_UNUSABLE.error(f"{directory} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CA_UNUSABLE.error(f"another process works in {directory}") from None
    finally:
        os.close(descriptor)


def read(path: Path, limit: int = MAX_PEM_BYTES) -> bytes:
    """A private file of ours.  Raises: VST1381."""
    try:
        data = read_private(path, limit + 1)
    except OSError as error:
        raise CA_UNUSABLE.error(f"{path} is refused: {error.strerror or error}") from error
    if len(data) > limit:
        raise CA_UNUSABLE.error(f"{path} is refused: it is larger than {limit} bytes")
    return data


def read_public(path: Path, limit: int = MAX_PEM_BYTES) -> bytes:
    """A file that anybody may read, and that is checked by what stands in it.  Raises: VST1381."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CA_UNUSABLE.error(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise CA_UNUSABLE.error(f"{path} is refused: it is larger than {limit} bytes")
    return data


def write_new(path: Path, data: bytes) -> None:
    """A new file, mode 0600, on disk when this returns.  Raises: VST1380 (it exists), VST1381."""
    try:
        write_private(path, data, replace=False)
    except FileExistsError:
        raise CA_EXISTS.error(f"{path} exists") from None
    except OSError as error:
        raise CA_UNUSABLE.error(f"{path} cannot be written: {error.strerror}") from error


def refuse_existing(*paths: Path) -> None:
    """Before anything is done: what is to be written must not be there.  Raises: VST1380."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise CA_EXISTS.error(f"{path} exists")


class Transcript:
    """The transcript in a directory.  A step is on disk, whole, before what it tells of is given away."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / TRANSCRIPT

    def steps(self) -> list[SignedStep]:
        """All steps; none where there is no file.  Raises: VST1030, VST1381."""
        if not self._path.exists():
            return []
        text = read(self._path, MAX_TRANSCRIPT_BYTES)
        return read_transcript(text.decode("utf-8", "replace"))

    async def add(
        self, action: str, facts: Mapping[str, str], now: datetime, keys: KeyManager, key_id: str
    ) -> SignedStep:
        """Sign a step and append it.  A step is never before the one before it, whatever the clock says now.

        Raises: VST1030, VST1381, errors of ``keys``.
        """
        steps = self.steps()
        if steps:
            now = max(now, steps[-1].step.time)
        step = following(steps, action, now, facts, await keys.public_key(key_id))
        signed = step.signed(await keys.sign(key_id, step.text))
        try:
            write_private(self._path, render([*steps, signed]).encode())
        except OSError as error:
            raise CA_UNUSABLE.error(f"{self._path} cannot be written: {error.strerror}") from error
        return signed
