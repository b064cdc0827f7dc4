"""``vestibule svid exec -- CMD``: a program with SVIDs in files of its own, which follow renewals and go with it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from vestibule.cli.codes import USAGE
from vestibule.cli.durations import parse_duration
from vestibule.cli.option_groups import in_groups
from vestibule.cli.output import Output, OutputOption, run
from vestibule.cli.sockets import AgentSocketOption
from vestibule.cli.svid_options import FileOptions, endpoint_of, warnings_shown
from vestibule.processes.codes import CANNOT_START
from vestibule.sdk.codes import NO_SVID
from vestibule.sdk.files.contents import DEFAULT_NAMES, Layout
from vestibule.sdk.files.directory import FileDirectory
from vestibule.sdk.files.keeping import Keeper
from vestibule.sdk.files.private import private_place
from vestibule.sdk.files.reload import Reload, read_command

_PASSED_ON: Final = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM")
)
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_FROM_TERMINAL: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


@in_groups
def execute(
    files: FileOptions,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="The program.")],
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=FILE", help="A variable with the path of one of the files."),
    ] = None,
    under: Annotated[
        Path | None,
        typer.Option("--under", metavar="DIR", help="Where the directory is made. [default: in memory]"),
    ] = None,
    wait: Annotated[str, typer.Option("--wait", help="How long to wait for agent and identity.")] = "30s",
    renew_signal: Annotated[
        str, typer.Option("--renew-signal", metavar="SIGHUP", help="Sent to it after each renewal.")
    ] = "",
    renew_command: Annotated[
        str, typer.Option("--renew-command", help="Run after each renewal; words, no shell.")
    ] = "",
    agent_socket: AgentSocketOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a program with SVIDs in a private directory in memory, which follows renewals and is removed at the end.

    The program finds them by VESTIBULE_SVID_DIR, VESTIBULE_SVID_CERT, VESTIBULE_SVID_KEY and VESTIBULE_SVID_BUNDLE
    (svid.pem, svid.key, bundle.pem), and by --env.  Signals are passed on, and the exit status is the program's.
    """

    async def main() -> int:
        layout = _with_default_names(files.layout())
        layout.check()
        child = _Child(tuple(command))
        reload = Reload(
            signal_name=renew_signal,
            command=read_command(renew_command),
            receiver=partial(child.renewed, renew_signal),
        )
        reload.check()
        endpoint = endpoint_of(agent_socket, must_exist=False)
        patience = parse_duration(wait).total_seconds()
        with warnings_shown(), private_place(under) as place, FileDirectory(place) as directory:
            variables = _variables(layout, place, env or ())
            keeper = Keeper(layout, directory, endpoint, reload=reload)
            following = asyncio.create_task(keeper.follow(), name="svid-files")
            try:
                with _passing_on(child):
                    await _first_files(keeper, following, child.stopped, patience)
                    return await child.run(variables, following)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    run(output, "svid-exec", main)


def _with_default_names(layout: Layout) -> Layout:
    certificate, key, bundle = DEFAULT_NAMES
    return replace(
        layout,
        certificate=layout.certificate or certificate,
        key=layout.key or key,
        bundle=layout.bundle or bundle,
    )


def _variables(layout: Layout, place: Path, given: Sequence[str]) -> dict[str, str]:
    found = {
        "VESTIBULE_SVID_DIR": str(place),
        "VESTIBULE_SVID_CERT": str(place / layout.certificate),
        "VESTIBULE_SVID_KEY": str(place / layout.key),
        "VESTIBULE_SVID_BUNDLE": str(place / layout.bundle),
    }
    for each in given:
        name, sign, file = each.partition("=")
        if not (name and sign and file in layout.names):
            raise USAGE.error(
                f"{each!r} is not NAME=FILE of one of the files: {', '.join(layout.names)}",
                advice="Such as --env PGSSLCERT=svid.pem.",
            )
        found[name] = str(place / file)
    return found


async def _first_files(
    keeper: Keeper, following: asyncio.Task[None], stopped: asyncio.Event, patience: float
) -> None:
    waits = {asyncio.create_task(_until(event)) for event in (keeper.placed, stopped)}
    await asyncio.wait({*waits, following}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if keeper.placed.is_set() or stopped.is_set():
        return
    if following.done():
        await following
    why = "; ".join(each for each in keeper.board.problems.values() if each)
    raise NO_SVID.error(f"no SVID within {patience:g} s: {why}")


async def _until(event: asyncio.Event) -> None:
    await event.wait()


class _Child:
    """The program: it has our standard streams and our terminal."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._process: Process | None = None
        self._ended_by = 0
        self.stopped = asyncio.Event()
        """Set by a signal that ends it before it has begun."""

    async def run(self, variables: Mapping[str, str], following: asyncio.Task[None]) -> int:
        """Its exit status, as a shell shows it.  Raises: VST7000; what ended the following of renewals."""
        if self._ended_by:
            return 128 + self._ended_by
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=os.environ | variables, preexec_fn=partial(_die_with, os.getpid())
            )
        except OSError as error:
            raise CANNOT_START.error(f"cannot start {self._command[0]}: {error.strerror}") from error
        ended = asyncio.create_task(self._process.wait(), name="program")
        await asyncio.wait({ended, following}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            # The files would not be current any more.  It is told, and still ends by itself.
            self.send(signal.SIGTERM)
            await ended
            await following
        code = ended.result()
        return code if code >= 0 else 128 - code

    def renewed(self, signal_name: str) -> None:
        """New files are in place."""
        if signal_name and self._process is not None:
            self.send(signal.Signals[signal_name])

    @property
    def runs(self) -> bool:
        """Whether it was started."""
        return self._process is not None

    def send(self, number: int) -> None:
        """Pass a signal on; before it runs, what would end it does so."""
        if self._process is None:
            if number in _ENDING:
                self._ended_by = number
                self.stopped.set()
        elif self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


@contextmanager
def _passing_on(child: _Child) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def pass_on(number: int) -> None:
        # A terminal sends these to all of its foreground group: a program that runs has it already.
        if not (child.runs and number in _FROM_TERMINAL and _in_foreground()):
            child.send(number)

    for number in _PASSED_ON:
        loop.add_signal_handler(number, pass_on, number)
    try:
        yield
    finally:
        for number in _PASSED_ON:
            loop.remove_signal_handler(number)


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _die_with(parent: int) -> None:
    """Between fork and exec: whoever has files that nobody renews is told to end when we were killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
