"""A secret and its versions, without what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from vestibule.secrets.versions.codes import MALFORMED_SETTINGS
from vestibule.secrets.versions.values import Data

USUAL_VERSIONS: Final = 10
"""How many are kept where nothing is said."""

MOST_VERSIONS: Final = 1000
"""How many may be asked for: each write carries what is known of all that are kept."""

MOST_CUSTOM: Final = 64
LONGEST_NAME: Final = 128
LONGEST_VALUE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who changes something: a SPIFFE ID, or an operator's name; and the request in which they did."""

    name: str
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a secret.  ``deleted`` is when it stops to be readable, past or to come."""

    number: int
    created: datetime
    created_by: Actor
    deleted: datetime | None = None
    deleted_by: Actor | None = None
    destroyed: bool = False

    def is_readable(self, now: datetime) -> bool:
        """Neither destroyed nor deleted, nor past its time."""
        return not self.destroyed and (self.deleted is None or now < self.deleted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a secret, or every secret, is kept.

    ``max_versions`` 0 is what the others say, or 10; ``delete_after`` zero is never.  A negative one is for all secrets
    only: never, whatever a secret's own says.
    """

    max_versions: int = 0
    cas_required: bool = False
    delete_after: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if not 0 <= self.max_versions <= MOST_VERSIONS:
            raise MALFORMED_SETTINGS.error(
                f"max_versions is {self.max_versions}; 0 to {MOST_VERSIONS:,} are possible"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What is known of a secret.

    ``current`` is the number of the newest version, 0 before the first; ``oldest`` that of the oldest one which may
    still be there, 0 before as many were written as are kept.  ``versions`` by number, the oldest first.
    """

    created: datetime
    updated: datetime
    updated_by: Actor
    current: int = 0
    oldest: int = 0
    settings: Settings = Settings()
    custom: Mapping[str, str] | None = None
    versions: Mapping[int, Version] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One version as it was read; ``data`` is None when the version is deleted or destroyed."""

    version: Version
    custom: Mapping[str, str] | None
    data: Data | None = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The version that is there now.  ``done`` is False when there was nothing to patch: it is deleted or destroyed."""

    version: Version
    custom: Mapping[str, str] | None
    done: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """New settings of a secret, or of all; None leaves one as it is.

    ``custom`` replaces all custom metadata, ``custom_patch`` only those named (None removes one).
    """

    max_versions: int | None = None
    cas_required: bool | None = None
    delete_after: timedelta | None = None
    custom: Mapping[str, str] | None = None
    custom_patch: Mapping[str, str | None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return self == SettingChange()

    def settings(self, there: Settings) -> Settings:
        """``there`` with what changes.  Raises: VST5105."""
        return Settings(
            max_versions=there.max_versions if self.max_versions is None else self.max_versions,
            cas_required=there.cas_required if self.cas_required is None else self.cas_required,
            delete_after=there.delete_after if self.delete_after is None else self.delete_after,
        )

    def customs(self, there: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Custom metadata ``there`` with what changes.  Raises: VST5105."""
        found: dict[str, str | None] = dict((there if self.custom is None else self.custom) or {})
        found |= self.custom_patch or {}
        kept = {name: value for name, value in found.items() if value is not None}
        check_custom(kept)
        return kept or None


def check_custom(custom: Mapping[str, str]) -> None:
    """Raise VST5105 for custom metadata that are too many, too long, or not printable."""
    if len(custom) > MOST_CUSTOM:
        raise _unfit(f"payload must contain at most {MOST_CUSTOM} keys, provided {len(custom)}")
    for name, value in custom.items():
        _check_length(name, LONGEST_NAME, f"length of key {name[:LONGEST_NAME]!r}")
        _check_length(value, LONGEST_VALUE, f"length of value for key {name!r}")
        if not (name + value).isprintable():
            raise _unfit(f"key {name!r} or its value contains unprintable characters")


def _check_length(text: str, most: int, what: str) -> None:
    if not 0 < (length := len(text.encode(errors="surrogatepass"))) <= most:
        raise _unfit(f"{what} is {length} but must be 0 < length <= {most}")


def _unfit(message: str) -> Exception:
    return MALFORMED_SETTINGS.error(f"custom_metadata validation failed: {message}")
