"""Files of SVIDs as commands write them: modes, owners, passwords, and single files that are replaced as a whole."""

from __future__ import annotations

import base64
import grp
import os
import pwd
import stat
import tempfile
from pathlib import Path
from typing import Final

from vestibule.cli.codes import USAGE
from vestibule.sdk.files.codes import PASSWORD_UNUSABLE
from vestibule.sdk.files.directory import FileDirectory, Owner

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644
_SHORTEST_PASSWORD: Final = 6
"""What Java's keytool insists on."""


def existing_directory(path: Path, *, owner: Owner | None = None, linked: bool = True) -> FileDirectory:
    """A directory for files.  Raises: VST9100."""
    if not path.is_dir():
        raise USAGE.error(f"{path} is not a directory", advice="Create it first, with mode 0700.")
    return FileDirectory(path, owner=owner or Owner(), linked=linked)


def parse_owner(user: str, group: str) -> Owner:
    """Names or numbers of this machine.  Raises: VST9100."""
    try:
        uid = -1 if not user else int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
        gid = -1 if not group else int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise USAGE.error(
            f"this machine does not know it: {error.args[0]}",
            advice="getent passwd and getent group show who there is.",
        ) from error
    return Owner(uid=uid, gid=gid)


def read_password(path: Path) -> str:
    """The password of keystores, which never stands on a command line.  Raises: VST2453."""
    try:
        with path.open(encoding="ascii") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            password = file.read(4096).removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise PASSWORD_UNUSABLE.error(f"cannot read the password in {path}: {why}") from error
    if mode & 0o007:
        raise PASSWORD_UNUSABLE.error(f"{path} is open to everybody (mode {mode:04o})")
    if len(password) < _SHORTEST_PASSWORD or not password.isprintable():
        raise PASSWORD_UNUSABLE.error(
            f"{path} holds no password of {_SHORTEST_PASSWORD} characters in one line"
        )
    return password


def parse_mode(text: str) -> int:
    """``0640``.  Raises: VST9100."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise USAGE.error(f"{text!r} is no mode of a file", advice="Write it in octal, such as 0640.")
    return mode


def replace_file(path: Path, text: str, mode: int) -> None:
    """The old file or the new one, never a part, and never with a wider mode than asked for."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
                os.fchmod(file.fileno(), mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise USAGE.error(
            f"cannot write {path}: {error.strerror}", advice="Check the directory's rights and space."
        ) from error


def pem(label: str, der: bytes) -> str:
    """DER in PEM's clothes (RFC 7468)."""
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n"
