"""What changes do to a secret.  Each takes the row that is there, and gives the row and the old texts to keep instead.

Pure: nothing is read or kept here.  As Vault's KV engine, version 2, does it
(https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from vestibule.secrets.versions.codes import CAS_MISMATCH, CAS_REQUIRED, MALFORMED_SETTINGS
from vestibule.secrets.versions.rows import Row
from vestibule.secrets.versions.secret import (
    USUAL_VERSIONS,
    Actor,
    Secret,
    SettingChange,
    Settings,
    Version,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """``row`` takes the place of what was there, ``moved`` are texts of versions that are no longer the newest.

    ``dropped`` are the numbers of versions whose texts are forgotten.
    """

    row: Row
    moved: Mapping[int, bytes] = field(default_factory=dict, repr=False)
    dropped: frozenset[int] = frozenset()


def check_cas(there: Secret | None, mount: Settings, cas: int | None) -> None:
    """Raise VST5103 or VST5104 unless a write may be made that builds on version ``cas``."""
    if cas is not None and cas != (there.current if there else 0):
        raise CAS_MISMATCH.error("check-and-set parameter did not match the current version")
    if cas is None and (mount.cas_required or (there is not None and there.settings.cas_required)):
        raise CAS_REQUIRED.error("check-and-set parameter required for this call")


def add(there: Row | None, text: bytes, actor: Actor, now: datetime, mount: Settings) -> Edit:
    """A new version, which holds ``text``; versions beyond those to keep are forgotten."""
    secret = there.secret if there else Secret(created=now, updated=now, updated_by=actor)
    number = secret.current + 1
    version = Version(
        number=number, created=now, created_by=actor, deleted=_ending(now, mount, secret.settings)
    )
    oldest = _oldest(secret, number, mount)
    kept = {each: found for each, found in secret.versions.items() if each >= oldest}
    secret_after = replace(
        secret,
        current=number,
        oldest=oldest,
        updated=now,
        updated_by=actor,
        versions={**kept, number: version},
    )
    moved = {secret.current: there.text} if there and there.text and secret.current in kept else {}
    dropped = frozenset(secret.versions.keys() - kept.keys() - {secret.current})
    return Edit(row=Row(secret=secret_after, text=text), moved=moved, dropped=dropped)


def _oldest(secret: Secret, number: int, mount: Settings) -> int:
    most = max(secret.settings.max_versions, mount.max_versions) or USUAL_VERSIONS
    return number - most + 1 if number - secret.oldest >= most else secret.oldest


def _ending(now: datetime, mount: Settings, own: Settings) -> datetime | None:
    """When a version that begins now ends by itself: the shorter of both times, where there are two."""
    if mount.delete_after < timedelta(0):
        return None
    after = min((each.delete_after for each in (mount, own) if each.delete_after), default=None)
    return None if after is None else now + after


def delete(there: Row, numbers: Iterable[int], actor: Actor, now: datetime) -> Edit | None:
    """Versions are no longer readable, and can come back; the newest, if no number is given."""
    gone = {
        each.number: replace(each, deleted=now, deleted_by=actor)
        for each in _named(there.secret, numbers or (there.secret.current,))
        if each.is_readable(now)
    }
    return _with_versions(there, gone, actor) if gone else None


def undelete(there: Row, numbers: Iterable[int], actor: Actor, now: datetime, mount: Settings) -> Edit | None:
    """Versions that were not destroyed are readable again; where they end by themselves, their time begins anew."""
    ending = _ending(now, mount, there.secret.settings)
    back = {
        each.number: replace(each, deleted=ending, deleted_by=None)
        for each in _named(there.secret, numbers)
        if not each.destroyed
    }
    return _with_versions(there, back, actor) if back else None


def destroy(there: Row, numbers: Iterable[int], actor: Actor) -> Edit | None:
    """What versions hold is forgotten for good."""
    gone = {
        each.number: replace(each, destroyed=True)
        for each in _named(there.secret, numbers)
        if not each.destroyed
    }
    if not gone:
        return None
    edit = _with_versions(there, gone, actor)
    newest = there.secret.current
    return replace(
        edit,
        row=replace(edit.row, text=b"") if newest in gone else edit.row,
        dropped=frozenset(gone) - {newest},
    )


def _named(secret: Secret, numbers: Iterable[int]) -> list[Version]:
    return [secret.versions[each] for each in set(numbers) if each in secret.versions]


def _with_versions(there: Row, changed: Mapping[int, Version], actor: Actor) -> Edit:
    secret = replace(there.secret, versions={**there.secret.versions, **changed}, updated_by=actor)
    return Edit(row=replace(there, secret=secret))


def configure(there: Row | None, change: SettingChange, actor: Actor, now: datetime) -> Edit:
    """Settings and custom metadata of a secret, which need not have a version yet.  Raises: VST5105."""
    row = there or Row(secret=Secret(created=now, updated=now, updated_by=actor))
    if change.delete_after is not None and change.delete_after < timedelta(0):
        raise MALFORMED_SETTINGS.error(
            "delete_version_after is negative; that is possible for all secrets only"
        )
    secret = replace(
        row.secret,
        settings=change.settings(row.secret.settings),
        custom=change.customs(row.secret.custom),
        updated_by=actor,
    )
    return Edit(row=replace(row, secret=secret))
