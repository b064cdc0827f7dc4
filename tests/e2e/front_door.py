"""Vestibule as its users have it: commands and processes, their output, their exit codes, what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vestibule.processes import procfs

PATIENCE: Final = 60.0
FOREIGN: Final = ("VESTIBULE_", "SPIFFE_", "XDG_")
ENVIRONMENT: Final = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
} | {"COLUMNS": "200", "LC_ALL": "C.UTF-8"}

FINE, FINDINGS, USAGE, UNREACHABLE, REFUSED = range(5)
"""The documented exit codes."""


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "vestibule", *map(str, words)]


def until(holds: Callable[[], Any], what: Callable[[], str] | str, within: float = PATIENCE) -> Any:
    """The first true value; AssertionError with ``what`` if none comes."""
    deadline = time.monotonic() + within
    while not (value := holds()):
        assert time.monotonic() < deadline, (
            f"not within {within:g} s: {what if isinstance(what, str) else what()}"
        )
        time.sleep(0.02)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        assert self.out.startswith("{"), self
        document = json.loads(self.out)
        assert set(document) == {"schema", "data", "errors"}, document
        assert document["schema"].startswith("vestibule."), document
        return dict(document)

    def refused(self, code: str, exit_code: int, *words: str) -> dict[str, Any]:
        """The first error, which has this code and these words, says what to do, and is all that was said."""
        document = self.envelope
        error: dict[str, Any] = document["errors"][0]
        assert (error["code"], self.code) == (code, exit_code), (error, self)
        assert all(word in error["message"] for word in words), error
        assert len(error["advice"]) > 10, error
        assert "Traceback" not in self.err
        return error


def vestibule(*words: object, cwd: Path | None = None, text: bool = False, within: float = PATIENCE) -> Ended:
    """Run a command to its end, asking for JSON unless it is ``text`` that is looked at.

    The first word may be several, with blanks between them.
    """
    own = words[: words.index("--")] if "--" in words else words
    rest = words[len(own) :]
    first, *others = own
    arguments = [*str(first).split(), *others, *(() if text else ("--output", "json")), *rest]
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )
    return Ended(code=done.returncode, out=done.stdout, err=done.stderr)


def at_once(**commands: Sequence[object]) -> dict[str, Ended]:
    """Run several commands at the same time, by name."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(commands, pool.map(lambda words: vestibule(*words), commands.values()), strict=True))


class Program:
    """A command that stays, with its output in files.  It is known by pid and start time."""

    def __init__(
        self, directory: Path, name: str, words: Sequence[object], *, before: Sequence[str] = ()
    ) -> None:
        number = len(list(directory.glob(f"{name}*.out")))
        self.name = name
        self.out_path = directory / f"{name}-{number}.out"
        self.err_path = directory / f"{name}-{number}.err"
        with self.out_path.open("wb") as out:
            self._process = subprocess.Popen(
                [*before, *command(*words)],
                cwd=directory,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
            )
        # Through us, so that a limit on the files of the program does not silence it.
        self.err_path.touch()
        self._copying = threading.Thread(target=self._copy, daemon=True)
        self._copying.start()
        self.pid = self._process.pid
        self.start_time = procfs.start_time(self.pid)

    def _copy(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as source, self.err_path.open("wb", buffering=0) as copy:
            while data := os.read(source.fileno(), 65536):
                copy.write(data)

    @property
    def out(self) -> str:
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        return self.err_path.read_text()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Every whole JSON document of standard output so far."""
        text, found, decoder = self.out.lstrip(), list[dict[str, Any]](), json.JSONDecoder()
        while text:
            try:
                document, end = decoder.raw_decode(text)
            except ValueError:
                break
            found.append(document)
            text = text[end:].lstrip()
        return found

    def ready(self, within: float = PATIENCE) -> Any:
        """The data of its first document; it must still run then."""
        until(lambda: self.documents or not self.runs, lambda: self.said, within)
        assert self.runs, self.said
        return self.documents[0]["data"]

    def says(self, words: str, within: float = PATIENCE) -> None:
        """Wait until its log holds these words."""
        until(lambda: words in self.err, lambda: f"{words!r} in {self.said}", within)

    def ended(self) -> Ended:
        """Wait for its own end."""
        code = self._process.wait(PATIENCE)
        self._copying.join(PATIENCE)
        return Ended(code=code, out=self.out, err=self.err)

    def ended_with(self, code: str, exit_code: int) -> None:
        """It ended by itself, and its last document says why."""
        ended = self.ended()
        error = self.documents[-1]["errors"][0]
        assert (error["code"], ended.code) == (code, exit_code), self.said
        assert error["advice"]

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Without a chance to do anything about it."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> Ended:
        """The orderly end, which must be one."""
        if self.runs:
            self.signal(signal.SIGTERM)
        ended = self.ended()
        assert "Traceback" not in ended.err, ended.err
        return ended

    @property
    def said(self) -> str:
        return f"{self.name} (runs: {self.runs}):\n{self.out[-2000:]}\n{self.err[-4000:]}"


def processes_of(directory: Path) -> dict[int, str]:
    """Every process whose arguments or environment name the directory, other than this one."""
    found = {}
    needle = os.fsencode(directory)
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            if int(entry.name) != os.getpid() and needle in words + (entry / "environ").read_bytes():
                found[int(entry.name)] = words.replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found


def children_of(pid: int) -> dict[int, str]:
    """The living children of a process: pid and program."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, pids):
            try:
                found[child] = str(Path(f"/proc/{child}/exe").readlink())
            except OSError:
                continue
    return found


def holds_none(texts: Mapping[str, bytes], secrets: Sequence[bytes]) -> None:
    """No text holds a secret, or a private key."""
    for place, text in texts.items():
        for secret in (b"PRIVATE KEY", *secrets):
            assert secret not in text, f"a secret stands in {place}"
