"""A commit as a tree of files to read an intent from: objects only, nothing is checked out."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from vestibule.calls.git.codes import GIT_FAILED, GIT_TOO_LARGE
from vestibule.calls.git.process import Git
from vestibule.intent.files import MAX_BYTES, Entry

MOST_FILES: Final = 20_000
MOST_BYTES: Final = 64 * 2**20
_FILE: Final = frozenset({"100644", "100755"})
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class _Object:
    mode: str
    id: str
    size: int


class CommitTree:
    """A ``Tree``, for one thread at a time, and to be closed.  Links and submodules are not followed."""

    def __init__(self, git: Git, git_dir: Path, commit: str, directory: str = "") -> None:
        self._git = git
        self._git_dir = git_dir
        self._root = f"{commit}:{directory}"
        self._folders: dict[str, dict[str, _Object]] = {}
        self._reader: subprocess.Popen[bytes] | None = None
        self._watch: threading.Timer | None = None
        self._files = 0
        self._bytes = 0

    def __enter__(self) -> CommitTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what reads the objects."""
        if self._watch is not None:
            self._watch.cancel()
        if self._reader is not None:
            self._reader.kill()
            self._reader.communicate()
            self._reader = None

    def listing(self, folder: str) -> Sequence[Entry]:
        """What the commit has there.  Raises: VST3226, ``OSError`` where there is no such folder."""
        return [Entry(name, found.mode == "040000") for name, found in self._folder(folder).items()]

    def content(self, name: str) -> bytes | None:
        """A file's bytes as they were committed.  Raises: VST3226, VST3231, ``OSError`` where there is none."""
        folder, _, last = name.rpartition("/")
        found = self._folder(folder).get(last)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if found.mode not in _FILE:
            return None
        if found.size > MAX_BYTES:
            # Not read: its size is all that its reader wants to know.
            return bytes(MAX_BYTES + 1)
        self._files += 1
        self._bytes += found.size
        if self._files > MOST_FILES or self._bytes > MOST_BYTES:
            raise GIT_TOO_LARGE.error(f"the intent has more than {MOST_FILES} files or {MOST_BYTES} bytes")
        return self._blob(found)

    def _folder(self, folder: str) -> dict[str, _Object]:
        if folder not in self._folders:
            slash = "/" if folder and not self._root.endswith(":") else ""
            done = self._git.run_now(
                f"--git-dir={self._git_dir}",
                "ls-tree",
                "-z",
                "-l",
                "--full-tree",
                f"{self._root}{slash}{folder}",
            )
            if done.status:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
            self._folders[folder] = dict(_entries(done.output))
            if len(self._folders[folder]) > MOST_FILES:
                raise GIT_TOO_LARGE.error(f"a folder of the repository has more than {MOST_FILES} files")
        return self._folders[folder]

    def _blob(self, found: _Object) -> bytes:
        reader = self._started()
        assert reader.stdin is not None
        assert reader.stdout is not None
        try:
            reader.stdin.write(f"{found.id}\n".encode())
            reader.stdin.flush()
            said = reader.stdout.readline(256).split()
            if said[1:2] != [b"blob"] or int(said[2]) != found.size:
                raise ValueError(said)
            content = reader.stdout.read(found.size + 1)
            if len(content) != found.size + 1:
                raise ValueError("too short")
        except (OSError, ValueError, IndexError) as error:
            raise GIT_FAILED.error(f"git does not give the object {found.id}") from error
        return content[:-1]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._reader is None:
            self._reader = subprocess.Popen(
                ["git", f"--git-dir={self._git_dir}", "cat-file", "--batch"],
                env=self._git.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            # A disk that hangs must not hang its reader for ever.
            self._watch = threading.Timer(_SECONDS, self._reader.kill)
            self._watch.daemon = True
            self._watch.start()
        return self._reader


def _entries(listing: bytes) -> list[tuple[str, _Object]]:
    found: list[tuple[str, _Object]] = []
    for line in listing.split(b"\0"):
        facts, tab, name = line.partition(b"\t")
        if not tab or b"/" in name:
            continue
        mode, _, object_id, size = facts.decode("ascii").split()
        found.append((os.fsdecode(name), _Object(mode, object_id, int(size) if size.isdigit() else 0)))
    return found
