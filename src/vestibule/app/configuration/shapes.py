"""How a setting of each type is written in YAML: the intent language's reader, and a few shapes more."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from vestibule.app.attestor_choices import Choice as Attestor
from vestibule.app.attestor_choices import choices_of
from vestibule.app.codes import INVALID_SETTING
from vestibule.app.configuration.sizes import Size, parse_size
from vestibule.app.secret_references import SecretReference
from vestibule.cli.durations import parse_duration
from vestibule.errors import VestibuleError
from vestibule.intent import codes
from vestibule.intent.nodes import Broken, Kind, Mapping, Node, Scalar, Sequence
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import At, Choice, Key, Many, Record, Schema, Shape, Text, Whole
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustDomain

T = TypeVar("T")

_DURATION: Final = "[0-9]{1,8}(s|m|h|d)"
_SIZE: Final = "[0-9]{1,9}(B|KiB|MiB|GiB)"
_PORT: Final = re.compile(r"(^|_)port$")


def path(text: str) -> Path:
    """A path, from the directory in which the program was started.  Raises: VST9110."""
    if not text or "\0" in text:
        raise INVALID_SETTING.error("a path is empty, or holds a NUL character")
    return Path(text).expanduser().absolute()


def host_and_port(text: str) -> Address:
    """``HOST:PORT``.  Raises: VST9110."""
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise INVALID_SETTING.error(str(error)) from error
    if address.path:
        raise INVALID_SETTING.error(f"{text[:60]!r} is a socket, not HOST:PORT")
    return address


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    def read(self, node: Node, findings: Findings) -> At[bool] | None:
        if isinstance(node, Scalar) and node.kind is Kind.BOOLEAN:
            return At(node.text.lower() == "true", node.at)
        if not isinstance(node, Broken):
            findings.add(codes.WRONG_TYPE, "expected true or false", node.at, advice="Write true or false.")
        return None

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class OrOff(Generic[T]):
    """A value, or ``off`` for none."""

    shape: Shape[T]

    def read(self, node: Node, findings: Findings) -> At[Any] | None:
        if isinstance(node, Scalar) and node.kind is Kind.TEXT and node.text == "off":
            return At(None, node.at)
        return self.shape.read(node, findings)

    def schema(self) -> Schema:
        return {"anyOf": [{"const": "off"}, self.shape.schema()]}


@dataclass(frozen=True, slots=True)
class Either:
    """One value, or settings that belong together."""

    value: Shape[Any]
    nested: Shape[Any]

    def read(self, node: Node, findings: Findings) -> At[Any] | None:
        return (self.nested if isinstance(node, Mapping) else self.value).read(node, findings)

    def schema(self) -> Schema:
        return {"anyOf": [self.value.schema(), self.nested.schema()]}


@dataclass(frozen=True, slots=True)
class Attestors:
    """Names of attestors with their settings; ``one`` of them, or several."""

    one: bool = False

    def read(self, node: Node, findings: Findings) -> At[Any] | None:
        if isinstance(node, Broken):
            return None
        given = _plain(node)
        try:
            found = choices_of([given] if isinstance(given, str) else given)
            if self.one and len(found) != 1:
                raise INVALID_SETTING.error("one attestor belongs here")
        except VestibuleError as error:
            findings.add_error(error, node.at)
            return None
        return At(found[0] if self.one else found, node.at)

    def schema(self) -> Schema:
        several: list[Schema] = [{"type": "object"}, {"type": "array", "items": {"type": "string"}}]
        return {"anyOf": [{"type": "string"}, *several] if self.one else several}


@dataclass(frozen=True, slots=True)
class Nested:
    """Settings that belong together, as a mapping."""

    kind: type[Any]
    record: Record

    def read(self, node: Node, findings: Findings) -> At[Any] | None:
        before = findings.count
        found = self.record.read(node, findings)
        if found is None or findings.count > before:
            return None
        values = {key.name: value.value for key in self.record.keys if (value := found.value.get(key))}
        try:
            return At(self.kind(**{name: plain(value) for name, value in values.items()}), node.at)
        except VestibuleError as error:
            findings.add_error(error, node.at)
        except ValueError as error:
            findings.add(codes.MALFORMED_VALUE, str(error), node.at)
        return None

    def schema(self) -> Schema:
        return self.record.schema()


def plain(value: Any) -> Any:
    """A value without the places in it."""
    if isinstance(value, tuple):
        return tuple(each.value if isinstance(each, At) else each for each in value)
    return value


def shape_of(name: str, hint: Any, describe: Callable[[str], str]) -> Shape[Any]:
    """The shape of a setting called ``name`` (dotted, if nested) of a type; ``describe`` says what a name means."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [shape_of(name, each, describe) for each in get_args(hint) if each is not type(None)]
        return OrOff(inner[0] if len(inner) == 1 else Either(*inner))
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return Attestors() if item is Attestor else Many(shape_of(name, item, describe), "value")
    if hint is int:
        return Whole(0, 65535) if _PORT.search(name) else Whole(0, 2**31 - 1)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return Choice.of([(str(each.value), each) for each in hint])
    if hint in _SHAPES:
        return _SHAPES[hint]
    if is_dataclass(hint) and isinstance(hint, type):
        return Nested(hint, record_of(name, hint, describe, f"{name}."))
    raise TypeError(f"settings of type {hint!r} have no shape yet: give them one in app.configuration.shapes")


def record_of(title: str, kind: type[Any], describe: Callable[[str], str], prefix: str = "") -> Record:
    """The keys of a settings class; none is required here, since the command line may give it."""
    hints = get_type_hints(kind)
    keys = tuple(
        Key(
            each.name,
            shape_of(f"{prefix}{each.name}", hints[each.name], describe),
            describe(f"{prefix}{each.name}"),
        )
        for each in fields(kind)
        if each.init
    )
    return Record(title, keys)


_SHAPES: Final[dict[Any, Shape[Any]]] = {
    bool: Switch(),
    str: Text(str),
    Path: Text(path, {"minLength": 1}, "a path"),
    timedelta: Text(parse_duration, {"pattern": f"^{_DURATION}$"}, "a duration, such as 90s, 15m, 24h or 7d"),
    Size: Text(parse_size, {"pattern": f"^{_SIZE}$"}, "a size, such as 64MiB"),
    TrustDomain: Text(TrustDomain.parse),
    SpiffeId: Text(SpiffeId.parse, {"pattern": "^spiffe://"}),
    Address: Text(host_and_port, {}, "HOST:PORT"),
    SecretReference: Text(SecretReference.parse, {"pattern": "^(file:|env:)."}),
    Attestor: Attestors(one=True),
}


def _plain(node: Node) -> Any:
    if isinstance(node, Mapping):
        return {key.text: _plain(value) for key, value in node.entries}
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    if isinstance(node, Scalar):
        if node.kind is Kind.BOOLEAN:
            return node.text.lower() == "true"
        return None if node.kind is Kind.NULL else node.text
    return None
