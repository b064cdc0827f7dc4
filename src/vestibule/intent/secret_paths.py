"""Patterns of secrets' paths: ``secret/payments/db``, ``secret/{team}/db``, ``secret/payments/**``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from vestibule.errors import VestibuleError
from vestibule.intent import codes
from vestibule.intent.problems import nearest
from vestibule.policy import PathPattern

MOUNTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "secret": (),
        "database": (
            *("creds", "static-creds", "roles", "static-roles", "config"),
            *("rotate-role", "rotate-root", "reset"),
        ),
        "transit": (
            *("encrypt", "decrypt", "rewrap", "sign", "verify", "hmac", "hash"),
            *("datakey", "random", "keys"),
        ),
    }
)
"""Where rules can lead, and what stands below, where that is not for people to choose."""

_NOT_FOR_RULES: Final = frozenset({"sys", "auth", "cubbyhole"})
_STARS: Final = re.compile(r"(?<![^/])\*(?=/|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPath(PathPattern):
    """A pattern of the paths of one mount.  It is written without the slash that it begins with inside."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one; ``*`` is one segment, as ``{name}`` is.  Raises: VST0080."""
        if text.startswith("/"):
            raise codes.SECRET_PATH.error(
                f"the path {_shown(text)} begins with a slash", advice=f"Write {text.lstrip('/')[:200]}."
            )
        found = _parsed(text)
        if found.segments and found.segments[-1] == "":
            raise codes.SECRET_PATH.error(
                f"the path {_shown(text)} ends with a slash", advice=f"Write {text.rstrip('/')[:200]}/**."
            )
        _check_mount(text, found)
        return cls(segments=found.segments, below=found.below)

    @property
    def mount(self) -> str:
        """The first segment, which is always written out."""
        return str(self.segments[0])

    def __str__(self) -> str:
        return "/".join(map(str, self.segments)) + ("/**" if self.below else "")


def _parsed(text: str) -> PathPattern:
    try:
        return PathPattern.parse("/" + _STARS.sub("{any}", text))
    except VestibuleError as error:
        raise codes.SECRET_PATH.error(error.message.replace("'/", "'", 1)) from error


def logical(text: str) -> str:
    """A path with its mount: what begins with none is below ``secret/``."""
    path = text.strip("/")
    return path if path.partition("/")[0] in MOUNTS else f"secret/{path}"


def unknown_below(path: SecretPath) -> str | None:
    """What stands below a mount that has nothing of that name; None where all is well."""
    known = MOUNTS[path.mount]
    if not known or len(path.segments) < 2 or not isinstance(path.segments[1], str):
        return None
    return None if path.segments[1] in known else path.segments[1]


def _check_mount(text: str, found: PathPattern) -> None:
    first = found.segments[0] if found.segments else None
    if isinstance(first, str) and first in MOUNTS:
        return
    if not isinstance(first, str):
        raise codes.SECRET_PATH.error(
            f"the path {_shown(text)} does not say in which mount it is",
            advice=f"Begin it with {_mounts()}.",
        )
    if first in _NOT_FOR_RULES:
        raise codes.SECRET_PATH.error(
            f"the path {_shown(text)} is the secret manager's own, which no rule opens",
            advice=f"Rules speak of {_mounts()}.",
        )
    close = nearest(first, MOUNTS)
    raise codes.SECRET_PATH.error(
        f"there is no mount {first!r}",
        advice=f"Did you mean {close!r}?" if close else f"Begin the path with {_mounts()}.",
    )


def _mounts() -> str:
    *some, last = (f"{each}/" for each in MOUNTS)
    return f"{', '.join(some)} or {last}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
