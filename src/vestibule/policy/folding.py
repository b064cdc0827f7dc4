"""Conditions with what is known put in the place of names, as far as that decides them.

Folding never changes what a condition is for any call: true, false or an error.  CEL's ``&&`` and ``||`` let a
decided side outweigh an error on the other one, whichever side it is on; every other operator passes errors on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from vestibule.policy import expressions as ex
from vestibule.policy.checking import environment
from vestibule.policy.conditions import Condition
from vestibule.policy.vocabulary import NAMES


class Outcome(Enum):
    """What a condition always is, besides true and false."""

    ERROR = "error"


ERROR: Final = Outcome.ERROR
Folded = Condition | bool | Outcome

_TRUE: Final = ex.Constant(True)
_FALSE: Final = ex.Constant(False)
_FAILURE: Final = ex.Failure()
_BOOLEAN: Final = frozenset(
    {ex.AND, ex.OR, ex.NOT, ex.EQUAL, ex.UNEQUAL, ex.IN, "_<_", "_<=_", "_>_", "_>=_"}
    | {"contains", "startsWith", "endsWith", "matches"}
)
_SCALARS: Final = frozenset({"BOOL", "INT", "DOUBLE", "STRING"})


def fold(condition: Condition, constants: Mapping[str, Any]) -> Folded:
    """What is left of a condition when ``constants`` (by the names of the vocabulary) are known.

    A condition with a macro stays as it is, and so do the names of what may be of any type (a token's claims).
    """
    if condition.tree is None:
        return condition
    left = _fold(condition.tree, constants)
    match left:
        case ex.Constant(value=bool() as value):
            return value
        case ex.Failure() | ex.Constant() | ex.Members() | ex.Entries():
            return ERROR
        case _ if left == condition.tree:
            return condition
        case _:
            return Condition.of(left)


def _fold(expression: ex.Expression, constants: Mapping[str, Any]) -> ex.Expression:
    match expression:
        case ex.Name(name=name):
            # What may be of any type would have another one as a literal.
            known = name in constants and "dyn" not in NAMES[name].type
            return _written(constants[name]) if known else expression
        case ex.Field(operand=operand, field=field, asked=asked):
            return _field(_fold(operand, constants), field, asked)
        case ex.Members(elements=elements):
            return _strict(ex.Members(tuple(_fold(each, constants) for each in elements)))
        case ex.Entries(entries=entries):
            folded = ((_fold(key, constants), _fold(value, constants)) for key, value in entries)
            return _strict(ex.Entries(tuple(folded)))
        case ex.Operation():
            return _operation(expression, constants)
        case _:
            return expression


def _written(value: Any) -> ex.Expression:
    """A value as it would be written in CEL; only such as the vocabulary has are asked for."""
    if isinstance(value, Mapping):
        return ex.Entries(tuple((_written(key), _written(each)) for key, each in value.items()))
    if isinstance(value, list | tuple):
        return ex.Members(tuple(map(_written, value)))
    return ex.Constant(value)


def _field(operand: ex.Expression, field: str, asked: bool) -> ex.Expression:
    if isinstance(operand, ex.Failure):
        return _FAILURE
    if isinstance(operand, ex.Entries) and all(isinstance(key, ex.Constant) for key, _ in operand.entries):
        found = [each for key, each in operand.entries if key == ex.Constant(field)]
        if asked:
            return _TRUE if found else _FALSE
        return found[0] if found else _FAILURE
    return ex.Field(operand, field, asked)


def _operation(operation: ex.Operation, constants: Mapping[str, Any]) -> ex.Expression:
    target = None if operation.target is None else _fold(operation.target, constants)
    arguments = tuple(_fold(each, constants) for each in operation.arguments)
    folded = ex.Operation(operation.function, arguments, target, operation.joins)
    match operation.function:
        case ex.AND:
            return _logical(folded, decided=_FALSE, neutral=_TRUE)
        case ex.OR:
            return _logical(folded, decided=_TRUE, neutral=_FALSE)
        case ex.CHOICE:
            return _choice(folded)
        case _:
            return _strict(folded)


def _logical(operation: ex.Operation, decided: ex.Expression, neutral: ex.Expression) -> ex.Expression:
    left, right = operation.arguments
    if decided in (left, right):
        return decided
    for this, other in ((left, right), (right, left)):
        # What is not boolean would be an error here, and might be something else alone.
        if this == neutral and _is_boolean(other):
            return other
    if not ex.names(operation):
        return _evaluated(operation)
    return operation


def _choice(operation: ex.Operation) -> ex.Expression:
    asked, first, second = operation.arguments
    if asked in (_TRUE, _FALSE):
        return first if asked == _TRUE else second
    if isinstance(asked, ex.Failure) or not ex.names(asked):
        return _FAILURE
    return operation


def _strict(expression: ex.Expression) -> ex.Expression:
    if any(isinstance(each, ex.Failure) for each in ex.parts(expression)):
        return _FAILURE
    return expression if ex.names(expression) else _evaluated(expression)


def _is_boolean(expression: ex.Expression) -> bool:
    match expression:
        case ex.Constant(value=value):
            return isinstance(value, bool)
        case ex.Operation(function=function):
            return function in _BOOLEAN
        case ex.Field(asked=asked):
            return asked
        case ex.Failure():
            return True
        case _:
            return False


def _evaluated(expression: ex.Expression) -> ex.Expression:
    """A part without names as its value, where that is a text, number or truth; else as it is, unless it fails."""
    try:
        value = environment().compile(ex.text(expression)).eval(data={})
    except RuntimeError:
        return _FAILURE
    kind = value.type().name()
    if kind == "ERROR":
        return _FAILURE
    return ex.Constant(value.value()) if kind in _SCALARS else expression
