"""What the operating system says of a process: its user and groups, and which program it runs.

Selectors (as SPIRE names them): ``unix:uid``, ``unix:gid``, ``unix:user``, ``unix:group``,
``unix:supplementary_gid``, ``unix:supplementary_group``, ``unix:path``, ``unix:sha256``.  User and group are
the effective ones.  Path and digest need the right to look into the process (same user, or root); without
it they are left out, and entries that ask for them do not match.
"""

from __future__ import annotations

import asyncio
import grp
import hashlib
import logging
import os
import pwd
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from vestibule.attest.workload.ports import Process
from vestibule.spiffe import Selector

TYPE: Final = "unix"
MAX_EXECUTABLE_BYTES: Final = 512 * 1024 * 1024
"""Larger programs get no digest, so that a client cannot keep the agent reading."""

_EFFECTIVE: Final = 1  # of the four ids in /proc/PID/status: real, effective, saved, file system
_REMEMBERED: Final = 256
_log = logging.getLogger(__name__)

_File: TypeAlias = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSettings:
    """``executables`` turns path and sha256 on."""

    executables: bool = True


class UnixAttestor:
    """Attests by ``/proc``.  ``executables`` turns path and sha256 on."""

    name: Final = TYPE

    def __init__(self, *, executables: bool = True) -> None:
        self._executables = executables
        # A digest stays true for a file whose device, inode, size and both times are unchanged.
        self._digests: OrderedDict[_File, str] = OrderedDict()

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Raises: VST2312 if the process has ended."""
        # In a thread, since the names of users may come from a directory server.
        found = await asyncio.to_thread(lambda: set(_ids(process)))
        if self._executables:
            found |= await self._executable(process)
        return frozenset(found)

    async def _executable(self, process: Process) -> set[Selector]:
        try:
            found = {_selector("path", process.link("exe"))}
            with process.open_executable() as file:
                if digest := await self._digest(file):
                    found.add(_selector("sha256", digest))
        except PermissionError:
            _log.debug("process %d may not be examined: no path or sha256 selector", process.pid)
            return set()
        return found

    async def _digest(self, file: Any) -> str | None:
        facts = os.fstat(file.fileno())
        if facts.st_size > MAX_EXECUTABLE_BYTES:
            return None
        key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        if (known := self._digests.get(key)) is not None:
            self._digests.move_to_end(key)
            return known
        digest = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).hexdigest()
        self._digests[key] = digest
        if len(self._digests) > _REMEMBERED:
            self._digests.popitem(last=False)
        return digest


def _ids(process: Process) -> Iterator[Selector]:
    status = process.status()
    uid, gid = status["Uid"][_EFFECTIVE], status["Gid"][_EFFECTIVE]
    yield _selector("uid", uid)
    yield _selector("gid", gid)
    if user := _user(int(uid)):
        yield _selector("user", user)
    if group := _group(int(gid)):
        yield _selector("group", group)
    for extra in status.get("Groups", ()):
        yield _selector("supplementary_gid", extra)
        if group := _group(int(extra)):
            yield _selector("supplementary_group", group)


def _selector(kind: str, value: str) -> Selector:
    return Selector(TYPE, f"{kind}:{value}")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        # A uid without a name is normal in containers.
        return ""


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
