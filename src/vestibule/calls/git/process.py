"""One run of ``git`` after the other: with no configuration but ours, bounded in time and size, and nothing executed.

Git reads a configuration from five places and runs what it finds there: hooks, filters, helpers, pagers, other
transports.  Here the user's and the system's files are not read, hooks are nowhere, and only https, ssh and files are
spoken.  What a repository holds is read as objects and never checked out, so no attribute, link or submodule matters.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.calls.git.codes import (
    GIT_ACCESS_DENIED,
    GIT_FAILED,
    GIT_MISSING,
    GIT_NO_ROOM,
    GIT_OBJECTS_REFUSED,
    GIT_TOO_LARGE,
    GIT_UNREACHABLE,
)
from vestibule.errors import ErrorCode, VestibuleError

LEAST_VERSION: Final = (2, 34)
"""Since then signatures by SSH keys are verified."""

MOST_OUTPUT: Final = 8 * 2**20
MOST_COMPLAINT: Final = 64 * 2**10
_LONGEST_SHOWN: Final = 300
_BLOCK: Final = 512
# The limit reaches every process that git starts.  Ignored, the signal leaves git to clean up after itself.
_LIMITED: Final = 'trap "" XFSZ; ulimit -f "$0" && exec "$@"'
PASSED_ON: Final = ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY")

_CAUSES: Final[tuple[tuple[str, ErrorCode], ...]] = (
    (r"No space left on device|Disk quota exceeded", GIT_NO_ROOM),
    (r"File too large|exceeds maximum allowed size", GIT_TOO_LARGE),
    (
        r"Authentication failed|could not read (Username|Password)|Permission denied|Host key verification failed"
        r"|returned error: 40[13]|certificate|SSL|dubious ownership|Load key",
        GIT_ACCESS_DENIED,
    ),
    (r"fsck|index-pack failed|invalid index-pack|pack has bad object|inflate:|corrupt", GIT_OBJECTS_REFUSED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a run ended.  ``complaint`` is what git said on standard error, as it may be printed."""

    status: int
    output: bytes
    complaint: str

    @property
    def last(self) -> str:
        """The line that tells most."""
        lines = [line for line in self.complaint.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))] or lines
        return (told[-1] if told else f"git ended with {self.status}")[:_LONGEST_SHOWN]

    def error(self, what: str, otherwise: ErrorCode = GIT_UNREACHABLE) -> VestibuleError:
        """Why it failed, by what git said."""
        found = next((code for words, code in _CAUSES if re.search(words, self.complaint)), otherwise)
        return found.error(f"{what}: {self.last}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Git:
    """The program with its surroundings.  ``config`` takes the place of the user's own; ``more`` adds variables."""

    path: str
    home: Path = Path("/nonexistent")
    config: Path = Path("/dev/null")
    more: Mapping[str, str] | None = None
    proxies: Mapping[str, str] | None = None

    def environment(self) -> dict[str, str]:
        """Everything that git is told by variables, and nothing of our own."""
        return {
            "PATH": self.path,
            "LC_ALL": "C",
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": str(self.config),
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": "file:https:ssh",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "SSH_ASKPASS": "",
            **(self.proxies or {}),
            **(self.more or {}),
        }

    async def run(self, *arguments: str, seconds: float = 30.0, most_file: int | None = None) -> Finished:
        """Run it.  ``most_file`` bounds every file that it writes, in bytes.  Raises: VST3221, VST3222 (too late)."""
        command = _command(arguments, most_file)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=self.environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise _missing(error) from error
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(seconds):
                output, complaint = await asyncio.gather(
                    _read(process.stdout, MOST_OUTPUT), _read(process.stderr, MOST_COMPLAINT)
                )
                status = await process.wait()
        except TimeoutError as error:
            raise GIT_UNREACHABLE.error(f"git {_verb(arguments)} took longer than {seconds:g} s") from error
        finally:
            # Also when all went well: nothing that git started may outlive it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is None:
                await process.wait()
        return _finished(arguments, status, output, complaint)

    def run_now(self, *arguments: str, seconds: float = 30.0) -> Finished:
        """The same for who is in a thread of his own, for reading only."""
        try:
            done = subprocess.run(
                ["git", *arguments],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise GIT_FAILED.error(f"git {_verb(arguments)} took longer than {seconds:g} s") from error
        except OSError as error:
            raise _missing(error) from error
        return _finished(arguments, done.returncode, done.stdout, done.stderr)

    async def check(self) -> None:
        """That it is there, and new enough.  Raises: VST3221."""
        said = (await self.run("--version")).output.decode("ascii", "replace")
        found = re.search(r"(\d+)\.(\d+)", said)
        if found is None or (int(found[1]), int(found[2])) < LEAST_VERSION:
            least = ".".join(map(str, LEAST_VERSION))
            raise GIT_MISSING.error(f"{said.strip()[:60]!r} is older than {least}")


def printable(text: str) -> str:
    """What a stranger wrote, fit for a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _command(arguments: Sequence[str], most_file: int | None) -> list[str]:
    if most_file is None:
        return ["git", *arguments]
    return ["/bin/sh", "-c", _LIMITED, str(max(1, most_file // _BLOCK)), "git", *arguments]


def _verb(arguments: Sequence[str]) -> str:
    return next((each for each in arguments if each.isalpha() or each in ("ls-remote", "cat-file")), "")


def _finished(arguments: Sequence[str], status: int, output: bytes, complaint: bytes) -> Finished:
    if len(output) > MOST_OUTPUT:
        raise GIT_TOO_LARGE.error(f"git {_verb(arguments)} answers with more than {MOST_OUTPUT} bytes")
    text = printable(complaint[:MOST_COMPLAINT].decode("utf-8", "replace"))
    return Finished(status=status, output=output, complaint=text)


def _missing(error: OSError) -> VestibuleError:
    return GIT_MISSING.error(f"git cannot be started: {error.strerror}")


async def _read(stream: asyncio.StreamReader, most: int) -> bytes:
    """At most one byte more than ``most``; the rest is read and forgotten, so that nobody waits for us."""
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: most + 1 - len(kept)]
    return bytes(kept)
