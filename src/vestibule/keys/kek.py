"""The key-encryption key, and its homes.

A *credential of systemd* is decrypted by systemd when the service starts, with a key of the machine's TPM or of the
host (``systemd-creds``), and given to the service as a file in memory; on disk there is only what the TPM, or root,
can open.  Else it is a *file* of its owner, mode 0600, which is made where there is none.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from vestibule.keys.codes import KEK_REFUSED
from vestibule.keys.files import read_private, write_private
from vestibule.keys.sealing import KEK_BYTES

CREDENTIALS: Final = re.compile(r"/run/(user/[0-9]+/)?credentials/")
"""Where systemd puts the credentials of system and user services (systemd.exec(5))."""


def is_credential(path: Path, credentials: re.Pattern[str] = CREDENTIALS) -> bool:
    """Whether systemd gave us this file."""
    return credentials.match(str(path)) is not None


def kek_home(path: Path) -> str:
    """Where the key at ``path`` lives, in words."""
    return f"a credential of systemd ({path})" if is_credential(path) else f"a file with mode 0600 ({path})"


def load_or_create_kek(path: Path, credentials: re.Pattern[str] = CREDENTIALS) -> bytes:
    """The 32 bytes in the file at ``path``, which is made if it is not there.  A secret.

    Of several processes that start at once, one makes the file and all read that one.
    Raises: VST1104 when the file can not be made, or is not ours alone: a key that others could read is no key.
    """
    if is_credential(path, credentials):
        return _credential(path)
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


def _credential(path: Path) -> bytes:
    """Systemd lets the service in by its user or by an access list, which shows as bits of the group; nobody else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if (
                not stat.S_ISREG(status.st_mode)
                or status.st_uid not in (0, os.geteuid())
                or status.st_mode & 0o007
            ):
                raise PermissionError("it is not a credential that systemd made for this service")
            kek = file.read(KEK_BYTES + 1)
    except OSError as error:
        raise KEK_REFUSED.error(
            f"{path} is refused: {error.strerror or error}",
            advice="Check LoadCredentialEncrypted= in the unit, and that the credential was made on this machine "
            "(systemd-creds encrypt --name=NAME).",
        ) from error
    if len(kek) != KEK_BYTES:
        raise KEK_REFUSED.error(f"{path} is refused: it does not hold {KEK_BYTES} bytes")
    return kek
