"""YAML text as a tree of values with their positions; what the language does not use of YAML is refused.

Read from parser events rather than by a YAML loader: nothing is constructed, nesting and size are bounded
while reading, aliases cannot multiply, and one flaw does not hide the next.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from vestibule.errors import ErrorCode
from vestibule.intent import codes

MAX_DEPTH: Final = 16
MAX_NODES: Final = 200_000
_KINDS: Final = (
    (re.compile(r"|~|null|Null|NULL"), "null"),
    (re.compile(r"true|True|TRUE|false|False|FALSE"), "boolean"),
    (re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), "integer"),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"), "number"),
)


class Kind(Enum):
    """What an unquoted scalar is by the YAML 1.2 core schema; ``on``, ``no`` and dates are texts."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    NULL = "null"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A line and a column, counted from 1."""

    line: int
    column: int


START: Final = Position(1, 1)


@dataclass(frozen=True, slots=True)
class Scalar:
    """One text, number, boolean or null, as it was written.

    ``raw`` is how the file has it, where that is another text: in quotes, or in several lines.
    """

    at: Position
    text: str
    kind: Kind
    raw: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    at: Position
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys, each once, with their values, in the order of the file."""

    at: Position
    entries: tuple[tuple[Scalar, Node], ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """Where something stood that was refused already; nothing more is said about it."""

    at: Position


Node = Scalar | Sequence | Mapping | Broken


class Composed(bytes):
    """A file that nobody wrote: a tree put together of parts of another file, with their places there.

    Its bytes only tell it apart from others.
    """

    root: Mapping

    @classmethod
    def of(cls, root: Mapping) -> Composed:
        """The file that reads as this tree."""
        made = cls(repr(root).encode())
        made.root = root
        return made


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with the text as YAML; the reader of the file adds which file."""

    code: ErrorCode
    message: str
    at: Position
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """The tree, as far as it could be read, and the flaws found on the way."""

    root: Node | None
    flaws: tuple[Flaw, ...]


@lru_cache(maxsize=16_384)
def parse(text: str) -> Document:
    """Read one document; equal texts are read once, so that a changed file costs only itself."""
    builder = _Builder()
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            if not builder.take(event):
                break
    except MarkedYAMLError as error:
        builder.flaws.append(_syntax(error))
    except YAMLError as error:
        reason = str(error).splitlines()[0]
        builder.flaws.append(Flaw(codes.YAML_SYNTAX, f"not YAML: {reason}", builder.last))
    except (ValueError, OverflowError):
        # From chr() inside the scanner, for an escape such as "\UFFFFFFFF".
        builder.flaws.append(Flaw(codes.YAML_SYNTAX, "not YAML: an escape names no character", builder.last))
    return builder.document()


def _syntax(error: MarkedYAMLError) -> Flaw:
    mark = error.problem_mark or error.context_mark
    at = Position(mark.line + 1, mark.column + 1) if mark else START
    reason = error.problem or error.context or "it cannot be read"
    advice = "Indent with spaces; YAML knows no tabs." if "'\\t'" in reason else None
    return Flaw(codes.YAML_SYNTAX, f"not YAML: {reason}", at, advice)


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been seen; a mapping's keys and values alternate in ``nodes``."""

    at: Position
    is_mapping: bool
    refused: bool
    nodes: list[Node] = field(default_factory=list)


class _Builder:
    """Folds events into nodes, with a stack of its own instead of recursion."""

    def __init__(self) -> None:
        self.flaws: list[Flaw] = []
        self.last = START
        self._open: list[_Open] = []
        self._roots: list[Node] = []
        self._documents = 0
        self._nodes = 0

    def document(self) -> Document:
        root = self._roots[0] if self._roots else None
        if root is None and not self.flaws:
            self.flaws.append(Flaw(codes.MISSING_KEY, "the file is empty", START))
        return Document(root, tuple(self.flaws))

    def take(self, event: Any) -> bool:
        """Fold one event in; False when nothing further should be read."""
        self.last = Position(event.start_mark.line + 1, event.start_mark.column + 1)
        if isinstance(event, DocumentStartEvent):
            return self._start_document(event)
        if isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._open.append(
                _Open(self.last, isinstance(event, MappingStartEvent), self._refuse_decoration(event))
            )
            return self._within_bounds()
        if isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._put(self._close(self._open.pop()))
        elif isinstance(event, AliasEvent):
            self._refuse(f"the alias *{event.anchor}", "is not part of the language")
            self._put(Broken(self.last))
        elif isinstance(event, ScalarEvent):
            self._put(self._scalar(event))
        return self._within_bounds()

    def _start_document(self, event: Any) -> bool:
        self._documents += 1
        if self._documents > 1:
            self._refuse("a second document", "in one file is not part of the language")
            return False
        if event.version or event.tags:
            self._refuse("a % directive", "is not part of the language")
        return True

    def _within_bounds(self) -> bool:
        self._nodes += 1
        if len(self._open) <= MAX_DEPTH and self._nodes <= MAX_NODES:
            return True
        message = f"nested deeper than {MAX_DEPTH} or more than {MAX_NODES} parts"
        self.flaws.append(Flaw(codes.YAML_TOO_COMPLEX, message, self.last))
        return False

    def _refuse(self, what: str, why: str) -> None:
        self.flaws.append(Flaw(codes.YAML_FEATURE, f"{what} {why}", self.last))

    def _refuse_decoration(self, event: Any) -> bool:
        if event.anchor:
            self._refuse(f"the anchor &{event.anchor}", "is not part of the language")
        if event.tag:
            self._refuse(f"the tag {event.tag}", "is not part of the language")
        return bool(event.tag)

    def _scalar(self, event: Any) -> Node:
        if self._refuse_decoration(event):
            return Broken(self.last)
        text: str = event.value
        if odd := next((c for c in text if _is_invisible(c)), None):
            message = f"a text holds the character U+{ord(odd):04X}, which cannot be seen"
            self.flaws.append(Flaw(codes.INVISIBLE_CHARACTER, message, self.last))
            return Broken(self.last)
        kind = _kind(text) if event.implicit[0] else Kind.TEXT
        return Scalar(self.last, text, kind, _raw(event) if kind is Kind.TEXT else "")

    def _put(self, node: Node) -> None:
        (self._open[-1].nodes if self._open else self._roots).append(node)

    def _close(self, opened: _Open) -> Node:
        if opened.refused:
            return Broken(opened.at)
        if not opened.is_mapping:
            return Sequence(opened.at, tuple(opened.nodes))
        entries: dict[str, tuple[Scalar, Node]] = {}
        for key, value in zip(opened.nodes[::2], opened.nodes[1::2], strict=True):
            self._enter(entries, key, value)
        return Mapping(opened.at, tuple(entries.values()))

    def _enter(self, entries: dict[str, tuple[Scalar, Node]], key: Node, value: Node) -> None:
        if isinstance(key, Broken):
            return
        if not isinstance(key, Scalar):
            flaw = Flaw(codes.YAML_FEATURE, "a key that is a list or a mapping is not accepted", key.at)
            self.flaws.append(flaw)
        elif key.text in entries:
            first = entries[key.text][0].at.line
            message = f"the key {key.text[:60]!r} occurs twice, first in line {first}"
            self.flaws.append(Flaw(codes.DUPLICATE_KEY, message, key.at))
        else:
            entries[key.text] = (key, value)


def _raw(event: Any) -> str:
    begin, end = event.start_mark, event.end_mark
    if event.style is None and begin.line == end.line:
        return ""
    raw: str = begin.buffer[begin.index : end.index]
    return raw


def _kind(text: str) -> Kind:
    return next((Kind(name) for pattern, name in _KINDS if pattern.fullmatch(text)), Kind.TEXT)


def _is_invisible(character: str) -> bool:
    """Control, formatting (bidirectional overrides too), surrogate, private use and line separators."""
    if " " <= character <= "~" or character in "\n\t":
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
