"""Versioned secrets on encrypted storage.

Space ``kv`` has one row per secret, under its path (``rows.py``); space ``kv-versions`` the texts of versions that are
no longer the newest, under ``PATH@NUMBER``; space ``kv-settings`` one row, the settings for all.  Every change is one
``apply`` that expects the secret's row at the revision it was read at, so that of two servers that change one secret
at once, the second one does so on top of the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Final, TypeAlias
from weakref import WeakValueDictionary

from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.secrets.versions import edits
from vestibule.secrets.versions.codes import NO_SUCH_VERSION, TOO_BUSY, VERSION_LOST
from vestibule.secrets.versions.edits import Edit
from vestibule.secrets.versions.paths import folder, secret_path
from vestibule.secrets.versions.rows import (
    Row,
    read_newest,
    read_row,
    read_settings,
    write_row,
    write_settings,
)
from vestibule.secrets.versions.secret import Actor, Reading, Secret, SettingChange, Settings, Written
from vestibule.secrets.versions.values import Data, data_of, merged, text_of
from vestibule.secrets.versions.watching import Watching
from vestibule.store.barrier import Barrier, Change, Item, Put, Remove
from vestibule.store.codes import CONFLICT

_log = logging.getLogger(__name__)

SPACE: Final = "kv"
TEXTS: Final = "kv-versions"
SETTINGS: Final = "kv-settings"
SETTINGS_KEY: Final = "all"

ATTEMPTS: Final = 16
"""Of one change, before others are said to be too busy.  In one process, changes of a secret take turns."""

PAGE: Final = 1000
"""Names that are asked of the store at once; others have their turn in between."""

LONGEST_WAIT: Final = timedelta(seconds=50)
"""Of a request for something newer; the proxy in front of us lets go of requests after a minute."""

SWEEP_PAUSE: Final = 1.0
"""Seconds between two looks at what others, on other servers, have changed."""

_Edit: TypeAlias = Callable[[Row | None], Awaitable[Edit | None]]


class Versions:
    """Secrets with versions.  Every ``path`` is that of a secret, without the mount: ``payments/db``.

    Every method may raise VST5100 (path), VST5000 (sealed) and what storage raises; those that change something
    VST5106, too.
    """

    def __init__(self, barrier: Barrier, clock: Clock, watching: Watching | None = None) -> None:
        self.watching = watching or Watching()
        self._barrier = barrier
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # ------------------------------------------------------------------------------------------ reading

    async def read(self, path: str, number: int = 0) -> Reading | None:
        """A version, the newest by default; None if there is none of this number."""
        item = await self._barrier.get(SPACE, secret_path(path))
        if item is None:
            return None
        newest = read_newest(item.value, self._clock.now())
        if newest is None or number in (0, newest.version.number):
            return newest
        return await self._older(path, item, number)

    async def _older(self, path: str, item: Item | None, number: int) -> Reading | None:
        seen = 0
        while item is not None and item.revision != seen:
            row, seen = read_row(item.value), item.revision
            version = row.secret.versions.get(number)
            if version is None:
                return None
            if not version.is_readable(self._clock.now()):
                return Reading(version=version, custom=row.secret.custom, data=None)
            if (text := await self._text(path, row, number)) is not None:
                return Reading(version=version, custom=row.secret.custom, data=data_of(text))
            # Forgotten between both looks?  Then the row is another one now.
            item = await self._barrier.get(SPACE, path)
        if item is not None:
            raise VERSION_LOST.error(f"version {number} of {path} should be there, and is not")
        return None

    async def _text(self, path: str, row: Row, number: int) -> bytes | None:
        if number == row.secret.current:
            return row.text or None
        item = await self._barrier.get(TEXTS, _text_key(path, number))
        return None if item is None else item.value

    async def metadata(self, path: str) -> Secret | None:
        """What is known of a secret and its versions."""
        item = await self._barrier.get(SPACE, secret_path(path))
        return None if item is None else read_row(item.value).secret

    async def list(self, under: str = "", *, after: str = "", limit: int = 0) -> list[str]:
        """The names directly below a folder, in byte order, behind ``after``; up to ``limit``, if it is not 0.

        A name with something below it ends with ``/``; one that is both a secret and a folder comes twice.
        """
        prefix = folder(under)
        found: list[str] = []
        while not limit or len(found) < limit:
            size = min(limit - len(found), PAGE) if limit else PAGE
            page = await self._barrier.children(SPACE, prefix, after=after, limit=size)
            found += page
            if len(page) < size:
                break
            after = page[-1]
            await asyncio.sleep(0)
        return found

    # ------------------------------------------------------------------------------------------ writing

    async def put(self, path: str, data: Data, actor: Actor, *, cas: int | None = None) -> Written:
        """A new version.  ``cas`` is the version that it builds on, 0 for none.

        Raises: VST5101, VST5102 (data), VST5103, VST5104 (``cas``).
        """
        text = text_of(data)

        async def edit(there: Row | None) -> Edit:
            return await self._added(there, text, actor, cas)

        return _written(await self._change(path, edit))

    async def patch(self, path: str, patch: Data, actor: Actor, *, cas: int | None = None) -> Written | None:
        """A new version: the newest with a JSON merge patch (RFC 7396) applied.

        None if there is no secret; not ``done`` if its newest version cannot be read.  Raises: as ``put``.
        """

        async def edit(there: Row | None) -> Edit | None:
            if there is None or not there.secret.current:
                return None
            edits.check_cas(there.secret, await self.settings(), cas)
            if not there.secret.versions[there.secret.current].is_readable(self._clock.now()):
                return None
            return await self._added(there, text_of(merged(data_of(there.text), patch)), actor, cas)

        row, done = await self._change(path, edit)
        return _written((row, done)) if row is not None and row.secret.current else None

    async def rollback(self, path: str, number: int, actor: Actor, *, cas: int | None = None) -> Written:
        """A new version that holds what version ``number`` holds.

        Raises: VST5109 when that cannot be read; VST5103, VST5104.
        """

        async def edit(there: Row | None) -> Edit:
            version = there.secret.versions.get(number) if there else None
            readable = version is not None and version.is_readable(self._clock.now())
            text = await self._text(path, there, number) if there and readable else None
            if text is None:
                raise NO_SUCH_VERSION.error(f"version {number} of {path} cannot be read")
            return await self._added(there, text, actor, cas)

        return _written(await self._change(path, edit))

    async def _added(self, there: Row | None, text: bytes, actor: Actor, cas: int | None) -> Edit:
        mount = await self.settings()
        edits.check_cas(there.secret if there else None, mount, cas)
        return edits.add(there, text, actor, self._clock.now(), mount)

    async def delete(self, path: str, actor: Actor, numbers: Sequence[int] = ()) -> None:
        """Versions, the newest by default, are no longer read; they can be undeleted."""
        await self._change(
            path,
            _of_existing(lambda there: edits.delete(there, numbers, actor, self._clock.now())),
        )

    async def undelete(self, path: str, actor: Actor, numbers: Sequence[int]) -> None:
        """Deleted versions can be read again."""
        mount = await self.settings()
        await self._change(
            path,
            _of_existing(lambda there: edits.undelete(there, numbers, actor, self._clock.now(), mount)),
        )

    async def destroy(self, path: str, actor: Actor, numbers: Sequence[int]) -> None:
        """What versions hold is forgotten for good; that they were there is not."""
        await self._change(path, _of_existing(lambda there: edits.destroy(there, numbers, actor)))

    async def configure(
        self, path: str, change: SettingChange, actor: Actor, *, create: bool = True
    ) -> Secret | None:
        """Change settings and custom metadata, of a secret that need not be there yet unless ``create`` is False.

        Returns what is there now, None if there is nothing.  Raises: VST5105.
        """

        async def edit(there: Row | None) -> Edit | None:
            if there is None and not create:
                return None
            return edits.configure(there, change, actor, self._clock.now())

        row, _ = await self._change(path, edit)
        return row.secret if row else None

    async def forget(self, path: str) -> None:
        """All versions and all that is known of a secret, for good.  One of this path begins at version 1 again."""
        async with self._turn(secret_path(path)):
            for _ in range(ATTEMPTS):
                if (item := await self._barrier.get(SPACE, path)) is None:
                    return
                texts = [
                    Remove(space=TEXTS, key=_text_key(path, each))
                    for each in read_row(item.value).secret.versions
                ]
                row = Remove(space=SPACE, key=path, expected=item.revision)
                if await self._apply(path, [row, *texts]):
                    return
        raise _too_busy(path)

    async def settings(self) -> Settings:
        """Those of all secrets."""
        item = await self._barrier.get(SETTINGS, SETTINGS_KEY)
        return Settings() if item is None else read_settings(item.value)

    async def configure_all(self, change: SettingChange) -> Settings:
        """Change those of all secrets; what is there now.  Raises: VST5105."""
        for _ in range(ATTEMPTS):
            item = await self._barrier.get(SETTINGS, SETTINGS_KEY)
            after = change.settings(read_settings(item.value) if item else Settings())
            expected = item.revision if item else 0
            row = Put(space=SETTINGS, key=SETTINGS_KEY, value=write_settings(after), expected=expected)
            if await self._apply("", [row]):
                return after
        raise _too_busy("the settings of all secrets")

    async def _change(self, path: str, edit: _Edit) -> tuple[Row | None, bool]:
        """Make one change; the row that is there then, and whether ``edit`` had anything to change."""
        async with self._turn(secret_path(path)):
            for _ in range(ATTEMPTS):
                item = await self._barrier.get(SPACE, path)
                there = read_row(item.value) if item else None
                made = await edit(there)
                if made is None:
                    return there, False
                if await self._apply(path, _changes(path, made, item.revision if item else 0)):
                    return made.row, True
        raise _too_busy(path)

    async def _apply(self, path: str, changes: Sequence[Change]) -> bool:
        """False, and nothing is changed, where somebody else was faster."""
        try:
            await self._barrier.apply(changes)
        except VestibuleError as error:
            if error.code is not CONFLICT:
                raise
            return False
        finally:
            # Also where it is not known whether it came to pass: who is told looks for themselves.
            self.watching.notice(path)
        return True

    def _turn(self, path: str) -> asyncio.Lock:
        return self._turns.setdefault(path, asyncio.Lock())

    # ----------------------------------------------------------------------------------------- watching

    async def wait_newer(
        self, path: str, than: int, who: str, patience: timedelta | None = LONGEST_WAIT
    ) -> Reading | None:
        """Read the newest version as soon as its number is not ``than``, it changes, or ``patience`` is over.

        ``than`` 0 waits for a first one.  ``who`` waits counts against what one identity may.  Raises: VST5108.
        """
        loop = asyncio.get_running_loop()
        deadline = None if patience is None else loop.time() + patience.total_seconds()
        with self.watching.waiter(secret_path(path), who) as waiter:
            was = await self.read(path)
            found, told = was, True
            while told and not self.watching.is_closed and _number(found) == than and _same(was, found):
                told = await waiter.wait(deadline)
                found = await self.read(path)
            return found

    async def watch(self, path: str, who: str, after: int = 0) -> AsyncIterator[Reading]:
        """Each version newer than ``after`` that can be read, as it comes; of several at once only the newest."""
        while not self.watching.is_closed:
            found = await self.wait_newer(path, after, who, patience=None)
            if found is not None and found.data is not None and found.version.number != after:
                yield found
            after = _number(found)

    async def follow(self, changes: AsyncIterator[object], pause: float = SWEEP_PAUSE) -> None:
        """Tell who waits of what other servers have changed.

        ``changes`` says that something was, not what: a change feed of the store.  Looks at each secret that is
        waited for, at most once per ``pause`` seconds.  Ends with ``changes``.
        """
        seen: dict[str, int] = {}
        async for _ in changes:
            try:
                seen = {path: await self._look(path, seen.get(path)) for path in self.watching.paths}
            except VestibuleError as error:
                # Sealed, or the store is away: who waits reads when their time is over, and is told so.
                _log.info("could not look for changes of secrets: %s", error)
            await asyncio.sleep(pause)

    async def _look(self, path: str, seen: int | None) -> int:
        item = await self._barrier.get(SPACE, path)
        revision = item.revision if item else 0
        if revision != seen:
            self.watching.notice(path)
        return revision


def _of_existing(edit: Callable[[Row], Edit | None]) -> _Edit:
    async def of_any(there: Row | None) -> Edit | None:
        return edit(there) if there else None

    return of_any


def _changes(path: str, made: Edit, revision: int) -> list[Change]:
    row = Put(space=SPACE, key=path, value=write_row(made.row), expected=revision)
    moved = [
        Put(space=TEXTS, key=_text_key(path, each), value=text) for each, text in sorted(made.moved.items())
    ]
    return [row, *moved, *(Remove(space=TEXTS, key=_text_key(path, each)) for each in sorted(made.dropped))]


def _text_key(path: str, number: int) -> str:
    # What follows the last @ is the number, so no two versions of any two secrets share a key.
    return f"{path}@{number}"


def _written(outcome: tuple[Row | None, bool]) -> Written:
    row, done = outcome
    assert row is not None
    secret = row.secret
    return Written(version=secret.versions[secret.current], custom=secret.custom, done=done)


def _number(reading: Reading | None) -> int:
    return reading.version.number if reading else 0


def _same(was: Reading | None, now: Reading | None) -> bool:
    """Whether what could, or could not, be read still can or cannot."""
    return (was is not None and was.data is not None) == (now is not None and now.data is not None)


def _too_busy(what: str) -> VestibuleError:
    return TOO_BUSY.error(f"{what} was changed by others {ATTEMPTS} times while this change was tried")
