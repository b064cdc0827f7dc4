"""What a process that holds private keys gives up, so that nobody else gets them out of its memory."""

from __future__ import annotations

import ctypes
import logging
import resource
from contextlib import suppress
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_log = logging.getLogger(__name__)


def keep_memory_private() -> None:
    """No core dumps (RLIMIT_CORE 0, also for handlers in ``core_pattern``), and no debugger of the same user.

    PR_SET_DUMPABLE 0 makes ``/proc/PID/mem`` and the like root's: another process of this user can then not read our
    keys by ``ptrace``.  What tells who we are (``/proc/PID/stat``, its owner aside) stays readable for everybody, and a
    process is never kept from its own.  Programs that we start get it back by ``execve``.
    """
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is None or prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("cannot keep debuggers and core dumps away from this process")
