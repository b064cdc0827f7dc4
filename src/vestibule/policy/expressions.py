"""Checked CEL expressions as values that can be looked at, changed and written as text again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class Unsigned:
    """An ``uint``, which Python does not tell from an ``int``."""

    value: int


Scalar = bool | int | float | str | bytes | Unsigned | None


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Name:
    """A name of the vocabulary, such as ``caller.id``."""

    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """``operand.field``; with ``asked`` it is ``has(operand.field)``."""

    operand: Expression
    field: str
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator or function by CEL's own name (``_&&_``); ``target`` is what a method is called on.

    ``joins``: an overload that puts strings, bytes or lists together may be meant, which proxies do not offer.
    """

    function: str
    arguments: tuple[Expression, ...]
    target: Expression | None = None
    joins: bool = False

    @property
    def parts(self) -> tuple[Expression, ...]:
        """Target and arguments."""
        return self.arguments if self.target is None else (self.target, *self.arguments)


@dataclass(frozen=True, slots=True)
class Members:
    """A list."""

    elements: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """A map."""

    entries: tuple[tuple[Expression, Expression], ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """What always ends in an error."""


Expression = Constant | Name | Field | Operation | Members | Entries | Failure

AND: Final = "_&&_"
OR: Final = "_||_"
NOT: Final = "!_"
CHOICE: Final = "_?_:_"
IN: Final = "@in"
INDEX: Final = "_[_]"
EQUAL: Final = "_==_"
UNEQUAL: Final = "_!=_"

INFIX: Final = {
    AND: "&&",
    OR: "||",
    IN: "in",
    EQUAL: "==",
    UNEQUAL: "!=",
    "_<_": "<",
    "_<=_": "<=",
    "_>_": ">",
    "_>=_": ">=",
    "_+_": "+",
    "_-_": "-",
    "_*_": "*",
    "_/_": "/",
    "_%_": "%",
}
_PREFIX: Final = {NOT: "!", "-_": "-"}


def parts(expression: Expression) -> tuple[Expression, ...]:
    """What an expression is made of, one level down."""
    match expression:
        case Field(operand=operand):
            return (operand,)
        case Operation():
            return expression.parts
        case Members(elements=elements):
            return elements
        case Entries(entries=entries):
            return tuple(each for pair in entries for each in pair)
        case _:
            return ()


def walk(expression: Expression) -> Iterator[Expression]:
    """The expression and everything in it."""
    yield expression
    for part in parts(expression):
        yield from walk(part)


def names(expression: Expression) -> frozenset[str]:
    """The names of the vocabulary that occur."""
    return frozenset(each.name for each in walk(expression) if isinstance(each, Name))


def headers(expression: Expression) -> frozenset[str]:
    """The headers that are asked for, as far as their names are written out."""
    return frozenset(name for each in walk(expression) if (name := _header(each)) is not None)


def with_present(expression: Expression, present: frozenset[str]) -> Expression:
    """With ``true`` in place of the question whether one of some headers is there."""
    asks = (isinstance(expression, Field) and expression.asked) or (
        isinstance(expression, Operation) and expression.function == IN
    )
    if asks and _header(expression) in present:
        return Constant(True)
    match expression:
        case Field(operand=operand):
            return replace(expression, operand=with_present(operand, present))
        case Operation(arguments=arguments, target=target):
            return replace(
                expression,
                arguments=tuple(with_present(each, present) for each in arguments),
                target=None if target is None else with_present(target, present),
            )
        case Members(elements=elements):
            return Members(tuple(with_present(each, present) for each in elements))
        case Entries(entries=entries):
            return Entries(
                tuple((with_present(key, present), with_present(value, present)) for key, value in entries)
            )
        case _:
            return expression


def _header(expression: Expression) -> str | None:
    match expression:
        case Field(operand=Name(name="request.headers"), field=field):
            return field
        case (
            Operation(
                function="_[_]", arguments=(Name(name="request.headers"), Constant(value=str() as name))
            )
            | Operation(
                function="@in", arguments=(Constant(value=str() as name), Name(name="request.headers"))
            )
        ):
            return name
        case _:
            return None


def text(expression: Expression) -> str:
    """The expression in CEL."""
    match expression:
        case Constant(value=value):
            return _literal(value)
        case Name(name=name):
            return name
        case Field(operand=operand, field=field, asked=asked):
            selected = f"{_tight(operand)}.{field}"
            return f"has({selected})" if asked else selected
        case Members(elements=elements):
            return f"[{', '.join(map(text, elements))}]"
        case Entries(entries=entries):
            return "{" + ", ".join(f"{text(key)}: {text(value)}" for key, value in entries) + "}"
        case Operation():
            return _operation(expression)
        case Failure():
            return "dyn(1 / 0)"


def _operation(operation: Operation) -> str:
    arguments = operation.arguments
    if operation.function in INFIX:
        sign = f" {INFIX[operation.function]} "
        flat = _flat(operation) if operation.function in (AND, OR) else arguments
        return sign.join(map(_loose, flat))
    if operation.function in _PREFIX:
        return f"{_PREFIX[operation.function]}{_loose(arguments[0])}"
    if operation.function == CHOICE:
        return " ".join((_loose(arguments[0]), "?", _loose(arguments[1]), ":", _loose(arguments[2])))
    if operation.function == INDEX:
        return f"{_tight(arguments[0])}[{text(arguments[1])}]"
    called = f"{operation.function}({', '.join(map(text, arguments))})"
    return called if operation.target is None else f"{_tight(operation.target)}.{called}"


def _flat(operation: Operation) -> list[Expression]:
    """``a && b && c``, however it is nested: deep nesting would be refused when it is read again."""
    flat: list[Expression] = []
    for part in operation.arguments:
        if isinstance(part, Operation) and part.function == operation.function:
            flat += _flat(part)
        else:
            flat.append(part)
    return flat


def _loose(expression: Expression) -> str:
    """As an operand."""
    compound = isinstance(expression, Operation) and (
        expression.function in INFIX or expression.function in _PREFIX or expression.function == CHOICE
    )
    negative = isinstance(expression, Constant) and _literal(expression.value).startswith("-")
    return f"({text(expression)})" if compound or negative else text(expression)


def _tight(expression: Expression) -> str:
    """Before a dot or a bracket."""
    if isinstance(expression, Constant) and not isinstance(expression.value, str | bytes):
        return f"({text(expression)})"
    return _loose(expression)


def _literal(value: Scalar) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Unsigned():
            return f"{value.value}u"
        case str():
            return '"' + "".join(map(_escaped, value)) + '"'
        case bytes():
            return 'b"' + "".join(f"\\x{each:02x}" for each in value) + '"'
        case float():
            return _double(value)
        case _:
            return str(value)


def _double(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return f'double("{value}")'
    written = repr(value)
    return written if "." in written or "e" in written else f"{written}.0"


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    return f"\\U{ord(character):08x}"
