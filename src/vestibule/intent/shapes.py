"""The forms that values take, as data: each shape reads a node, and describes itself as JSON Schema.

Reading goes on after a problem: a part that is wrong comes out as None, and what stands beside it is
still read.  That is why these are not models of a validation library, which answer with all or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Generic, Protocol, TypeVar, cast

from vestibule.errors import VestibuleError
from vestibule.intent import codes
from vestibule.intent.nodes import Broken, Kind, Mapping, Node, Position, Scalar, Sequence
from vestibule.intent.not_yet import NOT_YET
from vestibule.intent.problems import Findings, nearest

T = TypeVar("T")
D = TypeVar("D")
T_co = TypeVar("T_co", covariant=True)
Schema = dict[str, Any]
MAX_TEXT: Final = 4096
_NAMES: Final = {Mapping: "a mapping", Sequence: "a list"}


@dataclass(frozen=True, slots=True)
class At(Generic[T_co]):
    """A value and where it was written; ``whole`` unless a part of it was wrong and left out.

    ``parts`` are the keys of the mapping that it was built of, if it was.
    """

    value: T_co
    at: Position
    whole: bool = True
    parts: Fields | None = None


class Shape(Protocol[T_co]):
    """Reads one kind of value; None means that a problem was noted."""

    def read(self, node: Node, findings: Findings) -> At[T_co] | None: ...

    def schema(self) -> Schema: ...


@dataclass(frozen=True, slots=True)
class Text(Generic[T_co]):
    """A text that ``parse`` turns into a value, or refuses by raising a VestibuleError."""

    parse: Callable[[str], T_co]
    extra: Schema = field(default_factory=dict)
    what: str = "a text"

    def read(self, node: Node, findings: Findings) -> At[T_co] | None:
        if not isinstance(node, Scalar) or node.kind is not Kind.TEXT:
            mistyped(node, self.what, findings)
            return None
        if len(node.text) > MAX_TEXT:
            findings.add(codes.MALFORMED_VALUE, f"a text is longer than {MAX_TEXT} characters", node.at)
            return None
        try:
            return At(self.parse(node.text), node.at)
        except VestibuleError as error:
            findings.add_error(error, node.at)
            return None

    def schema(self) -> Schema:
        return {"type": "string", **self.extra}


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number in decimal digits."""

    least: int
    most: int

    def read(self, node: Node, findings: Findings) -> At[int] | None:
        if not isinstance(node, Scalar) or node.kind is not Kind.INTEGER:
            mistyped(node, "a whole number", findings)
            return None
        digits = node.text
        if len(digits) > 10 or not digits.isdigit() or not self.least <= int(digits) <= self.most:
            message = f"{digits[:20]} is not a whole number from {self.least} to {self.most}"
            findings.add(codes.MALFORMED_VALUE, message, node.at)
            return None
        return At(int(digits), node.at)

    def schema(self) -> Schema:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Choice(Generic[T_co]):
    """One of a few words; ``later`` are words of the language that this version does not act on.

    ``entry`` is the record and the key that it is the value of, as ``NOT_YET`` names them.
    """

    words: MappingProxyType[str, T_co]
    later: frozenset[str] = frozenset()
    entry: str = ""

    @classmethod
    def of(
        cls, words: Iterable[tuple[str, T_co]], later: Iterable[str] = (), entry: str = ""
    ) -> Choice[T_co]:
        return cls(MappingProxyType(dict(words)), frozenset(later), entry)

    @property
    def closed(self) -> tuple[str, ...]:
        """The words that are refused by name."""
        return tuple(sorted(self.later | {each for each in self.words if f"{self.entry}: {each}" in NOT_YET}))

    @property
    def open(self) -> tuple[str, ...]:
        """The words that are accepted."""
        return tuple(each for each in self.words if each not in self.closed)

    def read(self, node: Node, findings: Findings) -> At[T_co] | None:
        if not isinstance(node, Scalar) or node.kind is not Kind.TEXT:
            mistyped(node, f"one of {', '.join(self.open)}", findings)
            return None
        shown = node.text[:60]
        if node.text in self.closed:
            findings.add(codes.NOT_SUPPORTED, f"{shown!r} is not supported by this version", node.at)
            return None
        if node.text in self.words:
            return At(self.words[node.text], node.at)
        message = f"{shown!r} is not one of {', '.join(self.open)}"
        findings.add(codes.MALFORMED_VALUE, message, node.at, advice=_did_you_mean(node.text, self.open))
        return None

    def schema(self) -> Schema:
        return {"enum": list(self.open)}


@dataclass(frozen=True, slots=True)
class Many(Generic[T_co]):
    """A list; an item that is wrong is left out.  ``what`` names an item; with ``least`` 1 it cannot be empty."""

    item: Shape[T_co]
    what: str
    least: int = 0
    distinct: bool = True
    most: int | None = None

    def read(self, node: Node, findings: Findings) -> At[tuple[At[T_co], ...]] | None:
        if not isinstance(node, Sequence):
            mistyped(node, f"a list, such as [{self.what}]", findings)
            return None
        if len(node.items) < self.least:
            message = f"the list is empty; it needs at least one {self.what}"
            findings.add(codes.MALFORMED_VALUE, message, node.at, advice="Write an item, or remove the key.")
            return None
        if self.most is not None and len(node.items) > self.most:
            message = f"the list has {len(node.items)} items; at most {self.most} are accepted"
            findings.add(codes.MALFORMED_VALUE, message, node.at, advice="Write fewer.")
            return None
        items = [item for child in node.items if (item := self.item.read(child, findings))]
        if self.distinct:
            self._refuse_repeats(node, findings)
        if len(items) < self.least:
            return None
        return At(tuple(items), node.at, whole=len(items) == len(node.items))

    def _refuse_repeats(self, node: Sequence, findings: Findings) -> None:
        seen: set[str] = set()
        for child in node.items:
            if not isinstance(child, Scalar):
                continue
            if child.text in seen:
                findings.add(codes.DUPLICATE_ITEM, f"{child.text[:60]!r} is listed twice", child.at)
            seen.add(child.text)

    def schema(self) -> Schema:
        schema: Schema = {"type": "array", "items": self.item.schema()}
        if self.least:
            schema["minItems"] = self.least
        if self.most is not None:
            schema["maxItems"] = self.most
        if self.distinct:
            schema["uniqueItems"] = True
        return schema


@dataclass(frozen=True, slots=True)
class Table(Generic[T_co]):
    """A mapping whose keys are names that people choose."""

    name: Text[str]
    value: Shape[T_co]
    what: str

    def read(self, node: Node, findings: Findings) -> At[dict[str, tuple[Position, At[T_co] | None]]] | None:
        """Every well-named entry with the place of its name; a value that is wrong is None."""
        if not isinstance(node, Mapping):
            mistyped(node, f"a mapping from {self.what}", findings)
            return None
        table: dict[str, tuple[Position, At[T_co] | None]] = {}
        for key, child in node.entries:
            name = self.name.read(Scalar(key.at, key.text, Kind.TEXT), findings)
            value = self.value.read(child, findings)
            if name:
                table[name.value] = (key.at, value)
        return At(table, node.at)

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": self.name.schema(),
            "additionalProperties": self.value.schema(),
        }


@dataclass(frozen=True, slots=True)
class Key(Generic[T_co]):
    """A key of a record: its name, the shape of its value, and a sentence for editors and docs."""

    name: str
    shape: Shape[T_co]
    doc: str
    required: bool = False
    default: str | None = None


class Fields:
    """What was read of a record."""

    def __init__(self, written: dict[str, Position], values: dict[str, At[Any] | None]) -> None:
        self._written = written
        self._values = values

    def get(self, key: Key[T]) -> At[T] | None:
        """The value of a key, or None if it is absent or wrong (a problem has been noted then)."""
        return cast("At[T] | None", self._values.get(key.name))

    def value(self, key: Key[T], default: D) -> T | D:
        """The value of a key, or the default if it is absent or wrong."""
        found = self.get(key)
        return default if found is None else found.value

    def place(self, key: Key[Any]) -> Position | None:
        """Where the key itself is written, if it is."""
        return self._written.get(key.name)


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys; ``later`` are keys of the language that this version does not act on."""

    title: str
    keys: tuple[Key[Any], ...]
    later: frozenset[str] = frozenset()

    def read(self, node: Node, findings: Findings) -> At[Fields] | None:
        if not isinstance(node, Mapping):
            mistyped(node, f"a mapping with the keys of {self.title}", findings)
            return None
        known = {key.name: key for key in self.keys}
        written: dict[str, Position] = {}
        values: dict[str, At[Any] | None] = {}
        for name, child in node.entries:
            if (key := known.get(name.text)) and not self._is_not_yet(key):
                written[key.name] = name.at
                values[key.name] = key.shape.read(child, findings)
            else:
                self._refuse(name, findings)
        for key in self.keys:
            if key.required and key.name not in written:
                message = f"{self.title} lacks the key {key.name!r}"
                findings.add(codes.MISSING_KEY, message, node.at, advice=f"Add {key.name}: {key.doc}")
        return At(Fields(written, values), node.at)

    def _refuse(self, name: Scalar, findings: Findings) -> None:
        if findings.full:
            return
        shown = name.text[:60]
        if name.text in self.later or f"{self.title}: {name.text}" in NOT_YET:
            message = f"the key {shown!r} of {self.title} is not supported by this version"
            findings.add(codes.NOT_SUPPORTED, message, name.at)
            return
        names = [key.name for key in self.keys]
        hint = _did_you_mean(name.text, [*names, *self.later])
        message = f"{self.title} has no key {shown!r}"
        findings.add(codes.UNKNOWN_KEY, message, name.at, advice=hint or f"Its keys are {', '.join(names)}.")

    def schema(self) -> Schema:
        return {
            "type": "object",
            "additionalProperties": False,
            "required": [key.name for key in self.keys if key.required],
            "properties": {key.name: _described(key) for key in self.keys if not self._is_not_yet(key)},
        }

    def _is_not_yet(self, key: Key[Any]) -> bool:
        return f"{self.title}: {key.name}" in NOT_YET


def _described(key: Key[Any]) -> Schema:
    schema = {"description": key.doc, **key.shape.schema()}
    if key.default is not None:
        schema["default"] = key.default
    return schema


def mistyped(node: Node, wanted: str, findings: Findings) -> None:
    """Note that a value is of another type; nothing is said about what was refused already."""
    if isinstance(node, Broken):
        return
    advice = f"Write {wanted}."
    if not isinstance(node, Scalar):
        found = _NAMES[type(node)]
    elif node.kind is Kind.NULL:
        found = "nothing"
    else:
        found = f"the {node.kind.value} {node.text[:60]!r}"
        if wanted == "a text":
            advice = f'Put it in quotes: "{node.text[:60]}".'
    findings.add(codes.WRONG_TYPE, f"expected {wanted}, found {found}", node.at, advice=advice)


def _did_you_mean(name: str, known: Iterable[str]) -> str | None:
    close = nearest(name, known)
    return f"Did you mean {close!r}?" if close else None
