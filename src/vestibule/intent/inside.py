"""Where a character of a text stands in its file: texts may be quoted, escaped, folded and indented."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from vestibule.intent.nodes import Position, Scalar

_ESCAPE: Final = re.compile(r"\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[^xuU\n])")

_NAME_BEFORE: Final = re.compile(r"[A-Za-z0-9_.]*$")


@dataclass(frozen=True, slots=True)
class Written:
    """A text, and how it was written."""

    node: Scalar

    @property
    def text(self) -> str:
        """As it is meant."""
        return self.node.text

    def place(self, line: int, column: int) -> Position:
        """Where the text's own line and column, counted from 1, stand in the file; of a dotted name, its beginning."""
        lines = self.text.split("\n")
        offset = sum(len(each) + 1 for each in lines[: line - 1]) + column - 1
        if self.text[offset : offset + 1] == ".":
            name = _NAME_BEFORE.search(self.text[:offset])
            offset -= len(name[0]) if name else 0
        return self.at(offset)

    def at(self, offset: int) -> Position:
        """Where the character of this number, counted from 0, stands in the file."""
        raw, start = self.node.raw, self.node.at
        if not raw:
            return Position(start.line, start.column + offset)
        upto = raw[: _reach(raw, self.text, offset)]
        line = upto.count("\n")
        column = len(upto) - upto.rfind("\n") if line else start.column + len(upto)
        return Position(start.line + line, column)


def _reach(raw: str, text: str, offset: int) -> int:
    """Where in ``raw`` the character of this number begins."""
    at = _begin(raw)
    for number, character in enumerate(text):
        at = _skip(raw, at, character)
        if number == offset:
            break
        at += _length(raw, at, character)
    return min(at, len(raw))


def _begin(raw: str) -> int:
    """Behind the quote, or behind the line that begins a block."""
    if raw[:1] in ("|", ">"):
        return raw.find("\n") + 1
    return 1 if raw[:1] in ("'", '"') else 0


def _skip(raw: str, at: int, character: str) -> int:
    """Past what stands between lines and means nothing."""
    while at < len(raw) and raw[at] != character and raw[at] in " \t\n" and character not in " \n":
        at += 1
    return at


def _length(raw: str, at: int, character: str) -> int:
    """How much of ``raw`` stands for one character."""
    if raw[:1] == '"' and (escape := _ESCAPE.match(raw, at)):
        return len(escape[0])
    if raw[:1] == "'" and raw.startswith("''", at):
        return 2
    if character == " " and at < len(raw) and raw[at] == "\n":
        # A folded line: what indents the next one is skipped before the next character.
        return 1
    return 1
