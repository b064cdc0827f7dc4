"""How every command answers: a text for people, or the JSON envelope, and one of five exit codes."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Coroutine, Iterable, Sequence
from enum import Enum, IntEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from vestibule.cli.codes import DISK_FULL, OUTPUT_LOST
from vestibule.errors import Kind, SeveralError, VestibuleError


class Output(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The two output forms."""

    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="text for people, json for programs.")]


class Exit(IntEnum):
    """What the exit code says."""

    FINE = 0
    FINDINGS = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED = 4


NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
EXIT_OF_KIND: Final = {Kind.UNAVAILABLE: Exit.UNREACHABLE, Kind.INVALID: Exit.USAGE}
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs"})


def plain(text: str) -> str:
    """Without what terminals act upon: paths, names and answers are those of strangers."""
    if text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(each) in _INVISIBLE and each not in "\n\t"
        else each
        for each in text
    )


class Terminal(Console):
    """Rich's console, which shows texts and obeys none of them."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Called by Rich for what is given as text, before it is laid out."""
        return super().render_str(plain(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Called by Rich for all that it prints."""
        for each in super().render(renderable, options):
            yield each if each.control else each._replace(text=plain(each.text))


console: Final = Terminal(highlight=False, soft_wrap=True)
complaints: Final = Terminal(stderr=True, highlight=False, soft_wrap=True)


def error_line(error: VestibuleError) -> dict[str, str | None]:
    """An error as the envelope carries it."""
    return {
        "code": error.code.code,
        "message": error.message,
        "advice": error.advice,
        "where": str(error.where) if error.where else None,
    }


def envelope(schema: str, data: object, errors: Sequence[VestibuleError] = ()) -> str:
    """The JSON answer of a command; ``schema`` is the bare name, such as ``status``."""
    document = {
        "schema": f"vestibule.{schema}/v1",
        "data": data,
        "errors": [error_line(error) for error in errors],
    }
    return json.dumps(document, indent=2, sort_keys=False)


def answer(
    output: Output,
    schema: str,
    data: object,
    text: Callable[[], None],
    *,
    errors: Sequence[VestibuleError] = (),
) -> None:
    """Print a result in the asked form; ``text`` prints it for people (with ``console``).

    Raises: VST9103 where it cannot be printed.
    """
    try:
        if output is Output.JSON:
            sys.stdout.write(envelope(schema, data, errors) + "\n")
        else:
            text()
        sys.stdout.flush()
    except BrokenPipeError:
        raise  # whoever reads has read enough
    except OSError as error:
        _give_up_output()
        raise OUTPUT_LOST.error(f"the answer cannot be written: {error.strerror}") from error
    if output is Output.TEXT:
        for each in errors:
            complain(each)


def _give_up_output() -> None:
    """What still waits to be written would fail again, with a trace, at the very end."""
    sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the process


def complain(error: VestibuleError) -> None:
    """Show one error to a person: code and place, then the fix."""
    sentence(complaints, "[bold red]✗[/]", _escape(str(error)))
    sentence(complaints, "  [dim]fix:[/]", _escape(error.advice))


def sentence(target: Console, mark: str, text: str) -> None:
    """A mark and a text, both in Rich's markup: broken between words on a terminal, one line elsewhere."""
    if not target.is_terminal:
        target.print(f"{mark} {text}")
        return
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(no_wrap=True)
    line.add_column(overflow="fold")
    line.add_row(mark, text)
    target.print(line)


LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run(
    output: Output,
    schema: str,
    main: Callable[[], Coroutine[Any, Any, Exit | int | None]],
    *,
    loop: LoopFactory | None = None,
) -> None:
    """Run a command's coroutine and leave with its exit code; foreseen errors are shown, never traced."""
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            code = runner.run(main()) or Exit.FINE
    except VestibuleError as error:
        raise _failed(output, schema, error) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (OSError, BaseExceptionGroup) as error:
        if (full := _without_room(error)) is None:
            raise
        told = DISK_FULL.error(f"{full.filename or 'a file'} cannot be written: {full.strerror}")
        raise _failed(output, schema, told) from error
    raise typer.Exit(int(code))


def _failed(output: Output, schema: str, error: VestibuleError) -> typer.Exit:
    errors = error.errors if isinstance(error, SeveralError) else (error,)
    if output is Output.JSON and error.code is not OUTPUT_LOST:
        sys.stdout.write(envelope(schema, None, errors) + "\n")
    else:
        for each in errors:
            complain(each)
    return typer.Exit(EXIT_OF_KIND.get(error.code.kind, Exit.REFUSED))


def _without_room(error: BaseException) -> OSError | None:
    """The failed write of a full disk, if that is why all this ended."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := _without_room(each))), None)
    return error if isinstance(error, OSError) and error.errno in NO_ROOM else None


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
