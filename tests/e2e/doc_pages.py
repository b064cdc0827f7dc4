"""The documentation as something that can be run.

A fenced block marked ``console`` holds commands (``$ …``, continued by ``> …``) and what they answer.  An answer is
compared loosely: ``…`` stands for anything within a line, alone on a line for any number of lines; runs of blanks are
one blank; a command without an answer below it only has to succeed.  ``$ echo $?`` below a command says that it may
fail, and how.  A comment before a block changes what happens to it:

    <!-- stays -->             it is started in the background, and ended with the page
    <!-- stays: ends with N -->  … and ends by itself before the page does, with this exit status
    <!-- not run: REASON -->   it is only read

A block of another language whose first line is a comment with a path is a file that the reader makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ANYTHING: Final = "…"
_FENCE: Final = re.compile(r"^```(\S*)\s*$")
_NOT_RUN: Final = re.compile(r"^<!-- not run: (.+) -->$")
_STAYS: Final = re.compile(r"^<!-- stays(?:: ends with (\d+))? -->$")
_FILE: Final = re.compile(r"^(?:#|//|<!--) (\S+\.[a-z]+)(?: -->)?\s*$")


@dataclass(slots=True, kw_only=True)
class Command:
    """One command of a page and the answer that the page shows; ``place`` is file and line."""

    place: str
    text: str
    answer: list[str] = field(default_factory=list)

    def answered_by(self, output: str) -> bool:
        """Whether the output is what the page shows."""
        return not self.answer or bool(_pattern(self.answer).fullmatch(_plain(output.splitlines())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A block of commands."""

    place: str
    commands: tuple[Command, ...]
    stays: bool = False
    ends_with: int | None = None
    not_run: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that the reader makes."""

    place: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class _Fenced:
    line: int
    language: str
    comment: str
    body: tuple[str, ...]


def parts_of(page: Path) -> list[Console | File]:
    """What there is to do in a page, in order."""
    return [
        part for fenced in _fenced(page.read_text(encoding="utf-8")) if (part := _part(page.name, fenced))
    ]


def _part(page: str, fenced: _Fenced) -> Console | File | None:
    place = f"{page}:{fenced.line}"
    if fenced.language == "console":
        not_run, stays = _NOT_RUN.match(fenced.comment), _STAYS.match(fenced.comment)
        return Console(
            place=place,
            commands=tuple(_commands(page, fenced)),
            stays=stays is not None,
            ends_with=int(stays[1]) if stays and stays[1] else None,
            not_run=not_run[1] if not_run else "",
        )
    named = _FILE.match(fenced.body[0]) if fenced.body else None
    return File(place=place, path=named[1], text="\n".join(fenced.body) + "\n") if named else None


def _fenced(text: str) -> Iterator[_Fenced]:
    opened: tuple[int, str, str] | None = None
    before, body = "", list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        if opened is None:
            if fence:
                opened, body = (number, fence[1], before), []
            before = line if line.strip() else before
        elif line.rstrip() == "```":
            yield _Fenced(*opened, tuple(body))
            opened, before = None, ""
        else:
            body.append(line)
    assert opened is None, "a block of code does not end"


def _commands(page: str, fenced: _Fenced) -> Iterator[Command]:
    command: Command | None = None
    for number, line in enumerate(fenced.body, start=fenced.line + 1):
        if line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(place=f"{page}:{number}", text=line.removeprefix("$ "))
        elif command is not None and not command.answer and (line.startswith("> ") or line == ">"):
            command.text += "\n" + line[2:]
        elif command is not None:
            command.answer.append(line)
        else:
            raise AssertionError(f"{page}:{number}: an answer without a command")
    if command is not None:
        yield command


def _plain(lines: list[str]) -> str:
    kept = [" ".join(line.split()) for line in lines]
    return "".join(f"{line}\n" for line in kept if line)


def _pattern(answer: list[str]) -> re.Pattern[str]:
    pattern = ""
    for line in _plain(answer).splitlines():
        if line == ANYTHING:
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.split(ANYTHING)) + r"\n"
    return re.compile(pattern)
