"""Private directories, and the sockets inside."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from vestibule.processes.codes import SOCKET_PATH_TOO_LONG, UNSAFE_DIRECTORY

LONGEST_SOCKET_PATH: Final = 107
"""Bytes; ``sun_path`` has 108 with the terminating zero."""


def private_directory(path: Path) -> Path:
    """Make the directory with mode 0700, or check that it is ours alone.  Raises: VST7003."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        facts = path.lstat()
    except OSError as error:
        raise UNSAFE_DIRECTORY.error(f"cannot make the directory {path}: {error.strerror}") from error
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
    return path


def socket_path(path: Path) -> Path:
    """The path, if it fits into a Unix socket address.  Raises: VST7005."""
    length = len(os.fsencode(path))
    if length > LONGEST_SOCKET_PATH:
        raise SOCKET_PATH_TOO_LONG.error(
            f"the socket path {path} has {length} bytes, {length - LONGEST_SOCKET_PATH} more than fit"
        )
    return path
