"""What a server is told of the repository that holds its mesh's intent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.configuration.sizes import Size, parse_size
from vestibule.cli.durations import parse_duration

if TYPE_CHECKING:
    from vestibule.calls.git import Access, Place, Ref

SHORTEST_POLL: Final = timedelta(seconds=1)
LEAST_SIZE: Final = 2**20
OPTION: Final = "intent_git"
"""How the names of the options begin."""


class ForcePush(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """What becomes of a branch or tag that no longer contains the commit in force."""

    REFUSE = "refuse"
    FOLLOW = "follow"


@dataclass(frozen=True, slots=True, kw_only=True)
class GitIntent:
    """A folder of a branch, a tag or a commit, and how to get at it.  Secrets stand in files that it names."""

    repository: str = ""
    ref: str = "main"
    directory: str = ""
    poll: timedelta = timedelta(seconds=10)
    webhook_secret: Path | None = None
    allowed_signers: Path | None = None
    allowed_keys: Path | None = None
    force_push: ForcePush = ForcePush.REFUSE
    credentials: Path | None = None
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    ca: Path | None = None
    max_size: Size = Size(2**30)  # noqa: RUF009 - a number

    def __post_init__(self) -> None:
        if not self.repository:
            raise INVALID_SETTING.error("intent from Git needs a repository")
        place, _ = self.place, self.parsed_ref
        self.folder  # noqa: B018 - it is parsed
        if self.poll < SHORTEST_POLL:
            raise INVALID_SETTING.error("poll of intent must be at least 1 s")
        if self.max_size < LEAST_SIZE:
            raise INVALID_SETTING.error("max_size of intent is under 1MiB")
        if place.is_ssh and None in (self.ssh_key, self.known_hosts):
            raise INVALID_SETTING.error(
                "intent by SSH needs ssh_key and known_hosts",
                advice="Make a key for this alone (a read-only deploy key), and keep the host's: ssh-keyscan HOST.",
            )
        if not place.is_https and (self.credentials or self.ca):
            raise INVALID_SETTING.error("credentials and ca of intent are for https alone")

    @property
    def place(self) -> Place:
        """Raises: VST3220."""
        from vestibule.calls.git import Place

        local = self.repository.startswith((".", "~"))
        return Place.parse(str(Path(self.repository).expanduser().absolute()) if local else self.repository)

    @property
    def parsed_ref(self) -> Ref:
        """Raises: VST3220."""
        from vestibule.calls.git import Ref

        return Ref.parse(self.ref)

    @property
    def folder(self) -> str:
        """Raises: VST3220."""
        from vestibule.calls.git import folder

        return folder(self.directory)

    @property
    def access(self) -> Access:
        """How git gets in, and whom it believes."""
        from vestibule.calls.git import Access

        return Access(
            credentials=self.credentials,
            ssh_key=self.ssh_key,
            known_hosts=self.known_hosts,
            ca=self.ca,
            allowed_signers=self.allowed_signers,
            allowed_keys=self.allowed_keys,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FromGit:
    """The intent, where it is no directory."""

    git: GitIntent | None = None

    def __post_init__(self) -> None:
        if self.git is None:
            raise INVALID_SETTING.error("intent is neither a directory nor git")


def from_options(given: Mapping[str, Any]) -> FromGit | None:
    """The intent as the options ``intent_git…`` say it; None, if none was given.  Raises: VST9110, VST3220."""
    told = {name: given[option] for name, option in _options() if given.get(option) is not None}
    if not told:
        return None
    return FromGit(git=GitIntent(**{name: _typed(name, value) for name, value in told.items()}))


def _options() -> Iterator[tuple[str, str]]:
    for each in fields(GitIntent):
        yield each.name, OPTION if each.name == "repository" else f"{OPTION}_{each.name}"


OPTIONS: Final = frozenset(option for _, option in _options())


def _typed(name: str, value: Any) -> Any:
    if name == "poll":
        return value if isinstance(value, timedelta) else parse_duration(str(value))
    if name == "max_size":
        return parse_size(str(value))
    if name == "force_push":
        return ForcePush(value)
    return Path(value).expanduser().absolute() if isinstance(value, Path) else str(value)
