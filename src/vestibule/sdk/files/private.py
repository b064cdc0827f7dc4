"""A directory of one program's own, in memory, that goes with the program."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vestibule.sdk.files.codes import NO_PRIVATE_PLACE

_PREFIX: Final = "vestibule-svid-"
_LOCK: Final = ".owner"
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})


def places(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where directories in memory usually are, the user's own first."""
    own = environment.get("XDG_RUNTIME_DIR")
    return [*([Path(own)] if own else []), Path(f"/run/user/{os.geteuid()}"), Path("/run"), Path("/dev/shm")]  # noqa: S108


@contextmanager
def private_place(under: Path | None = None) -> Iterator[Path]:
    """A new directory of mode 0700, removed at the end, with those that a crash left behind.

    In memory (tmpfs), so that keys never reach a disk; ``under`` is taken as it is.  Raises: VST2457.
    """
    parent = under or _in_memory(places())
    _sweep(parent)
    path = parent / f"{_PREFIX}{os.geteuid()}-{secrets.token_hex(8)}"
    new = parent / f".{path.name}"
    try:
        # Under a name that nobody sweeps until the lock is ours.
        new.mkdir(mode=0o700)
        lock = _locked(new)
        new.rename(path)
    except OSError as error:
        raise NO_PRIVATE_PLACE.error(f"cannot make a directory in {parent}: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _in_memory(candidates: Sequence[Path]) -> Path:
    mounted = _mounted()
    for path in candidates:
        if path.is_dir() and os.access(path, os.W_OK | os.X_OK) and _type_at(path, mounted) in _MEMORY:
            return path
    looked = ", ".join(map(str, candidates))
    raise NO_PRIVATE_PLACE.error(f"none of {looked} is a directory in memory where this user may write")


def _mounted() -> dict[str, str]:
    """Mount points and their types (proc(5), mountinfo); the last mount at a place is the one that shows."""
    found = {}
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            found[left.split()[4]] = right.split()[0]
    return found


def _type_at(path: Path, mounted: Mapping[str, str]) -> str:
    real = path.resolve()
    return next((mounted[str(each)] for each in (real, *real.parents) if str(each) in mounted), "")


def _locked(path: Path) -> int:
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _sweep(parent: Path) -> None:
    """Remove directories of this user whose owner is gone: nobody holds their lock."""
    for path in parent.glob(f"{_PREFIX}{os.geteuid()}-*"):
        with suppress(OSError):
            if path.lstat().st_uid != os.geteuid():
                continue
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
