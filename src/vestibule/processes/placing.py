"""Files in directories that belong to another user, who may put links there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READABLE: Final = 0o644


def place(directory: Path, name: str, content: bytes, *, owner: int | None = None) -> None:
    """Put a file in place as a whole, which its readers may read; ``owner`` is the directory's, ourselves unless given.

    Whatever stands there, nothing is written elsewhere.  Raises: OSError.
    """
    with _opened(directory, os.geteuid() if owner is None else owner) as here:
        temporary = f".{name}.{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(temporary, _NEW, 0o600, dir_fd=here), "wb") as opened:
                opened.write(content)
                os.fchmod(opened.fileno(), READABLE)
            os.rename(temporary, name, src_dir_fd=here, dst_dir_fd=here)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=here)
            raise


@contextmanager
def _opened(directory: Path, owner: int) -> Iterator[int]:
    here = os.open(directory, _DIRECTORY)
    try:
        if os.fstat(here).st_uid != owner:
            raise PermissionError(0, "it is somebody else's", str(directory))
        yield here
    finally:
        os.close(here)
