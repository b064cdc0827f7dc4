"""What the operating system says of a process: its user and groups, and which program it runs.

Selectors (as SPIRE names them): ``unix:uid``, ``unix:gid``, ``unix:user``, ``unix:group``,
``unix:supplementary_gid``, ``unix:supplementary_group``, ``unix:path``, ``unix:sha256``.  User and group are
the effective ones.  Path and digest need the right to look into the process (same user, or root); without
it they are left out, and entries that ask for them do not match.  The path is left out, too, where another file, or
none, lies there for the agent: in another mount namespace, such as a container's, any program can have any path.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakValueDictionary

from vestibule.attest.workload.names import Names
from vestibule.attest.workload.ports import Process
from vestibule.spiffe import Selector

TYPE: Final = "unix"
MAX_EXECUTABLE_BYTES: Final = 512 * 1024 * 1024
"""Larger programs get no digest, so that a client cannot keep the agent reading."""

KNOWN_SECONDS: Final = 10.0
"""For so long it is believed that a program lies where it lay."""

_EFFECTIVE: Final = 1  # of the four ids in /proc/PID/status: real, effective, saved, file system
_SIZE: Final = 2
_REMEMBERED: Final = 256
_log = logging.getLogger(__name__)

_File: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime: while they are the same, so is the content."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixSettings:
    """``executables`` turns path and sha256 on."""

    executables: bool = True


class UnixAttestor:
    """Attests by ``/proc``.  ``executables`` turns path and sha256 on."""

    name: Final = TYPE

    def __init__(self, *, executables: bool = True) -> None:
        self._executables = executables
        self._names = Names()
        # A digest stays true for a file whose device, inode, size and both times are unchanged.
        self._digests: OrderedDict[_File, str] = OrderedDict()
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, _File], tuple[frozenset[Selector], float]] = OrderedDict()
        self._looking: WeakValueDictionary[Selector, asyncio.Lock] = WeakValueDictionary()

    async def attest(self, process: Process) -> frozenset[Selector]:
        """Raises: VST2312 if the process has ended."""
        status = process.status()
        uid, gid = status["Uid"][_EFFECTIVE], status["Gid"][_EFFECTIVE]
        names = await self._names.of(int(uid), [int(each) for each in (gid, *status.get("Groups", ()))])
        found = set(_ids(uid, gid, status.get("Groups", ()), names))
        if self._executables:
            known = self._known_executable(process)
            found |= await self._executable(process, _selector("uid", uid)) if known is None else known
        return frozenset(found)

    def _known_executable(self, process: Process) -> frozenset[Selector] | None:
        """What was found out a moment ago about the program that the process runs now; ``None``: look.

        Which program that is, is read anew each time, of this very process, so an ``exec`` in between shows.  Neither
        question waits for a file system, so no thread is needed.
        """
        try:
            if (file := process.executable_facts()) is None:
                return None
            path = process.link("exe")
        except PermissionError:
            return frozenset()
        found, until = self._known.get((path, file), (None, 0.0))
        return found if until > time.monotonic() else None

    async def _executable(self, process: Process, user: Selector) -> frozenset[Selector]:
        # One look at a time for each user: programs may be large, or lie where reading takes for ever, and the
        # threads are for everybody.  A look that nobody waits for any more still has to end before the next.
        async with self._looking.setdefault(user, asyncio.Lock()):
            looking = asyncio.ensure_future(asyncio.to_thread(self._look, process))
            try:
                return await asyncio.shield(looking)
            except asyncio.CancelledError:
                await asyncio.wait([looking])
                looking.exception()  # there is nobody left to be told
                raise

    def _look(self, process: Process) -> frozenset[Selector]:
        found: set[Selector] = set()
        until = time.monotonic() + KNOWN_SECONDS
        try:
            path = process.link("exe")
            with process.open_executable() as file:
                if _is_at(path, file):
                    found.add(_selector("path", path))
                else:
                    _log.debug("process %d runs another program than %s here", process.pid, path)
                facts = _facts(file)
                if digest := self._digest(file, facts):
                    found.add(_selector("sha256", digest))
        except PermissionError:
            _log.debug("process %d may not be examined: no path or sha256 selector", process.pid)
            return frozenset()
        # About this path and this file, whoever runs it: not about the process, which may have gone on to another.
        self._keep(self._known, (path, facts), (frozenset(found), until))
        return frozenset(found)

    def _digest(self, file: Any, key: _File) -> str | None:
        if key[_SIZE] > MAX_EXECUTABLE_BYTES:
            return None
        with self._lock:
            if (known := self._digests.get(key)) is not None:
                self._digests.move_to_end(key)
                return known
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._keep(self._digests, key, digest)
        return digest

    def _keep(self, among: OrderedDict[K, V], key: K, value: V) -> None:
        with self._lock:
            among[key] = value
            among.move_to_end(key)
            if len(among) > _REMEMBERED:
                among.popitem(last=False)


def _facts(file: Any) -> _File:
    facts = os.fstat(file.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _is_at(path: str, file: Any) -> bool:
    """Whether the program is what lies at ``path`` for us.

    A process may have put anything there for itself: whoever can make a user namespace can mount what he likes
    on any directory, in a view of the file system that only his own processes have.
    """
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))  # noqa: PTH116 - beside fstat
    except OSError:
        return False


def _ids(uid: str, gid: str, groups: Sequence[str], names: Names) -> Iterator[Selector]:
    yield _selector("uid", uid)
    yield _selector("gid", gid)
    if user := names.user(int(uid)):
        yield _selector("user", user)
    if group := names.group(int(gid)):
        yield _selector("group", group)
    for extra in groups:
        yield _selector("supplementary_gid", extra)
        if group := names.group(int(extra)):
            yield _selector("supplementary_group", group)


def _selector(kind: str, value: str) -> Selector:
    return Selector(TYPE, f"{kind}:{value}")
