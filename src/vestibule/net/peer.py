"""The process at the other end of a Unix socket, pinned so that a reused pid is never taken for it.

What is known at each moment:

1. The kernel names the peer as it was when it connected (``SO_PEERCRED``: pid, uid, gid).
2. We open ``/proc/PID`` as soon as the connection is accepted and keep the descriptor.  Everything read
   through it belongs to that process, and fails once the process has ended, whoever gets its pid next.
3. Between 1 and 2 the peer may have ended and its pid may have been given away.  The kernel's own handle
   on the peer (``SO_PEERPIDFD``, Linux 6.5) tells: if the peer lives *after* step 2, the directory opened
   in step 2 is its own.  Older kernels: the directory's process must at least have the peer's user.
4. A peer that has ended gets no answers, even if it left the socket to a child.
5. Neither does one whose user or group is no longer the one it connected with.  A process can connect, leave
   the socket to a child and then execute a set-user-id program: what the child asks would be answered to root.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import struct
from asyncio import BaseTransport
from dataclasses import dataclass, field
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.net.codes import PEER_GONE
from vestibule.net.statx import FileFacts, facts_at_hand

_SO_PEERPIDFD: Final = 77
_UCRED: Final = struct.Struct("3i")
_STATUS_LIMIT: Final = 64 * 1024
_FACTS: Final = re.compile(rb"^(State|Uid|Gid|Groups):[\t ]*(.*)$", re.ASCII | re.MULTILINE)
_EFFECTIVE: Final = 1  # of the four ids in /proc/PID/status: real, effective, saved, file system


class ProcessHandle:
    """An open ``/proc/PID``: reads concern this one process for ever, or fail because it has ended.

    With an ``owner`` (effective uid and gid) they fail also while the process has another one.
    """

    __slots__ = ("_directory", "owner", "pid", "start_time")

    def __init__(self, pid: int) -> None:
        """Raises: VST2312 if there is no such process."""
        self.pid = pid
        self.owner: tuple[int, int] | None = None
        self._directory = -1
        try:
            self._directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise PEER_GONE.error(f"there is no process {pid}") from error
        try:
            self.start_time = int(self._stat()[19])
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises: VST2312 if the process has ended (a zombie has), or if it has another owner now."""
        if self.status()["State"][0] in ("Z", "X", "x"):
            raise self._gone()

    def freeze_owner(self) -> None:
        """From now on only a process of the user and group that it has now.  Raises: VST2312."""
        self.owner = _effective(self.status())

    def parent_pid(self) -> int:
        """The pid of the parent now, 0 if there is none in this namespace.  Raises: VST2312."""
        return int(self._stat()[1])

    def status(self) -> dict[str, list[str]]:
        """State and ids (``State``, ``Uid``, ``Gid``, ``Groups``) of ``/proc/PID/status``, as words by key.

        Raises: VST2312.
        """
        found = _FACTS.findall(self.read("status"))
        status = {key.decode(): value.decode().split() for key, value in found}
        # Compared in the very reading that is handed on: no moment is left in which the ids could differ.
        if self.owner is not None and self.owner != _effective(status):
            raise PEER_GONE.error(f"the process {self.pid} has changed its user or group since it connected")
        return status

    def read(self, name: str, limit: int = _STATUS_LIMIT) -> bytes:
        """The content of a file in the process's directory.  Raises: VST2312, PermissionError."""
        file, parts = self._descriptor(name), []
        try:
            while limit > 0 and (part := os.read(file, limit)):
                parts.append(part)
                limit -= len(part)
        except ProcessLookupError as error:
            raise self._gone() from error
        finally:
            os.close(file)
        return b"".join(parts)

    def link(self, name: str) -> str:
        """Where a link in the process's directory points.  Raises: VST2312, PermissionError."""
        try:
            return os.readlink(name, dir_fd=self._open_directory())
        except (FileNotFoundError, ProcessLookupError) as error:
            raise self._gone() from error

    def open_executable(self) -> Any:
        """The running executable, opened for reading, even if its file was replaced or removed since.

        Raises: VST2312, PermissionError.
        """
        return os.fdopen(self._descriptor("exe"), "rb")

    def executable_facts(self) -> FileFacts | None:
        """What is at hand about the file of the running executable, without waiting for its file system.

        ``None`` where that is not enough to tell files apart.  Raises: VST2312, PermissionError.
        """
        try:
            return facts_at_hand(self._open_directory(), b"exe")
        except PermissionError:
            raise
        except (FileNotFoundError, ProcessLookupError) as error:
            raise self._gone() from error
        except OSError:
            return None

    def close(self) -> None:
        """Let go; every later question raises VST2312.  Safe to call twice."""
        directory, self._directory = self._directory, -1
        if directory >= 0:
            os.close(directory)

    def __del__(self) -> None:
        self.close()

    def _descriptor(self, name: str) -> int:
        try:
            return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._open_directory())
        except (FileNotFoundError, ProcessLookupError) as error:
            raise self._gone() from error

    def _open_directory(self) -> int:
        if self._directory < 0:
            raise self._gone()
        return self._directory

    def _stat(self) -> list[str]:
        # The second field is the command's name in parentheses and may hold anything; the last ")" ends it.
        # Counting from there: 0 state (field 3), 1 parent (4), 19 start time (22).
        return self.read("stat").decode("utf-8", "replace").rpartition(")")[2].split()

    def _gone(self) -> VestibuleError:
        return PEER_GONE.error(f"the process {self.pid} has ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A connected process: who it was when it connected, and a handle on it that outlives its pid.

    ``uid`` and ``gid`` are the effective ones at the time of connecting; ``start_time`` is field 22 of
    ``/proc/PID/stat``, in clock ticks since boot.
    """

    pid: int
    uid: int
    gid: int
    start_time: int
    process: ProcessHandle | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of_transport(cls, transport: BaseTransport) -> Peer | None:
        """The peer of an accepted Unix connection; ``None`` for other sockets."""
        sock = transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            return None
        return cls.of_socket(sock)

    @classmethod
    def of_socket(cls, sock: Any) -> Peer:
        """The peer of a connected Unix socket.  A peer that is gone already has no ``process``."""
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        process = _pin(sock, pid, uid, gid)
        start_time = process.start_time if process else 0
        return cls(pid=pid, uid=uid, gid=gid, start_time=start_time, process=process)

    def check(self) -> ProcessHandle:
        """The handle, once more made sure of.  Raises: VST2312."""
        process = self.pinned()
        process.check()
        return process

    def pinned(self) -> ProcessHandle:
        """The handle; whoever asks it something hears whether the process is still there.  Raises: VST2312."""
        if self.process is None:
            what = f"the process {self.pid}" if self.pid else "a process of another PID namespace"
            raise PEER_GONE.error(f"{what} cannot be identified any more")
        return self.process

    def release(self) -> None:
        """Let go of the process: the connection is closed."""
        if self.process is not None:
            self.process.close()


def peer_of(stream: Any) -> Peer:
    """The process that calls, from a handler's stream.

    Raises: VST2312 if it has ended, or if the connection is not a Unix socket.
    """
    peer: Peer | None = getattr(stream.peer._transport.get_protocol(), "peer", None)
    if peer is None:
        raise PEER_GONE.error("the connection does not tell which process calls")
    peer.check()
    return peer


def _pin(sock: Any, pid: int, uid: int, gid: int) -> ProcessHandle | None:
    if pid <= 0:
        return None
    try:
        process = ProcessHandle(pid)
    except VestibuleError:
        return None
    if _still_the_peer(sock, process, uid):
        process.owner = (uid, gid)
        return process
    process.close()
    return None


def _still_the_peer(sock: Any, process: ProcessHandle, uid: int) -> bool:
    try:
        pidfd = int(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        # Only a kernel without the option leaves us to guess.  ESRCH says that the peer has ended and was reaped,
        # which is just when its pid is free for somebody else; and a lack of descriptors may be of its making.
        return error.errno in (errno.ENOPROTOOPT, errno.EINVAL) and _has_user(process, uid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return not poll.poll(0)
    finally:
        os.close(pidfd)


def _effective(status: dict[str, list[str]]) -> tuple[int, int]:
    try:
        return int(status["Uid"][_EFFECTIVE]), int(status["Gid"][_EFFECTIVE])
    except (KeyError, IndexError, ValueError):
        return -1, -1


def _has_user(process: ProcessHandle, uid: int) -> bool:
    try:
        return str(uid) in process.status().get("Uid", [])
    except VestibuleError:
        return False
