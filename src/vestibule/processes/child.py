"""One started process and its process group.

A child leads a session and group of its own, so that Ctrl-C in the terminal reaches only us, and is killed by
the kernel when we die (PR_SET_PDEATHSIG), however we die.  When the leader ends, the rest of its group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from vestibule.processes import procfs
from vestibule.processes.codes import CANNOT_START
from vestibule.processes.users import User

_PR_SET_PDEATHSIG: Final = 1
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_LOWER: Final = 3
_NETWORK_POWERS: Final = (12, 21)
"""CAP_NET_ADMIN and CAP_SYS_ADMIN: what a supervisor may need for boundaries, and no child does."""

_CLONE_NEWNS: Final = 0x00020000
_MS_BIND: Final = 0x1000
_MS_PRIVATE_RECURSIVE: Final = 0x40000 | 0x4000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_prctl: Final = _libc.prctl


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start.

    ``env`` of None inherits ours.  ``hand_over`` are descriptors that the child gets under their own numbers and
    that we close once it has started (``secret_descriptor`` makes one).  ``death_signal`` is what the kernel sends
    the child when we die.  ``user`` is whom it runs as, ``hosts`` a file that it sees as ``/etc/hosts``; both
    need powers, which the child does not inherit.
    ``limits`` are its resource limits: (resource, most), soft and hard.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    hand_over: tuple[int, ...] = ()
    death_signal: signal.Signals = signal.SIGKILL
    user: User | None = None
    hosts: Path | None = None
    limits: tuple[tuple[int, int], ...] = ()


class Child:
    """A running, then ended, process.  ``pid`` and ``start_time`` name it for as long as the machine is up."""

    def __init__(self, process: subprocess.Popen[bytes], ended: asyncio.Future[int]) -> None:
        self._process = process
        self._ended = ended
        self.pid = process.pid
        self.start_time = procfs.start_time(process.pid) or 0
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    @classmethod
    def start(cls, command: Command, *, output: int | None = None) -> Child:
        """Start it, in the main thread only.  ``output`` takes stdout and stderr; None inherits ours.

        Raises: VST7000.
        """
        if threading.current_thread() is not threading.main_thread():
            # The death signal is bound to the thread that forked, not to the process.
            raise RuntimeError("children are started from the main thread")
        try:
            process = _popen(command, output)
        except (OSError, subprocess.SubprocessError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise CANNOT_START.error(f"cannot start {command.argv[0]}: {reason}") from error
        finally:
            for descriptor in command.hand_over:
                os.close(descriptor)
        return cls(process, asyncio.get_running_loop().create_future())

    @property
    def running(self) -> bool:
        return not self._ended.done()

    @property
    def returncode(self) -> int | None:
        """The exit status; the negative signal number if one killed it; None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Return the exit status once the process ended."""
        return await asyncio.shield(self._ended)

    def signal(self, signum: int) -> None:
        """Signal the whole group; nothing happens once the leader ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signum)

    async def stop(self, grace: float) -> int:
        """SIGTERM, at most ``grace`` seconds of patience, SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                return await self.wait()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """SIGKILL for the group."""
        self.signal(signal.SIGKILL)
        return await self.wait()

    def _reap(self) -> None:
        # The group's number is ours until its leader is reaped: now is the last safe moment to end the group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(self._process.wait())


def secret_descriptor(secret: bytes) -> int:
    """A descriptor from which a child reads a secret once, for ``Command.hand_over``; nothing touches a disk."""
    reader, writer = os.pipe()
    try:
        # Pipes take 64 KiB without a reader; secrets are a few bytes.
        os.write(writer, secret)
    finally:
        os.close(writer)
    return reader


def ended_how(returncode: int) -> str:
    """An exit status in words."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


def _popen(command: Command, output: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.argv,
        env=command.env,
        cwd=command.cwd,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=command.hand_over,
        start_new_session=True,
        preexec_fn=_prepare(command),
    )


def _prepare(command: Command) -> Callable[[], None]:
    """What runs between fork and exec: system calls, and nothing that takes a lock."""
    return partial(
        _become,
        parent=os.getpid(),
        death_signal=int(command.death_signal),
        hosts=os.fsencode(command.hosts) if command.hosts is not None else None,
        limits=command.limits,
        user=command.user,
    )


def _become(
    *,
    parent: int,
    death_signal: int,
    hosts: bytes | None,
    limits: tuple[tuple[int, int], ...],
    user: User | None,
) -> None:
    """In this order: what needs our powers, giving them up, and the death signal, which a change of user takes away."""
    if hosts is not None:
        _must(_libc.unshare(_CLONE_NEWNS))
        _must(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_PRIVATE_RECURSIVE), None))
        _must(_libc.mount(hosts, b"/etc/hosts", None, ctypes.c_ulong(_MS_BIND), None))
    for kind, most in limits:
        resource.setrlimit(kind, (most, most))
    if user is not None:
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    for power in _NETWORK_POWERS:
        # Fails where there is nothing to give up.
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_LOWER, power, 0, 0)
    _prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent:
        # We lost the race: the parent died before the kernel knew what to do then.
        os._exit(1)


def _must(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
