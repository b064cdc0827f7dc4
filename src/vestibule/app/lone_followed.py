"""The directory that a lone sidecar's Envoy follows."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vestibule.processes.codes import NOT_WRITABLE

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Followed:
    """The directory that Envoy follows; only what changed is written, each file as a whole.

    It may be Envoy's user's, who could put links in it: whatever stands there, nothing is written elsewhere.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._owner = os.geteuid()
        self._written: dict[str, bytes] = {}

    def write(self, files: Mapping[str, bytes]) -> bool:
        """In the order given; whether anything changed.  Raises: VST7006."""
        changed = [name for name, content in files.items() if self._written.get(name) != content]
        try:
            with self._opened() as here:
                for name in changed:
                    _replace(here, name, files[name])
                    self._written[name] = files[name]
        except OSError as error:
            raise NOT_WRITABLE.error(f"cannot write in {self.directory}: {error.strerror}") from error
        return bool(changed)

    def give_to(self, uid: int, gid: int) -> None:
        """Whoever Envoy runs as owns the directory, and may read what is in it."""
        os.chown(self.directory, uid, gid)
        self._owner = uid

    @contextmanager
    def _opened(self) -> Iterator[int]:
        here = os.open(self.directory, _DIRECTORY)
        try:
            if os.fstat(here).st_uid != self._owner:
                raise PermissionError(0, "it is somebody else's")
            yield here
        finally:
            os.close(here)


def _replace(here: int, name: str, content: bytes) -> None:
    # Envoy hears of a file that is moved into its place, and reads none that is half written.
    temporary = f".{name}.{secrets.token_hex(8)}"
    try:
        with os.fdopen(os.open(temporary, _NEW, 0o600, dir_fd=here), "wb") as opened:
            opened.write(content)
            # The directory is its reader's alone, who may be another user than we are.
            os.fchmod(opened.fileno(), 0o644)
        os.rename(temporary, name, src_dir_fd=here, dst_dir_fd=here)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=here)
        raise
