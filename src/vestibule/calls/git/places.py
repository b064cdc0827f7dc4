"""Where a repository is, and which of its commits is meant: text that reaches a command line, so it is parsed first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from vestibule.calls.git.codes import GIT_ADDRESS

LONGEST: Final = 1024
_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])"
_USER: Final = r"[A-Za-z0-9_][A-Za-z0-9._+-]*"
_PORT: Final = r"(?::[0-9]{1,5})?"
_PRINTABLE: Final = re.compile(r"[!-~]+")
_HTTPS: Final = re.compile(rf"https://(?:{_USER}@)?{_HOST}{_PORT}/[^?#]+")
_SSH: Final = re.compile(rf"ssh://(?:{_USER}@)?{_HOST}{_PORT}/[^?#]+")
_SCP: Final = re.compile(rf"{_USER}@{_HOST}:(?![-:])[^:]+")
# What GitHub and GitLab take in place of a user's name; also an old token of 40 digits.
_TOKEN: Final = re.compile(r"gh[a-z]_\w+|github_pat_\w+|gl[a-z]+-[\w.-]+|[0-9a-f]{40}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# git-check-ref-format(1), and nothing that ls-remote takes for a pattern.
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@=-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The address of a repository, without secrets.  ``path`` is set where it is on this machine."""

    url: str
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read an address.  Other transports, such as ``ext::``, run what they are told to.  Raises: VST3220."""
        if len(text) > LONGEST:
            raise GIT_ADDRESS.error(f"the address of a repository is longer than {LONGEST} characters")
        if text.startswith("file://"):
            parts = urlsplit(text)
            text = unquote(parts.path) if parts.netloc in ("", "localhost") else ""
        if text.startswith("/"):
            if not text.isprintable():
                raise GIT_ADDRESS.error("the path of a repository holds characters that cannot be printed")
            return cls(url=text, path=Path(text))
        authority = text.rpartition("://")[2].partition("/")[0]
        user = authority.rpartition("@")[0]
        if ":" in user or _TOKEN.fullmatch(user):
            # Not repeated: every process list would show it, and the status.
            raise GIT_ADDRESS.error("the address of a repository holds a password or a token")
        known = any(pattern.fullmatch(text) for pattern in (_HTTPS, _SSH)) or (
            "://" not in text and _SCP.fullmatch(text)
        )
        if not known or not _PRINTABLE.fullmatch(text):
            shown = text.encode("ascii", "backslashreplace").decode()[:80]
            raise GIT_ADDRESS.error(f"{shown!r} is no address that is fetched from")
        return cls(url=text)

    @property
    def is_https(self) -> bool:
        """Whether it is asked over HTTPS."""
        return self.url.startswith("https://")

    @property
    def is_ssh(self) -> bool:
        """Whether it is asked over SSH."""
        return self.path is None and not self.is_https

    @property
    def origin(self) -> str:
        """``https://host:port`` of an https address: whom credentials are for."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A branch, a tag, or one commit."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Ref:
        """``main``, ``v1.2``, ``refs/tags/v1.2`` or a whole commit id.  Raises: VST3220."""
        wrong = (
            len(text) > 255
            or not _REF.fullmatch(text)
            or any(bad in text for bad in ("..", "//", "@{", "/.", ".lock/"))
            or text.endswith((".", "/", ".lock"))
        )
        if wrong:
            raise GIT_ADDRESS.error(f"{text[:80]!r} is no name of a branch or tag, and no commit")
        return cls(text=text)

    @property
    def commit(self) -> str | None:
        """The commit, where one is named."""
        return self.text if _COMMIT.fullmatch(self.text) else None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The full names it may stand for, the likelier first."""
        if self.text.startswith("refs/"):
            return (self.text,)
        return (f"refs/heads/{self.text}", f"refs/tags/{self.text}")

    def __str__(self) -> str:
        return self.text


def folder(text: str) -> str:
    """A folder of a repository, without slashes around it; ``""`` is the root.  Raises: VST3220."""
    trimmed = text.strip("/")
    parts = trimmed.split("/") if trimmed else []
    if not text.isprintable() or any(part in ("", ".", "..") for part in parts) or len(text) > LONGEST:
        raise GIT_ADDRESS.error(f"{text[:80]!r} is no folder of a repository")
    return trimmed
