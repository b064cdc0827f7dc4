"""Further shapes: switches, shares in per cent, and values that are written in one of two ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from vestibule.intent import codes
from vestibule.intent.nodes import Kind, Mapping, Node, Position, Scalar
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import At, Fields, Record, Schema, Shape, mistyped

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false."""

    def read(self, node: Node, findings: Findings) -> At[bool] | None:
        if isinstance(node, Scalar) and node.kind is Kind.BOOLEAN:
            return At(node.text.lower() == "true", node.at)
        mistyped(node, "true or false", findings)
        return None

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class PerCent:
    """A part of a hundred, with at most four decimals, which is what Envoy can tell apart."""

    least: float = 0.0001

    def read(self, node: Node, findings: Findings) -> At[float] | None:
        if not isinstance(node, Scalar) or node.kind not in (Kind.INTEGER, Kind.NUMBER):
            mistyped(node, "a number", findings)
            return None
        plain = re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,4})?", node.text)
        if not plain or not self.least <= float(node.text) <= 100:
            message = f"{node.text[:20]} is not a part of a hundred from {self.least:g} to 100"
            findings.add(
                codes.MALFORMED_VALUE, message, node.at, advice="Write a number such as 10 or 0.5, without %."
            )
            return None
        return At(float(node.text), node.at)

    def schema(self) -> Schema:
        return {"type": "number", "minimum": self.least, "maximum": 100}


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few whole numbers."""

    numbers: tuple[int, ...]

    def read(self, node: Node, findings: Findings) -> At[int] | None:
        if not isinstance(node, Scalar) or node.kind is not Kind.INTEGER:
            mistyped(node, "a whole number", findings)
            return None
        found = next((each for each in self.numbers if str(each) == node.text), None)
        if found is None:
            message = f"{node.text[:20]} is not one of {', '.join(map(str, self.numbers))}"
            findings.add(codes.MALFORMED_VALUE, message, node.at)
            return None
        return At(found, node.at)

    def schema(self) -> Schema:
        return {"enum": list(self.numbers)}


@dataclass(frozen=True, slots=True)
class Either(Generic[T, U]):
    """A scalar of one shape, or a mapping of another."""

    scalar: Shape[T]
    mapping: Shape[U]

    def read(self, node: Node, findings: Findings) -> At[T | U] | None:
        if isinstance(node, Mapping):
            return self.mapping.read(node, findings)
        return self.scalar.read(node, findings)

    def schema(self) -> Schema:
        return {"anyOf": [self.scalar.schema(), self.mapping.schema()]}


@dataclass(frozen=True, slots=True)
class WordOrNumber(Generic[T, U]):
    """A whole number of one shape, or a word of another."""

    word: Shape[T]
    number: Shape[U]

    def read(self, node: Node, findings: Findings) -> At[T | U] | None:
        if isinstance(node, Scalar) and node.kind is Kind.INTEGER:
            return self.number.read(node, findings)
        return self.word.read(node, findings)

    def schema(self) -> Schema:
        return {"anyOf": [self.word.schema(), self.number.schema()]}


@dataclass(frozen=True, slots=True)
class As(Generic[T]):
    """A mapping that ``build`` turns into one value; nothing is built of a mapping with a problem in it."""

    record: Record
    build: Callable[[Fields, Position, Findings], T | None]

    def read(self, node: Node, findings: Findings) -> At[T] | None:
        before = findings.count
        found = self.record.read(node, findings)
        if found is None or findings.count > before:
            return None
        value = self.build(found.value, found.at, findings)
        return None if value is None else At(value, found.at, parts=found.value)

    def schema(self) -> Schema:
        return self.record.schema()
