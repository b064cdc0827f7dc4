"""What the kernel has at hand about a file: statx(2) with ``AT_STATX_DONT_SYNC``, which waits for no file system.

An ordinary ``stat`` of somebody else's file may take for ever: whoever can mount a file system of his own (FUSE)
answers when he likes.  Python has no call for this one, so it is the C library's; where that has none, nothing is
known.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from typing import Final, TypeAlias

FileFacts: TypeAlias = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of content and of anything, in nanoseconds since 1970."""

_NO_AUTOMOUNT: Final = 0x0800
_DONT_SYNC: Final = 0x4000
_BASIC_STATS: Final = 0x07FF
_NEEDED: Final = 0x0040 | 0x0080 | 0x0100 | 0x0200
"""Both times, inode and size."""

_STATX: Final = struct.Struct("=I28xQQ48xqI4xqI12xII112x")
"""Of the 256 bytes of ``struct statx``: mask, inode, size, ctime, mtime, device."""

_Call: TypeAlias = Callable[..., int]


def _found() -> _Call | None:
    try:
        call = ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    return call


_statx: Final = _found()


def facts_at_hand(directory: int, name: bytes) -> FileFacts | None:
    """The facts about ``name`` in an open directory; ``None`` where the kernel does not have all of them.

    Raises: OSError.
    """
    if _statx is None:
        return None
    buffer = ctypes.create_string_buffer(_STATX.size)
    if _statx(directory, name, _DONT_SYNC | _NO_AUTOMOUNT, _BASIC_STATS, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    mask, inode, size, changed, changed_ns, modified, modified_ns, major, minor = _STATX.unpack(buffer.raw)
    if mask & _NEEDED != _NEEDED:
        return None
    return (
        os.makedev(major, minor),
        inode,
        size,
        modified * 10**9 + modified_ns,
        changed * 10**9 + changed_ns,
    )
