"""Whom a child runs as."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from typing import Final

from vestibule.processes.codes import CANNOT_BECOME, USER_UNKNOWN

_LARGEST: Final = 2**32 - 2
"""Of uids; the next one means none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user of this machine, with all groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = "/"

    @property
    def variables(self) -> dict[str, str]:
        """What a login would set."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def find_user(named: str) -> User:
    """A user by name or number; a number may be nobody's yet, as in containers.

    Raises: VST7008; VST7009 where we may not run anything as somebody else.
    """
    is_number = named.isascii() and named.isdigit()
    try:
        entry = pwd.getpwuid(int(named)) if is_number else pwd.getpwnam(named)
    except (KeyError, OverflowError) as error:
        if not is_number or int(named) > _LARGEST:
            raise USER_UNKNOWN.error(f"this machine knows no user {named!r}") from error
        user = User(name=named, uid=int(named), gid=int(named), groups=())
    else:
        groups = {entry.pw_gid, *(each.gr_gid for each in grp.getgrall() if entry.pw_name in each.gr_mem)}
        user = User(
            name=entry.pw_name,
            uid=entry.pw_uid,
            gid=entry.pw_gid,
            groups=tuple(sorted(groups)),
            home=entry.pw_dir,
        )
    if os.geteuid() not in (0, user.uid):
        raise CANNOT_BECOME.error(f"only root can start a process as {user.name}")
    return user
