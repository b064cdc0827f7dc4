"""The directory that a lone sidecar's Envoy follows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vestibule.processes.codes import NOT_WRITABLE
from vestibule.processes.placing import place


class Followed:
    """The directory that Envoy follows; only what changed is written, each file as a whole.

    Envoy hears of a file that is moved into its place, and reads none that is half written.  The directory is its
    reader's alone, who may be another user than we are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._owner = os.geteuid()
        self._written: dict[str, bytes] = {}

    def write(self, files: Mapping[str, bytes]) -> bool:
        """In the order given; whether anything changed.  Raises: VST7006."""
        changed = [name for name, content in files.items() if self._written.get(name) != content]
        try:
            for name in changed:
                place(self.directory, name, files[name], owner=self._owner)
                self._written[name] = files[name]
        except OSError as error:
            raise NOT_WRITABLE.error(f"cannot write in {self.directory}: {error.strerror}") from error
        return bool(changed)

    def give_to(self, uid: int, gid: int) -> None:
        """Whoever Envoy runs as owns the directory, and may read what is in it."""
        os.chown(self.directory, uid, gid)
        self._owner = uid
