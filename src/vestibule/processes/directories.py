"""Private directories, for sockets and state that concern nobody else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from vestibule.errors import VestibuleError
from vestibule.processes.codes import NOT_WRITABLE, UNSAFE_DIRECTORY


def private_directory(path: Path) -> Path:
    """Make the directory with mode 0700, or check that it is ours alone.  Raises: VST7003, VST7006."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise NOT_WRITABLE.error(f"cannot make the directory {path}: {error.strerror}") from error
        raise UNSAFE_DIRECTORY.error(f"cannot make the directory {path}: {error.strerror}") from error
    _check(path, facts)
    return path


def is_private(path: Path) -> bool:
    """Whether the directory is there, and is ours alone."""
    try:
        _check(path, path.lstat())
    except (OSError, VestibuleError):
        return False
    return True


def _check(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISDIR(facts.st_mode):
        # A symbolic link could be pointed elsewhere later by whoever owns the directory around it.
        raise UNSAFE_DIRECTORY.error(f"{path} is not a directory of its own")
    if facts.st_uid != os.geteuid():
        raise UNSAFE_DIRECTORY.error(f"{path} belongs to uid {facts.st_uid}, not to this user")
    if mode := stat.S_IMODE(facts.st_mode) & 0o077:
        raise UNSAFE_DIRECTORY.error(
            f"{path} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o}, {mode:03o} too much)",
            advice=f"If nobody else should use it: chmod 700 {path}",
        )
