"""How a secret is kept: one row holds what is known of it and what its newest version holds.

So the usual read takes one row, of which only the front is parsed beside the value itself:

    form (1 byte) · length of front (4) · length of rest (4) · front · rest · JSON text of the newest version

Front and rest are JSON: front the newest version and the custom metadata, rest everything else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from struct import Struct
from typing import Any, Final

from vestibule.secrets.versions.codes import UNREADABLE_ROW
from vestibule.secrets.versions.secret import Actor, Reading, Secret, Settings, Version
from vestibule.secrets.versions.values import data_of

FORM: Final = 1
_MOST_FRONTS: Final = 1024
"""Fronts of rows, of up to some kilobytes each, that are kept parsed."""
_LENGTHS: Final = Struct(">BII")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A secret, and the JSON text of its newest version; empty if that was destroyed or never written."""

    secret: Secret
    text: bytes = field(default=b"", repr=False)


def write_row(row: Row) -> bytes:
    """As it goes to the barrier."""
    secret = row.secret
    newest = secret.versions.get(secret.current)
    front = _dump([_of_version(newest) if newest else None, secret.custom])
    rest = _dump(_of_rest(secret))
    return _LENGTHS.pack(FORM, len(front), len(rest)) + front + rest + row.text


def read_row(value: bytes) -> Row:
    """All of it.  Raises: VST5107."""
    front, rest, text = _parts(value)
    newest, custom = _load(front)
    return Row(secret=_secret(newest, custom, _load(rest)), text=text)


def read_newest(value: bytes, now: datetime) -> Reading | None:
    """The newest version, None if there is none yet.  Raises: VST5107."""
    front, rest = _lengths(value)
    front_end = _LENGTHS.size + front
    version, custom = _front(value[_LENGTHS.size : front_end])
    if version is None:
        return None
    if not version.is_readable(now):
        return Reading(version=version, custom=custom, data=None)
    return Reading(version=version, custom=custom, data=data_of(value[front_end + rest :]))


@lru_cache(_MOST_FRONTS)
def _front(text: bytes) -> tuple[Version | None, dict[str, str] | None]:
    """What is known of the newest version, and the custom metadata; no secrets.  Nobody may change them."""
    row, custom = _load(text)
    return (None if row is None else _to_version(row)), custom


def _lengths(value: bytes) -> tuple[int, int]:
    form, front, rest = _LENGTHS.unpack_from(value)
    if form != FORM:
        raise UNREADABLE_ROW.error(f"a secret is kept in form {form}, which is newer than this version knows")
    return front, rest


def _parts(value: bytes) -> tuple[bytes, bytes, bytes]:
    front, rest = _lengths(value)
    start, middle = _LENGTHS.size, _LENGTHS.size + front
    return value[start:middle], value[middle : middle + rest], value[middle + rest :]


def _of_rest(secret: Secret) -> dict[str, Any]:
    return {
        "created": _of_instant(secret.created),
        "updated": _of_instant(secret.updated),
        "updated_by": _of_actor(secret.updated_by),
        "current": secret.current,
        "oldest": secret.oldest,
        "settings": _of_settings(secret.settings),
        "versions": [_of_version(each) for each in secret.versions.values() if each.number != secret.current],
    }


def _secret(newest: list[Any] | None, custom: dict[str, str] | None, rest: dict[str, Any]) -> Secret:
    versions = [_to_version(each) for each in (*rest["versions"], *([newest] if newest else ()))]
    return Secret(
        created=_to_instant(rest["created"]),
        updated=_to_instant(rest["updated"]),
        updated_by=_to_actor(rest["updated_by"]),
        current=rest["current"],
        oldest=rest["oldest"],
        settings=_to_settings(rest["settings"]),
        custom=custom,
        versions={each.number: each for each in versions},
    )


def write_settings(settings: Settings) -> bytes:
    """Those of all secrets, as they go to the barrier."""
    return _dump({"form": FORM, "settings": _of_settings(settings)})


def read_settings(value: bytes) -> Settings:
    """What ``write_settings`` wrote.  Raises: VST5107."""
    kept = _load(value)
    if kept["form"] != FORM:
        raise UNREADABLE_ROW.error(f"the settings of secrets are kept in form {kept['form']}, which is newer")
    return _to_settings(kept["settings"])


def _of_settings(settings: Settings) -> list[Any]:
    return [settings.max_versions, settings.cas_required, settings.delete_after // _MICROSECOND]


def _to_settings(row: list[Any]) -> Settings:
    most, required, after = row
    return Settings(max_versions=most, cas_required=required, delete_after=timedelta(microseconds=after))


def _of_version(version: Version) -> list[Any]:
    deleted = None if version.deleted is None else _of_instant(version.deleted)
    deleted_by = None if version.deleted_by is None else _of_actor(version.deleted_by)
    created = _of_instant(version.created)
    return [version.number, created, _of_actor(version.created_by), deleted, deleted_by, version.destroyed]


def _to_version(row: list[Any]) -> Version:
    number, created, created_by, deleted, deleted_by, destroyed = row
    return Version(
        number=number,
        created=_to_instant(created),
        created_by=_to_actor(created_by),
        deleted=None if deleted is None else _to_instant(deleted),
        deleted_by=None if deleted_by is None else _to_actor(deleted_by),
        destroyed=destroyed,
    )


def _of_actor(actor: Actor) -> list[str]:
    return [actor.name, actor.request_id]


def _to_actor(row: list[str]) -> Actor:
    return Actor(name=row[0], request_id=row[1])


def _of_instant(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def _to_instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _load(text: bytes) -> Any:
    return json.loads(text.decode())


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
