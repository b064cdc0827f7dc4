"""The directories that sockets lie in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vestibule.app.codes import UNSAFE_SOCKET_DIRECTORY
from vestibule.net.codes import SOCKET_PATH


def socket_directory(directory: Path, mode: int = 0o700) -> Path:
    """Make it, if it is not there; an existing one must not let others put their socket in the place of ours.

    Not even where they cannot remove ours (a sticky directory): they could be there first.  A private socket may
    lie in a directory that is open for reading; its own mode keeps it private.
    Raises: VST9114, VST2310.
    """
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        facts = directory.stat()
    except OSError as error:
        raise SOCKET_PATH.error(f"cannot use {directory} for a socket: {error.strerror}") from error
    if facts.st_uid not in (0, os.geteuid()) or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UNSAFE_SOCKET_DIRECTORY.error(f"others can write to {directory}")
    return directory
