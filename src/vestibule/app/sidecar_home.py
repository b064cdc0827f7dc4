"""Where a sidecar's Envoy has its sockets: in the sidecar's own directory, or in one of the user that it runs as."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Set
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.processes import User, sweep
from vestibule.processes.codes import NOT_WRITABLE
from vestibule.processes.directories import private_directory
from vestibule.proxy import nftables
from vestibule.proxy.envoy import shared_memory

_HOMES: Final = "px"
_log = logging.getLogger(__name__)


def private_home(run_directory: Path, own: Path, user: User | None) -> Path:
    """A directory of mode 0700 that belongs to whom Envoy runs as.  Raises: VST7003, VST7006."""
    if user is None or user.uid == os.geteuid():
        return own
    home = private_directory(run_directory / _HOMES / own.name)
    try:
        os.chown(home, user.uid, user.gid)
    except OSError as error:
        raise NOT_WRITABLE.error(f"cannot give {home} to {user.name}: {error.strerror}") from error
    return home


def clear_up(run_directory: Path, ledgers: Path) -> list[str]:
    """End and remove what sidecars left behind that were killed; returns what was ended, in words.

    Blocks for a second per such sidecar at most.
    """
    memory = {
        home.name: shared_memory(home)
        for place in (ledgers, run_directory / _HOMES)
        for home in place.glob("*")
        if shared_memory(home)
    }
    ended = sweep(ledgers)
    living = alive(ledgers)
    for files in (found for name, found in memory.items() if name not in living):
        for file in files:
            file.unlink(missing_ok=True)
    remove_homes(run_directory, lambda: alive(ledgers))
    return ended


def remove_filters(run_directory: Path) -> None:
    """Remove the packet filters of a run directory that nobody will use again; who may not has made none."""
    if os.geteuid() == 0:
        try:
            nftables.sweep(run_directory, tuple)
        except VestibuleError as error:
            _log.info("no packet filters are looked for: %s", error)


def alive(directory: Path) -> set[str]:
    """The names of the sidecars whose directories are there; call it when the dead have been swept."""
    return {each.name for each in directory.glob("*") if each.is_dir()}


def remove_homes(run_directory: Path, living: Callable[[], Set[str]]) -> None:
    """Remove the homes of sidecars that are gone.

    ``living`` is asked once the homes are known: whoever has one by then was alive before.  The other way round, a
    sidecar that starts at this moment would lose its own.
    """
    homes = list((run_directory / _HOMES).glob("*"))
    keep = living()
    for home in homes:
        if home.name not in keep:
            shutil.rmtree(home, ignore_errors=True)
