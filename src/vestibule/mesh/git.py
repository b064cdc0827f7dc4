"""The intent from a Git repository: followed commit by commit, and never further than the last good one.

What a commit has to pass, in this order (the numbers stand in ``_judge``):

1. it is fetched, within bounds of time and size, and Git's own check of objects finds nothing;
2. an allowed key signed it, where that is asked for;
3. it contains the commit that is in force, unless rewritten history is to be followed;
4. the intent in it holds.

Whatever fails changes nothing but what ``reading`` says is wrong.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from vestibule.calls.git import CommitTree, Head, Mirror, Ref
from vestibule.calls.git.codes import GIT_FAILED, GIT_HISTORY_REWRITTEN
from vestibule.clock import Clock
from vestibule.errors import VestibuleError, Where
from vestibule.intent import Loaded, Problem, Severity, load_tree
from vestibule.mesh.revision import Revision
from vestibule.mesh.source import CommitInfo, Reading

GLANCE: Final = 0.1
"""Seconds between two glances at the refs of a repository on this machine."""

SLOWEST: Final = timedelta(minutes=5)
"""So long at most, unless polls are rarer, until a commit that could not be taken up is tried again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Following:
    """What is followed: ``folder`` of ``ref``, looked at every ``poll``.  ``rewrites``: also where history changed."""

    ref: Ref
    folder: str = ""
    poll: timedelta = timedelta(seconds=10)
    rewrites: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why the repository cannot be followed now, and since when."""

    error: VestibuleError
    since: datetime

    @classmethod
    def of(cls, error: VestibuleError, before: Trouble | None, now: datetime) -> Trouble:
        """The same trouble goes on, or a new one begins."""
        since = before.since if before is not None and before.error.code is error.code else now
        told = f"{error.message} (since {since:%Y-%m-%dT%H:%M:%SZ})"
        return cls(error=error.code.error(told, advice=error.advice), since=since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When an object that could not be taken up is tried again."""

    id: str
    at: datetime
    pause: timedelta

    @classmethod
    def after(cls, before: Retry | None, object_id: str, now: datetime, poll: timedelta) -> Retry:
        """Twice as long after as before, for the same object."""
        pause = min(before.pause * 2, max(poll, SLOWEST)) if before and before.id == object_id else poll
        return cls(id=object_id, at=now + pause, pause=pause)

    def is_due(self, object_id: str, now: datetime) -> bool:
        """Whether an object may be tried now."""
        return object_id != self.id or now >= self.at


class GitSource:
    """A ``Source``.  ``look_now`` makes it look before its time."""

    def __init__(
        self,
        mirror: Mirror,
        following: Following,
        clock: Clock,
        *,
        read: Callable[[CommitTree], Loaded] = load_tree,
    ) -> None:
        self.revision = Revision()
        self._mirror = mirror
        self._following = following
        self._clock = clock
        self._read = read
        self._reading = Reading()
        self._accepted: str | None = None
        """The newest commit that passed; that of the reading, or a later one with the same files."""
        self._judged: str | None = None
        self._verdict: tuple[Problem, ...] = ()
        self._trouble: Trouble | None = None
        self._retry: Retry | None = None
        self._asked = asyncio.Event()
        self._glanced: object = None

    @property
    def reading(self) -> Reading:
        """What is known now."""
        return self._reading

    @property
    def place(self) -> str:
        """The address, with the folder and the branch."""
        folder = f":{self._following.folder}" if self._following.folder else ""
        return f"{self._mirror.place} {self._following.ref}{folder}"

    def look_now(self) -> None:
        """Somebody says that there is something new."""
        self._asked.set()

    async def load(self) -> Reading:
        """What was kept from before, else what the repository has.  Raises: VST3221, VST3227."""
        await self._mirror.prepare(self._following.ref)
        try:
            await self._resume()
        except VestibuleError as error:
            _log.warning("the copy of %s is damaged and fetched anew: %s", self._mirror.place, error)
            await self._mirror.discard()
        if self._reading.intent is None:
            await self.look()
        return self._reading

    async def run(self) -> None:
        """Follow the repository."""
        while True:
            self._glanced = await asyncio.to_thread(self._glance)
            await self.look()
            await self._pause()

    async def look(self) -> None:
        """Ask the repository once, and take up what it has."""
        asked_for = self._asked.is_set()
        self._asked.clear()
        try:
            head = await self._mirror.head(self._following.ref)
            if head.id == self._judged:
                self._retry = None
            elif self._retry is None or self._retry.is_due(head.id, self._clock.now()) or asked_for:
                await self._take(head)
            else:
                return  # what was wrong with it is still told
        except VestibuleError as error:
            self._trouble = Trouble.of(error, self._trouble, self._clock.now())
        else:
            self._trouble = None
        self._tell()

    async def _take(self, head: Head) -> None:
        """What fails is tried again ever more rarely, unless the repository moves on: it may be large."""
        self._retry = Retry.after(self._retry, head.id, self._clock.now(), self._following.poll)
        commit = await self._mirror.fetch(head)  # 1
        self._reading = replace(self._reading, head=commit)
        self._verdict = ()
        self._verdict = await self._judge(commit)
        self._judged, self._retry = head.id, None

    # ------------------------------------------------------------------------------------------ judging

    async def _judge(self, commit: str) -> tuple[Problem, ...]:
        """What is wrong with the files of a commit, which is taken up if that is nothing.  Raises: VST3224, VST3225."""
        signed_by = await self._mirror.signer(commit)  # 2
        warnings = await self._history(commit)  # 3
        loaded = await asyncio.to_thread(self._load, commit)  # 4
        problems = (*(self._placed(found, commit) for found in loaded.problems), *warnings)
        if loaded.intent is None:
            return problems
        known = self._reading.commit
        unchanged = known is not None and loaded.files == self._reading.files
        info = known if known is not None and unchanged else await self._info(commit, signed_by)
        await self._mirror.keep(commit, info.id)
        self._accepted = commit
        if not unchanged:
            self._take_up(loaded, info)
        return problems

    async def _history(self, commit: str) -> tuple[Problem, ...]:
        """Raises: VST3225."""
        if self._accepted is None or await self._mirror.contains(commit, self._accepted):
            return ()
        error = GIT_HISTORY_REWRITTEN.error(
            f"{self._following.ref} is now at {commit[:12]}, which does not contain {self._accepted[:12]}"
        )
        if not self._following.rewrites:
            raise error
        _log.warning("%s; it is followed, as the settings say", error)
        return (self._problem(error, Severity.WARNING),)

    def _load(self, commit: str) -> Loaded:
        with self._mirror.tree(commit, self._following.folder) as tree:
            return self._read(tree)

    async def _info(self, commit: str, signed_by: str | None) -> CommitInfo:
        facts = await self._mirror.facts(commit)
        return CommitInfo(
            id=commit,
            author=facts.author,
            subject=facts.subject,
            committed_at=facts.committed_at,
            signed_by=signed_by,
        )

    def _take_up(self, loaded: Loaded, info: CommitInfo) -> None:
        assert loaded.intent is not None
        _log.info("intent version %s is taken up: %s (%s)", info.short, info.subject, info.author)
        self._reading = replace(
            self._reading,
            intent=replace(loaded.intent, version=info.short),
            loaded_at=self._clock.now(),
            files=loaded.files,
            commit=info,
        )
        self.revision.bump()

    async def _resume(self) -> None:
        """The last good commit of the process before, with no need for the repository itself.

        It passed then; a key that was taken from the allowed ones since is told by the next look.
        """
        kept = await self._mirror.kept()
        if kept is None:
            return
        loaded = await asyncio.to_thread(self._load, kept[1])
        if loaded.intent is None:
            raise GIT_FAILED.error(f"commit {kept[1][:12]} held, and does no longer")
        try:
            signed_by = await self._mirror.signer(kept[1])
        except VestibuleError:
            signed_by = None
        self._accepted = kept[0]
        self._reading = replace(self._reading, head=kept[0])
        self._take_up(loaded, await self._info(kept[1], signed_by))

    # -------------------------------------------------------------------------------------------- telling

    def _tell(self) -> None:
        trouble = () if self._trouble is None else (self._problem(self._trouble.error),)
        problems = (*trouble, *self._verdict)
        errors = [str(each.error) for each in problems if each.severity is Severity.ERROR]
        if errors and problems != self._reading.problems:
            version = self._reading.intent.version if self._reading.intent else None
            _log.warning(
                "%s, %s; %d errors, the first: %s (vestibule status shows all)",
                self.place,
                f"version {version} stays in force" if version else "so there is no mesh yet",
                len(errors),
                errors[0],
            )
        self._reading = replace(self._reading, problems=problems)

    def _problem(self, error: VestibuleError, severity: Severity = Severity.ERROR) -> Problem:
        where = Where(file=str(self._mirror.place))
        return Problem(
            code=error.code, message=error.message, advice=error.advice, where=where, severity=severity
        )

    def _placed(self, found: Problem, commit: str) -> Problem:
        """The place as ``git show`` takes it: ``COMMIT:path``, then line and column."""
        folder = f"{self._following.folder}/" if self._following.folder else ""
        return replace(found, where=replace(found.where, file=f"{commit[:12]}:{folder}{found.where.file}"))

    # ------------------------------------------------------------------------------------------- waiting

    async def _pause(self) -> None:
        """Until the next poll; less if somebody asks, or the refs of a repository on this machine change."""
        until = self._clock.now() + self._following.poll
        if self._mirror.place.path is None:
            asked = asyncio.ensure_future(self._asked.wait())
            slept = asyncio.ensure_future(self._clock.sleep_until(until))
            try:
                await asyncio.wait((asked, slept), return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
                slept.cancel()
            return
        while self._clock.now() < until and not self._asked.is_set():
            if await asyncio.to_thread(self._glance) != self._glanced:
                return
            await self._clock.sleep_until(self._clock.now() + timedelta(seconds=GLANCE))

    def _glance(self) -> object:
        path = self._mirror.place.path
        return None if path is None else glance(path, self._following.ref.candidates)


def glance(repository: Path, names: Sequence[str]) -> object:
    """Differs where a ref may have moved: the files that hold refs, in a repository with a work tree or without."""
    return tuple(
        _beginning(repository / inner / name)
        for inner in ("", ".git")
        for name in (*names, "packed-refs", "reftable/tables.list")
    )


def _beginning(file: Path) -> object:
    try:
        stat = file.stat()
        # A ref's file is replaced within a tick of the filesystem's clock, and is no longer than a commit id.
        content = file.read_bytes() if stat.st_size <= 1024 else b""
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, content
