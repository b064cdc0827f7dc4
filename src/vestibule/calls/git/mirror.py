"""Our own copy of a repository's history: one branch or tag of it, without a work tree, below the data directory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from vestibule.calls.git.access import GNUPG_CONFIGURATION, Access
from vestibule.calls.git.codes import (
    GIT_COMMIT_NOT_SIGNED,
    GIT_FAILED,
    GIT_NO_ROOM,
    GIT_REF_UNKNOWN,
    GIT_TOO_LARGE,
)
from vestibule.calls.git.places import Place, Ref
from vestibule.calls.git.process import PASSED_ON, Finished, Git
from vestibule.calls.git.trees import CommitTree
from vestibule.errors import VestibuleError

ASKING_SECONDS: Final = 20.0
FETCHING_SECONDS: Final = 600.0
_HEAD: Final = "refs/vestibule/head"
_KEPT: Final = "refs/vestibule/kept"
_SOURCE: Final = "refs/vestibule/source"
_ID: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SSH_SIGNATURE: Final = re.compile(r'^Good "git" signature for (.+) with (\S+) key (\S+)$', re.MULTILINE)
_GPG_SIGNATURE: Final = re.compile(r"^\[GNUPG:\] VALIDSIG ([0-9A-F]{40,64}) ", re.MULTILINE)
_GPG_NAME: Final = re.compile(r"^\[GNUPG:\] GOODSIG [0-9A-F]+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a repository has under a name now: an object, which is a tag where the name is one of an annotated tag."""

    name: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitFacts:
    """What a commit says of itself, fit for a terminal."""

    author: str
    subject: str
    committed_at: datetime


class Mirror:
    """Fetched into by one server alone.  Of ``environment``, git gets ``PATH`` and proxies.

    Every method may raise VST3221, VST3231 and, where it writes, VST3227.
    """

    def __init__(
        self,
        directory: Path,
        place: Place,
        access: Access,
        *,
        max_size: int,
        environment: Mapping[str, str],
    ) -> None:
        self.place = place
        self._access = access
        self._directory = directory
        self._git_dir = directory / "mirror.git"
        self._gnupg = directory / "gnupg"
        self._max_size = max_size
        self._keys_read = b""
        self._git = Git(
            path=environment.get("PATH", os.defpath),
            home=directory / "home",
            config=directory / "gitconfig",
            more=access.variables(self._gnupg),
            proxies={name: environment[name] for name in PASSED_ON if name in environment},
        )

    async def prepare(self, ref: Ref) -> None:
        """Make what is missing; begin anew for another repository, and where the copy is damaged."""
        await self._git.check()
        try:
            await asyncio.to_thread(self._lay_out, f"{self.place}\n{ref}\n")
        except OSError as error:
            raise GIT_NO_ROOM.error(f"{self._directory} cannot be written: {error.strerror}") from error
        if self._git_dir.exists() and (await self._local("rev-parse", "--git-dir")).status:
            await self.discard()

    async def discard(self) -> None:
        """Forget the copy, which is damaged: the next fetch begins anew."""
        await asyncio.to_thread(shutil.rmtree, self._git_dir, ignore_errors=True)

    async def head(self, ref: Ref) -> Head:
        """What the repository has there.  Cheap.  Raises: VST3222, VST3223, VST3228."""
        if ref.commit is not None:
            return Head(name=ref.commit, id=ref.commit)
        done = await self._git.run(
            *("ls-remote", "--quiet", "--", self.place.url, *ref.candidates), seconds=ASKING_SECONDS
        )
        if done.status:
            raise done.error(f"{self.place} cannot be asked")
        there = dict(_names(done.output))
        for name in ref.candidates:
            if (found := there.get(name)) is not None:
                return Head(name=name, id=found)
        raise GIT_REF_UNKNOWN.error(f"{self.place} has no branch or tag {str(ref)!r}")

    async def fetch(self, head: Head) -> str:
        """Bring what the repository has there; the commit's id.

        Raises: VST3222, VST3223, VST3226, VST3227, VST3228, VST3229.
        """
        await self._begin(head.id)
        await self._bound()
        done = await self._git.run(
            *(
                f"--git-dir={self._git_dir}",
                "fetch",
                "--quiet",
                "--force",
                "--no-tags",
                "--no-write-fetch-head",
            ),
            *("--no-recurse-submodules", "--", self.place.url, f"+{head.name}:{_HEAD}"),
            seconds=FETCHING_SECONDS,
            most_file=self._max_size,
        )
        if done.status:
            await asyncio.to_thread(self._sweep)
            raise self._unfetched(done, head)
        return await self._commit(_HEAD, head)

    def _unfetched(self, done: Finished, head: Head) -> VestibuleError:
        if re.search(r"couldn't find remote ref|not our ref", done.complaint):
            return GIT_REF_UNKNOWN.error(f"{self.place} has no {head.name}")
        return done.error(f"{self.place} cannot be fetched")

    async def _commit(self, name: str, head: Head | None = None) -> str:
        done = await self._local("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        found = done.output.decode("ascii", "replace").strip()
        if done.status or not _ID.fullmatch(found):
            raise GIT_REF_UNKNOWN.error(f"{head.name if head else name} is no commit")
        return found

    async def contains(self, commit: str, other: str) -> bool:
        """Whether ``other`` is ``commit``, or one of its ancestors."""
        done = await self._local("merge-base", "--is-ancestor", other, commit)
        return done.status == 0

    async def facts(self, commit: str) -> CommitFacts:
        """Who wrote it, when, and its first line."""
        done = await self._local("show", "-s", "--no-notes", "--format=%an <%ae>%x00%s%x00%ct", commit, "--")
        parts = done.output.decode("utf-8", "replace").strip("\n").split("\0")
        if done.status or len(parts) != 3:
            raise done.error(f"commit {commit} cannot be read", GIT_FAILED)
        author, subject = (_line(part) for part in parts[:2])
        return CommitFacts(author=author, subject=subject, committed_at=_instant(parts[2]))

    async def signer(self, commit: str) -> str | None:
        """Whose allowed key signed it; None where signatures are not asked for.  Raises: VST3224."""
        if not self._access.asks_for_signatures:
            return None
        await self._take_keys()
        done = await self._local("verify-commit", "--raw", commit)
        if (
            done.status == 0
            and (found := _SSH_SIGNATURE.search(done.complaint))
            and self._access.allowed_signers
        ):
            return f"{found[1]} ({found[3]})"
        if (
            done.status == 0
            and (found := _GPG_SIGNATURE.search(done.complaint))
            and self._access.allowed_keys
        ):
            name = _GPG_NAME.search(done.complaint)
            return f"{name[1]} ({found[1]})" if name else found[1]
        why = f": {done.last}" if done.complaint.strip() else ""
        raise GIT_COMMIT_NOT_SIGNED.error(f"commit {commit[:12]} is not signed by an allowed key{why}")

    async def keep(self, commit: str, source: str) -> None:
        """Remember the commit that was taken up last, and the one that the intent in force was read from."""
        for name, value in ((_KEPT, commit), (_SOURCE, source)):
            done = await self._local("update-ref", name, value)
            if done.status:
                raise done.error(f"{self._directory} cannot be written", GIT_FAILED)

    async def kept(self) -> tuple[str, str] | None:
        """What was kept, also before a restart."""
        if not self._git_dir.exists():
            return None
        try:
            return await self._commit(_KEPT), await self._commit(_SOURCE)
        except VestibuleError:
            return None

    def tree(self, commit: str, directory: str) -> CommitTree:
        """The files of a commit, for a thread to read."""
        return CommitTree(self._git, self._git_dir, commit, directory)

    # -------------------------------------------------------------------------------------- our own files

    async def _local(self, *arguments: str) -> Finished:
        return await self._git.run(f"--git-dir={self._git_dir}", *arguments)

    def _lay_out(self, asked: str) -> None:
        for each in (self._directory, self._directory / "home"):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        marker = self._directory / "place"
        if not marker.exists() or marker.read_text(encoding="utf-8") != asked:
            shutil.rmtree(self._git_dir, ignore_errors=True)
            marker.write_text(asked, encoding="utf-8")
        (self._directory / "gitconfig").write_text(self._access.configuration(self.place), encoding="utf-8")
        self._sweep()

    async def _begin(self, some_id: str) -> None:
        if self._git_dir.exists():
            return
        kind = "sha256" if len(some_id) == 64 else "sha1"
        done = await self._git.run(
            *("init", "--quiet", "--bare", "--template=", "--initial-branch=none", f"--object-format={kind}"),
            *("--", str(self._git_dir)),
        )
        if done.status:
            await asyncio.to_thread(shutil.rmtree, self._git_dir, ignore_errors=True)
            raise done.error(f"{self._git_dir} cannot be made", GIT_FAILED)

    async def _bound(self) -> None:
        """What was fetched long ago and is no longer needed makes room for more."""
        if await asyncio.to_thread(self._size) <= self._max_size:
            return
        await self._git.run(
            f"--git-dir={self._git_dir}", "gc", "--quiet", "--prune=now", seconds=FETCHING_SECONDS
        )
        if (size := await asyncio.to_thread(self._size)) > self._max_size:
            raise GIT_TOO_LARGE.error(
                f"the copy of {self.place} has {size} bytes, and max_size is {self._max_size}"
            )

    def _size(self) -> int:
        return sum(file.lstat().st_size for file in self._files() if file.exists())

    def _sweep(self) -> None:
        """Remove what a killed git left: its locks would refuse the next, its halves of packs fill the disk."""
        for file in self._files():
            if file.name.endswith(".lock") or file.name.startswith("tmp_"):
                file.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._git_dir):
            yield from (Path(folder, name) for name in names)

    async def _take_keys(self) -> None:
        """A ring with the allowed keys alone, anew whenever their file changes."""
        if self._access.allowed_keys is None:
            return
        try:
            keys = await asyncio.to_thread(self._access.allowed_keys.read_bytes)
            read = hashlib.sha256(keys).digest()
            if read == self._keys_read:
                return
            await asyncio.to_thread(self._new_ring)
        except OSError as error:
            raise GIT_COMMIT_NOT_SIGNED.error(f"the allowed keys cannot be read: {error.strerror}") from error
        arguments = ("--batch", "--quiet", "--no-autostart", "--import", str(self._access.allowed_keys))
        try:
            process = await asyncio.create_subprocess_exec(
                *("gpg", *arguments),
                env=self._git.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            async with asyncio.timeout(ASKING_SECONDS):
                status = await process.wait()
        except (OSError, TimeoutError) as error:
            raise GIT_COMMIT_NOT_SIGNED.error("gpg cannot be started, so no signature is good") from error
        if status:
            raise GIT_COMMIT_NOT_SIGNED.error(f"{self._access.allowed_keys} holds no OpenPGP keys")
        self._keys_read = read

    def _new_ring(self) -> None:
        shutil.rmtree(self._gnupg, ignore_errors=True)
        self._gnupg.mkdir(mode=0o700)
        (self._gnupg / "gpg.conf").write_text(GNUPG_CONFIGURATION, encoding="ascii")


def _names(output: bytes) -> Iterator[tuple[str, str]]:
    for line in output.decode("utf-8", "replace").splitlines():
        found, tab, name = line.partition("\t")
        if tab and _ID.fullmatch(found):
            yield name, found


def _line(text: str) -> str:
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= 200 else f"{shown[:199]}…"


def _instant(text: str) -> datetime:
    """Anybody can write any number there."""
    try:
        return datetime.fromtimestamp(int(text), UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
