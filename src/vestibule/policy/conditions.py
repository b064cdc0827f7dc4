"""Conditions of rules (``when``), in CEL, as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from vestibule.errors import VestibuleError
from vestibule.policy import expressions as ex
from vestibule.policy.checking import environment, read
from vestibule.policy.codes import CONDITION_FAILED
from vestibule.policy.vocabulary import NAMES

_KEPT: Final = 20_000


class ConditionError(VestibuleError):
    """A condition that could not be evaluated for one call.  Its text holds nothing of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition that was type-checked against what is known of a call.

    ``source`` is as it was written; two conditions of one source are equal.  ``tree`` is the checked expression; None
    if it has a macro (``exists`` and the like).  ``uses`` are the names of the vocabulary that occur.  ``central``: it
    asks for what no proxy knows (a request's body, attributes from outside), so that a decision service decides.
    """

    source: str
    tree: ex.Expression | None = field(default=None, compare=False, repr=False)
    uses: frozenset[str] = field(default=frozenset(), compare=False)
    central: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, text: str, *, without: Iterable[str] = ()) -> Condition:
        """Read and check a condition.

        ``without`` are names that cannot be known where it stands: ``vocabulary.TOKEN`` where the rule demands no
        token, ``vocabulary.MCP`` on other ports.  Errors have the line and column within the text as ``where``, whose
        file is ``checking.PLACE``.  Raises: VST4040 to VST4043, VST4045.
        """
        checked = read(text, without=without)
        return cls(source=text, tree=checked.tree, uses=checked.uses, central=checked.central)

    @classmethod
    def of(cls, tree: ex.Expression) -> Condition:
        """A condition made of one that was checked, by putting values in the place of names."""
        uses = ex.names(tree)
        return cls(source=ex.text(tree), tree=tree, uses=uses)

    def evaluate(self, facts: Mapping[str, Any]) -> bool:
        """Whether it holds, by Google's own evaluator, which Envoy uses too.

        ``facts`` are values by the names of the vocabulary (``facts.known_of``); those that it does not use are not
        looked at.  Raises: ConditionError (VST4044) if it asks for what is not there or is of another type, VST4045.
        """
        wanted = {name: facts[name] for name in self.uses if name in facts}
        if not all(map(_can_be_told, wanted.values())):
            raise _failed("a text of the call has a NUL or is no UTF-8")
        try:
            value = _program(self.source).eval(data=wanted)
        except (RuntimeError, UnicodeError, OverflowError, TypeError, ValueError) as error:
            raise _failed("it could not be evaluated") from error
        kind = value.type().name()
        if kind == "BOOL":
            return bool(value.value())
        if kind == "ERROR":
            raise _failed(_reason(str(value.value())))
        raise _failed(f"it is a {kind.lower()}, neither true nor false")


@lru_cache(maxsize=_KEPT)
def _program(source: str) -> Any:
    return environment().compile(source)


def _failed(why: str) -> ConditionError:
    return ConditionError(CONDITION_FAILED, f"a condition could not be evaluated: {why}")


def _reason(complaint: str) -> str:
    """What CEL says, unless that could tell a value of the call."""
    if "Key not found" in complaint or "no such key" in complaint.lower():
        return "something that it asks for is not there"
    for name in NAMES:
        if f'"{name}"' in complaint:
            return f"{name} is not known"
    return "something is of another type than it asks for, or out of range"


def _can_be_told(value: Any) -> bool:
    """The binding takes texts as C strings: what stands behind a NUL would silently not be seen."""
    if isinstance(value, str):
        return ("\0" not in value and value.isascii()) or _is_unicode(value)
    if isinstance(value, Mapping):
        return all(map(_can_be_told, value)) and all(map(_can_be_told, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_can_be_told, value))
    return True


def _is_unicode(value: str) -> bool:
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)
