"""Telling whoever reads the files that there are new ones: a signal, a command, an HTTP request, a process of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import ssl
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vestibule.errors import VestibuleError
from vestibule.sdk.files.codes import BAD_LAYOUT, NOT_TOLD

PATIENCE: Final = 60.0
"""Seconds that a command or an HTTP server has, unless told otherwise."""

_STOP_PATIENCE: Final = 10.0
_LINE_BYTES: Final = 4096
_STANDARD_ERROR: Final = 2


class OnFailure(Enum):
    """What becomes of it when a reader cannot be told."""

    RETRY = "retry"
    CONTINUE = "continue"
    EXIT = "exit"


@dataclass(slots=True, kw_only=True)
class Reload:
    """What is done once new files are in place; all that is given, in this order.

    ``signal_name`` goes to the process whose number stands in ``pid_file``, which is read each time.  ``command`` is
    run, without a shell.  ``url`` gets a POST and has to answer 2xx.  ``process`` is started at the first time, and
    gets ``signal_name`` at later ones while it runs.  ``receiver`` is called first of all.  ``patience`` is in seconds,
    for each of them.
    """

    signal_name: str = ""
    pid_file: Path | None = None
    command: tuple[str, ...] = ()
    url: str = ""
    process: tuple[str, ...] = ()
    receiver: Callable[[], None] | None = None
    patience: float = PATIENCE
    on_failure: OnFailure = OnFailure.RETRY
    _process: Process | None = field(default=None, init=False)

    def check(self) -> None:
        """Raises: VST2456 when it can never be done."""
        receiver = self.pid_file is not None or bool(self.process) or self.receiver is not None
        if self.signal_name and self.signal_name not in signal.Signals.__members__:
            raise BAD_LAYOUT.error(
                f"{self.signal_name!r} is no signal", advice="Write its name, such as SIGHUP."
            )
        if (self.pid_file is not None and not self.signal_name) or (self.signal_name and not receiver):
            raise BAD_LAYOUT.error("a signal and the file of a process's number belong together")
        if self.url:
            _read_url(self.url)
        if self.patience <= 0:
            raise BAD_LAYOUT.error("there has to be some time for telling")

    @property
    def is_needed(self) -> bool:
        """Whether anybody is to be told at all."""
        return bool(self.pid_file or self.command or self.url or self.process or self.receiver)

    async def tell(self) -> None:
        """Tell everybody once.  Raises: VST2454 with all that went wrong."""
        ways: tuple[tuple[object, Callable[[], Awaitable[None]]], ...] = (
            (self.pid_file, self._signal_file),
            (self.process, self._start_or_signal),
            (self.command, self._run),
            (self.url, self._post),
        )
        if self.receiver is not None:
            self.receiver()
        problems = [await self._problem(way) for given, way in ways if given]
        if found := [each for each in problems if each]:
            raise NOT_TOLD.error("; ".join(found))

    async def close(self) -> None:
        """End the process that was started: SIGTERM, some patience, SIGKILL."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_PATIENCE)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _problem(self, way: Callable[[], Awaitable[None]]) -> str:
        try:
            async with asyncio.timeout(self.patience):
                await way()
        except TimeoutError:
            return f"{self._name_of(way)} did not end within {self.patience:g} s"
        except (OSError, ValueError, EOFError) as error:
            return f"{self._name_of(way)}: {error}"
        except VestibuleError as error:
            return error.message
        return ""

    def _name_of(self, way: Callable[[], Awaitable[None]]) -> str:
        if way == self._signal_file:
            return f"cannot send {self.signal_name} to the process of {self.pid_file}"
        if way == self._run:
            return f"the command {self.command[0]!r}"
        return self.url if way == self._post else f"the process {self.process[0]!r}"

    async def _signal_file(self) -> None:
        assert self.pid_file is not None
        os.kill(_pid(self.pid_file), signal.Signals[self.signal_name])

    async def _start_or_signal(self) -> None:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(*self.process)
        elif self.signal_name:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.Signals[self.signal_name])

    async def _run(self) -> None:
        # Words, no shell: what stands in the files never comes into a command.  Our own output stays ours.
        process = await asyncio.create_subprocess_exec(
            *self.command, stdin=DEVNULL, stdout=_STANDARD_ERROR, start_new_session=True
        )
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code:
            raise NOT_TOLD.error(f"the command {self.command[0]!r} ended with {code}")

    async def _post(self) -> None:
        host, port, path, context = _read_url(self.url)
        reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=_LINE_BYTES)
        try:
            name = f"[{host}]" if ":" in host else host
            lines = [
                f"POST {path} HTTP/1.1",
                f"Host: {name}:{port}",
                "Content-Length: 0",
                "Connection: close",
            ]
            writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
            await writer.drain()
            words = (await reader.readline()).split()
        finally:
            writer.transport.abort()
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].startswith(b"2"):
            told = words[1][:3].decode("ascii", "replace") if len(words) > 1 else "nothing of HTTP"
            raise NOT_TOLD.error(f"{self.url} answered {told}")


def read_command(text: str) -> tuple[str, ...]:
    """The words of a command, as a shell would part them.  Raises: VST2456."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise BAD_LAYOUT.error(f"{text!r} is no command: {error}") from error


def _read_url(text: str) -> tuple[str, int, str, ssl.SSLContext | None]:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise BAD_LAYOUT.error(f"{text!r} is no URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
        raise BAD_LAYOUT.error(
            f"{text!r} is no URL to be told at", advice="Write http://127.0.0.1:PORT/PATH."
        )
    if any(each <= " " or each > "~" for each in text):
        raise BAD_LAYOUT.error(f"{text!r} is no URL: it has characters that have to be encoded")
    secure = url.scheme == "https"
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return (
        url.hostname,
        port or (443 if secure else 80),
        path,
        ssl.create_default_context() if secure else None,
    )


def _pid(path: Path) -> int:
    # PostgreSQL's postmaster.pid has more lines; the first is the number, as everywhere.
    pid = int(path.read_text("utf-8").partition("\n")[0].strip())
    if pid <= 1:
        raise ValueError(f"{pid} is not the ID of one process")  # 0 and below mean many, 1 the system's own
    return pid
