"""Versioned secrets in Vault's forms: bodies of requests read, answers written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from vestibule.doors.vault import fields
from vestibule.secrets.versions import Actor, Reading, Secret, SettingChange, Settings, Version, Written
from vestibule.secrets.versions.codes import MALFORMED_REQUEST, MALFORMED_SETTINGS

MOST_NUMBERS: Final = 1000
"""Versions named in one request."""

_NEVER: Final = timedelta(seconds=-1)

# ---------------------------------------------------------------------------------------------- answers


def reading_form(reading: Reading) -> dict[str, Any]:
    """The data of a read; ``data`` is null where the version cannot be read."""
    return {"data": reading.data, "metadata": version_form(reading.version, reading.custom)}


def written_form(written: Written) -> dict[str, Any]:
    """The data of a write."""
    return version_form(written.version, written.custom)


def version_form(version: Version, custom: Mapping[str, str] | None) -> dict[str, Any]:
    """A version beside what it holds."""
    return {
        "created_time": instant_form(version.created),
        "custom_metadata": custom,
        "deletion_time": instant_form(version.deleted),
        "destroyed": version.destroyed,
        "version": version.number,
    }


def secret_form(secret: Secret) -> dict[str, Any]:
    """The data of a read of metadata."""
    return {
        **settings_form(secret.settings),
        "created_time": instant_form(secret.created),
        "current_version": secret.current,
        "custom_metadata": secret.custom,
        "last_updated_by": _actor_form(secret.updated_by),
        "oldest_version": secret.oldest,
        "updated_time": instant_form(secret.updated),
        "versions": {str(number): _history_form(each) for number, each in secret.versions.items()},
    }


def settings_form(settings: Settings) -> dict[str, Any]:
    """The data of a read of the mount's configuration."""
    return {
        "cas_required": settings.cas_required,
        "delete_version_after": duration_form(settings.delete_after),
        "max_versions": settings.max_versions,
    }


def _history_form(version: Version) -> dict[str, Any]:
    return {
        "created_by": _actor_form(version.created_by),
        "created_time": instant_form(version.created),
        "deleted_by": _actor_form(version.deleted_by),
        "deletion_time": instant_form(version.deleted),
        "destroyed": version.destroyed,
    }


def _actor_form(actor: Actor | None) -> dict[str, str] | None:
    # ``actor`` is Vault's word; the request's ID, by which the audit log has it, is ours.
    return None if actor is None else {"actor": actor.name, "request_id": actor.request_id}


@lru_cache(1024)
def instant_form(instant: datetime | None) -> str:
    """RFC 3339 in UTC as Go writes it, without zeros at the end; empty for none."""
    if instant is None:
        return ""
    whole, _, fraction = instant.isoformat(timespec="microseconds")[:-6].partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"


def duration_form(duration: timedelta) -> str:
    """As Go writes durations: ``3h25m19s``, ``0s``."""
    if duration < timedelta(0):
        return f"-{duration_form(-duration)}"
    minutes, seconds = divmod(duration.total_seconds(), 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{parts}{seconds:g}s"


# --------------------------------------------------------------------------------------------- requests


def data_of_body(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is to be kept.  Raises: VST5110."""
    if "data" not in body:
        raise MALFORMED_REQUEST.error("no data provided")
    if not isinstance(body["data"], dict):
        raise MALFORMED_REQUEST.error("data is not an object of names and values")
    return body["data"]


def cas_of_body(body: Mapping[str, Any]) -> int | None:
    """The version that a write builds on.  Raises: VST5110."""
    options = body.get("options")
    if options is not None and not isinstance(options, dict):
        raise MALFORMED_REQUEST.error("options is not an object")
    if not options or "cas" not in options:
        return None
    found = _number(options["cas"])
    if found is None:
        raise MALFORMED_REQUEST.error("error parsing check-and-set parameter")
    return found


def numbers_of_body(body: Mapping[str, Any]) -> list[int]:
    """The versions that are meant: a list, or text with commas.  Raises: VST5110."""
    listed = body.get("versions")
    listed = listed.split(",") if isinstance(listed, str) else listed
    numbers = [_number(each) for each in (listed if isinstance(listed, list) else [listed])]
    if not listed or None in numbers:
        raise MALFORMED_REQUEST.error("No version number provided")
    if len(numbers) > MOST_NUMBERS:
        raise MALFORMED_REQUEST.error(
            f"{len(numbers)} versions are named; at most {MOST_NUMBERS} can be at once"
        )
    return [each for each in numbers if each is not None]


def number_of_query(query: Mapping[str, str], name: str) -> int:
    """A whole number, 0 if it is not given.  Raises: VST5110."""
    given = query.get(name, "") or "0"
    found = _number(given)
    if found is None:
        raise MALFORMED_REQUEST.error(f"{name} is not a whole number")
    return found


def _number(value: object) -> int | None:
    """A whole number, also as text; None if it is none."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18 else None


def change_of_body(body: Mapping[str, Any], *, merge: bool = False) -> SettingChange:
    """New settings and custom metadata; ``merge``: only custom metadata that are named.  Raises: VST5210, VST5105."""
    custom = _custom(body)
    return SettingChange(
        max_versions=fields.number(body, "max_versions"),
        cas_required=fields.switch(body, "cas_required"),
        delete_after=_after(body),
        custom=None if merge or custom is None else {name: value or "" for name, value in custom.items()},
        custom_patch=custom if merge else None,
    )


def mount_change_of_body(body: Mapping[str, Any]) -> SettingChange:
    """New settings of the mount.  Raises: VST5210, VST5105."""
    return SettingChange(
        max_versions=fields.number(body, "max_versions"),
        cas_required=fields.switch(body, "cas_required"),
        delete_after=_after(body),
    )


def _after(body: Mapping[str, Any]) -> timedelta | None:
    value = body.get("delete_version_after")
    if str(value).startswith("-"):
        # The mount's "never"; a secret's own is refused where it is kept.
        return _NEVER
    return fields.duration(body, "delete_version_after")


def _custom(body: Mapping[str, Any]) -> dict[str, str | None] | None:
    custom = body.get("custom_metadata")
    if custom is None:
        return None
    if not isinstance(custom, dict):
        raise MALFORMED_SETTINGS.error("custom_metadata validation failed: it is not an object")
    return {name: _custom_text(name, value) for name, value in custom.items()}


def _custom_text(name: str, value: object) -> str | None:
    if isinstance(value, bool):
        return "1" if value else "0"  # as Vault's decoder has it
    if isinstance(value, int | float):
        return f"{value}"
    if value is not None and not isinstance(value, str):
        raise MALFORMED_SETTINGS.error(
            f"custom_metadata validation failed: the value of {name!r} is not text"
        )
    return value
