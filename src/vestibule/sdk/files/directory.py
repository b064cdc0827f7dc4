"""The directory of one writer, and how a new set of files takes the place of the old one.

*Linked* (the default), ``DIR/current`` is a symbolic link to a directory that holds one whole set, and each
``DIR/NAME`` a link through it.  A new set is made beside, and one rename of ``current`` puts all of it in place:
whoever resolves ``DIR/current`` once sees key and certificate that belong together, always.  The set before stays
for whoever is still reading it.

*Plain*, each ``DIR/NAME`` is a regular file, replaced as a whole; all of them are ready on disk before the first is
replaced, keys before certificates.  Between two renames a reader can find a key and a certificate that do not fit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vestibule.sdk.files.codes import ANOTHER_WRITER, NOT_WRITTEN
from vestibule.sdk.files.contents import File

CURRENT: Final = "current"
_GENERATION: Final = ".generation-"
_NEW: Final = ".new-"
_LOCK: Final = ".lock"
_READ: Final = 0o755
"""Of a directory's mode, what that of a set has of it: nobody but its writer puts files there."""

_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose the files become; -1 leaves it as it is.  Only root may give files to others."""

    uid: int = -1
    gid: int = -1


@dataclass(slots=True)
class FileDirectory:
    """Belongs to one writer for as long as it is entered."""

    path: Path
    owner: Owner = field(default_factory=Owner)
    linked: bool = True
    _lock: int = -1
    _names: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        """Raises: VST2450 (it is not there, or not ours to write), VST2451."""
        with self._failing():
            mode = self.path.stat().st_mode
            if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
                raise PermissionError(0, "everybody may replace what stands there")
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lock = os.open(self.path / _LOCK, flags, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._sweep()
            except BlockingIOError as error:
                os.close(self._lock)
                raise ANOTHER_WRITER.error(f"another process keeps SVIDs in {self.path}") from error
            except BaseException:
                os.close(self._lock)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def place(self, files: Sequence[File]) -> list[Path]:
        """Put the files in place, as a set; those of the set before that are not in this one go.

        Raises: VST2450, and then what stood there before stands there still (linked), or most of it (plain).
        """
        with self._failing():
            if self.linked:
                self._switch(files)
            else:
                self._replace(files)
        self._names = tuple(file.name for file in files)
        return [self.path / name for name in self._names]

    # ------------------------------------------------------------------------------------------ linked

    def _switch(self, files: Sequence[File]) -> None:
        generation = self._generation(files)
        try:
            _link(self.path, generation.name, CURRENT)
        except BaseException:
            shutil.rmtree(generation, ignore_errors=True)
            raise
        for file in files:
            target = f"{CURRENT}/{file.name}"
            if not _is_our_link(self.path / file.name, target):
                _link(self.path, target, file.name)
        self._unlink_stale({file.name for file in files})
        self._sweep(keep=2)

    def _generation(self, files: Sequence[File]) -> Path:
        path = self.path / f"{_GENERATION}{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        try:
            # By descriptor: in a directory that others can write, a path may mean something else a moment later.
            here = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(here).st_uid != os.geteuid():
                    raise PermissionError(0, "somebody else took the new directory away", str(path))
                for file in files:
                    self._write(file, file.name, here)
                os.fchown(here, self.owner.uid, self.owner.gid)
                os.fchmod(here, stat.S_IMODE(self.path.stat().st_mode) & _READ)
                os.fsync(here)
            finally:
                os.close(here)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return path

    def _unlink_stale(self, names: set[str]) -> None:
        for path in self.path.iterdir():
            if path.name not in names and _target(path) == f"{CURRENT}/{path.name}":
                path.unlink(missing_ok=True)

    def _sweep(self, keep: int = 0) -> None:
        """Remove sets that nobody is pointed to any more, and what a crash left half made."""
        current = _target(self.path / CURRENT)
        sets = [path for path in self.path.glob(f"{_GENERATION}*") if path.name != current]
        sets.sort(key=lambda path: path.lstat().st_mtime_ns, reverse=True)
        for path in sets[max(keep - 1, 0) :]:
            shutil.rmtree(path, ignore_errors=True)
        for path in self.path.glob(f"{_NEW}*"):
            path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------------ plain

    def _replace(self, files: Sequence[File]) -> None:
        here = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        ready: list[tuple[str, str]] = []
        try:
            for file in files:
                name = f"{_NEW}{secrets.token_hex(8)}"
                ready.append((name, file.name))
                self._write(file, name, here)
            for name, final in ready:
                os.rename(name, final, src_dir_fd=here, dst_dir_fd=here)
            for gone in set(self._names) - {file.name for file in files}:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(gone, dir_fd=here)
            if _target(self.path / CURRENT) is not None:
                # The files were links before: nothing of that set stays behind.
                os.unlink(CURRENT, dir_fd=here)
                self._sweep()
            os.fsync(here)
        except BaseException:
            for name, _ in ready:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=here)
            raise
        finally:
            os.close(here)

    # ------------------------------------------------------------------------------------------ both

    def _write(self, file: File, name: str, here: int) -> None:
        descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=here)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(file.data)
            opened.flush()
            # Whom it belongs to first: the mode may give rights to the group.
            os.fchown(descriptor, self.owner.uid, self.owner.gid)
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise NOT_WRITTEN.error(f"cannot write the files in {self.path}: {reason}") from error


def _link(directory: Path, target: str, name: str) -> None:
    """A symbolic link where something may stand already, which it replaces in one step."""
    new = directory / f"{_NEW}{secrets.token_hex(8)}"
    new.symlink_to(target)
    try:
        new.rename(directory / name)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _is_our_link(path: Path, target: str) -> bool:
    """One of somebody else's he could lead elsewhere later."""
    return _target(path) == target and path.lstat().st_uid == os.geteuid()


def _target(path: Path) -> str | None:
    try:
        return os.readlink(path)  # noqa: PTH115 - the text of the link, as it stands there
    except OSError:
        return None
