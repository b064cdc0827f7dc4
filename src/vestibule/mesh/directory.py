"""The intent from a directory, followed as people edit it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

from vestibule.clock import Clock
from vestibule.intent import Loaded, Severity, load
from vestibule.mesh.revision import Revision
from vestibule.mesh.source import Reading

POLL: Final = 0.1
"""Seconds between two looks at the directory.  A change is taken up once two looks agree."""

_LOOKING_SHARE: Final = 0.1
"""Of the time, at most, is spent looking: a very large directory is looked at less often."""

_SETTLED_NS: Final = 200_000_000
"""A file changed again within a tick of the filesystem's clock looks unchanged; so what is very new is read again."""

_log = logging.getLogger(__name__)

_Look = tuple[tuple[str, int, int, int], ...]


class DirectorySource:
    """A ``Source``: the directory as it is on this machine."""

    def __init__(self, directory: Path, clock: Clock, *, read: Callable[[Path], Loaded] = load) -> None:
        self.directory = directory
        self.revision = Revision()
        self._clock = clock
        self._read = read
        self._reading = Reading()
        self._read_as: _Look | None = None

    @property
    def reading(self) -> Reading:
        """What is known now."""
        return self._reading

    @property
    def place(self) -> str:
        """The directory."""
        return str(self.directory)

    async def load(self) -> Reading:
        """Read the directory once, now."""
        look = await asyncio.to_thread(look_at, self.directory)
        self._take(look, await asyncio.to_thread(self._read, self.directory))
        return self._reading

    async def run(self) -> None:
        """Follow the directory."""
        before: _Look | None = None
        while True:
            started = time.monotonic()
            look = await asyncio.to_thread(look_at, self.directory)
            if look == before and look != self._read_as:
                loaded = await asyncio.to_thread(self._read, self.directory)
                after = await asyncio.to_thread(look_at, self.directory)
                # What somebody wrote meanwhile may have been read by half: half a file can be an intent, too.
                if after == look:
                    self._take(look, loaded)
                look = after
            before = look
            pause = max(POLL, (time.monotonic() - started) / _LOOKING_SHARE)
            await self._clock.sleep_until(self._clock.now() + timedelta(seconds=pause))

    def _take(self, look: _Look, loaded: Loaded) -> None:
        newest = max((changed for _, changed, _, _ in look), default=0)
        self._read_as = look if time.time_ns() - newest > _SETTLED_NS else None
        known = self._reading
        if loaded.intent is None:
            if loaded.problems != known.problems:
                self._complain(loaded)
            self._reading = replace(known, problems=loaded.problems)
        elif known.intent is not None and loaded.intent.version == known.intent.version:
            self._reading = replace(known, problems=loaded.problems)
        else:
            _log.info("intent version %s is taken up", loaded.intent.version)
            self._reading = Reading(
                intent=loaded.intent,
                loaded_at=self._clock.now(),
                problems=loaded.problems,
                files=loaded.files,
            )
            self.revision.bump()

    def _complain(self, loaded: Loaded) -> None:
        version = self._reading.intent.version if self._reading.intent else None
        errors = [str(each.error) for each in loaded.problems if each.severity is Severity.ERROR]
        _log.warning(
            "the intent in %s is not valid, %s; %d errors, the first: %s (vestibule validate shows all)",
            self.directory,
            f"version {version} stays in force" if version else "so there is no mesh yet",
            len(errors),
            errors[0],
        )


def look_at(directory: Path) -> _Look:
    """Name, time of change, size and inode of every file that may be intent: differs where a reading may."""
    return tuple(sorted(_files(directory, "")))


def _files(directory: Path, prefix: str) -> Iterator[tuple[str, int, int, int]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                name = f"{prefix}{entry.name}"
                if entry.name.endswith((".yaml", ".yml", ".pem")):
                    # Followed, since a checkout may consist of links.
                    yield name, *_facts(entry)
                elif _may_hold_intent(prefix) and not entry.name.startswith(".") and entry.is_dir():
                    yield from _files(Path(entry.path), f"{name}/")
    except OSError as error:
        # Gone or forbidden: reading says so in its own words, and again when it changes.
        yield f"{prefix}!", error.errno or 0, 0, 0


def _may_hold_intent(folder: str) -> bool:
    """Whether folders in this one do: at the top, and in ``environments/`` and each of them."""
    return not folder or (folder.startswith("environments/") and folder.count("/") < 3)


def _facts(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    try:
        stat = entry.stat()
    except OSError as error:
        return 0, -(error.errno or 0), 0
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
