"""The key-encryption key, in a file of its own."""

from __future__ import annotations

import errno
import secrets
from contextlib import suppress
from pathlib import Path

from vestibule.keys.codes import KEK_REFUSED
from vestibule.keys.files import read_private, write_private
from vestibule.keys.sealing import KEK_BYTES


def load_or_create_kek(path: Path) -> bytes:
    """The 32 bytes in the file at ``path``, which is made if it is not there.  A secret.

    Of several processes that start at once, one makes the file and all read that one.
    Raises: VST1104 when the file can not be made, or is not ours alone: a key that others could read is no key.
    """
    try:
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                write_private(path, secrets.token_bytes(KEK_BYTES), replace=False)
        kek = read_private(path, KEK_BYTES + 1)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise KEK_REFUSED.error(
            f"{path} is refused: {error.strerror or error}",
            advice="Free space on its disk." if full else None,
        ) from error
    if len(kek) != KEK_BYTES:
        raise KEK_REFUSED.error(f"{path} is refused: it does not hold {KEK_BYTES} bytes")
    return kek
