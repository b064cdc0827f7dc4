"""A shell in which the commands of a page are typed, one after the other."""

from __future__ import annotations

import os
import re
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.e2e.doc_pages import Command

PATIENCE: Final = 60.0
"""Seconds for one command, and for an answer that takes a moment to become what the page shows."""
LOOK_EVERY: Final = 0.1

LOOKS_ONLY: Final = re.compile(
    r"(?:\w+=(?:\$\(|\S+ ))?(?:curl|grep|tail|cat|ls|sed -n|awk|python3|vestibule "
    r"(?:status|check|validate|trace|graph|coverage|audit|bundle|curl"
    r"|svid (?:fetch|validate)|entry (?:show|count)|agent (?:list|show)"
    r"|secret (?:status|who-can-read|what-can|access-log)))\b"
)
"""Commands that change nothing: asked again until the answer is there, as a person would."""


@dataclass(frozen=True, slots=True)
class _Staying:
    """A program in the background; it ends by itself, or is ended if no status is expected."""

    pid: int
    log: Path
    ends_with: int | None


class Shell:
    """One bash with a directory of its own.  Programs started in the background end with it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._mark = secrets.token_hex(8)
        self._status = 0
        self._staying: list[_Staying] = []
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._type("set -o pipefail")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for program in reversed(self._staying):
                self._end(program, orderly=error is None)
        finally:
            self._bash.kill()
            self._bash.wait()
            for pipe in (self._bash.stdin, self._bash.stdout):
                assert pipe is not None
                pipe.close()

    def run(self, command: Command, *, may_fail: bool) -> None:
        """Type a command; its answer must be the page's.  Raises: AssertionError."""
        deadline = time.monotonic() + PATIENCE
        while True:
            output, status = self._ask(command.text)
            well = command.answered_by(output) and (may_fail or status == 0)
            if well or not LOOKS_ONLY.match(command.text) or time.monotonic() > deadline:
                break
            time.sleep(LOOK_EVERY)
        shown = "\n".join(command.answer)
        assert well, (
            f"{command.place}: $ {command.text}\n--- the page says\n{shown}\n"
            f"--- the answer (exit status {status})\n{output}\n{self.logs()}"
        )

    def stay(self, command: Command, ends_with: int | None) -> None:
        """Start a program in the background; its first lines must come to be the page's.  Raises: AssertionError."""
        log = self._directory / f"stays-{len(self._staying)}.log"
        output, _ = self._ask(f"( exec {command.text} ) > {log} 2>&1 &\necho $!")
        self._staying.append(_Staying(int(output), log, ends_with))
        deadline = time.monotonic() + PATIENCE
        while not command.answered_by(log.read_text() if log.exists() else ""):
            assert time.monotonic() < deadline, f"{command.place}: $ {command.text}\n{self.logs()}"
            time.sleep(LOOK_EVERY)

    def logs(self) -> str:
        """What the programs in the background said."""
        written = [each.log for each in self._staying if each.log.exists()]
        return "".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in written)

    def _end(self, program: _Staying, *, orderly: bool) -> None:
        if program.ends_with is None or not orderly:
            os.kill(program.pid, signal.SIGTERM)
        try:
            _, status = self._ask(f"wait {program.pid}")
        except AssertionError:
            os.kill(program.pid, signal.SIGKILL)
            raise
        expected = program.ends_with or 0
        assert status == expected or not orderly, f"it ended with {status}:\n{program.log.read_text()}"

    def _ask(self, text: str) -> tuple[str, int]:
        """Output and exit status of a command, which sees the status of the one before as ``$?``."""
        self._type(f"(exit {self._status})\n{{ {text}\n}} </dev/null\nprintf '\\n{self._mark} %d\\n' $?")
        output = self._read()
        text, _, status = output.rpartition(self._mark)
        self._status = int(status)
        return text.rstrip("\n"), self._status

    def _type(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text.encode() + b"\n")
        self._bash.stdin.flush()

    def _read(self) -> str:
        assert self._bash.stdout is not None
        descriptor, received = self._bash.stdout.fileno(), b""
        deadline = time.monotonic() + PATIENCE
        end = re.compile(self._mark.encode() + rb" \d+\n\Z")
        while not end.search(received):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(descriptor, 65536) if ready else b""
            assert data, f"no end of it after {PATIENCE:g} s: {received.decode(errors='replace')}"
            received += data
        return received.decode(errors="replace")
