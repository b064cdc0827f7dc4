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
from vestibule.policy.vocabulary import CENTRAL, NAMES

_KEPT: Final = 20_000
_HEADERS: Final = "request.headers"
_NUL: Final = "\U0010ffff"


class ConditionError(VestibuleError):
    """A condition that could not be evaluated for one call.  Its text holds nothing of the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition that was type-checked against what is known of a call.

    ``source`` is as it was written; two conditions of one source are equal.  ``tree`` is the checked expression; None
    if it has a macro (``exists`` and the like).  ``uses`` are the names of the vocabulary that occur.  ``central``: it
    asks for what no proxy knows (a request's body, attributes from outside), so that a decision service decides.
    ``headers`` are the request's headers that it asks for.
    """

    source: str
    tree: ex.Expression | None = field(default=None, compare=False, repr=False)
    uses: frozenset[str] = field(default=frozenset(), compare=False)
    central: bool = field(default=False, compare=False)
    headers: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def parse(cls, text: str, *, without: Iterable[str] = ()) -> Condition:
        """Read and check a condition.

        ``without`` are names that cannot be known where it stands: ``vocabulary.TOKEN`` where the rule demands no
        token, ``vocabulary.MCP`` on other ports.  Errors have the line and column within the text as ``where``, whose
        file is ``checking.PLACE``.  Raises: VST4040 to VST4043, VST4045.
        """
        checked = read(text, without=frozenset(without))
        headers = frozenset[str]() if checked.tree is None else ex.headers(checked.tree)
        return cls(
            source=text, tree=checked.tree, uses=checked.uses, central=checked.central, headers=headers
        )

    @classmethod
    def of(cls, tree: ex.Expression) -> Condition:
        """A condition made of one that was checked, by putting values in the place of names."""
        uses = ex.names(tree)
        central = not uses.isdisjoint(CENTRAL)
        return cls(source=ex.text(tree), tree=tree, uses=uses, central=central, headers=ex.headers(tree))

    def evaluate(self, facts: Mapping[str, Any]) -> bool:
        """Whether it holds, by Google's own evaluator, which Envoy uses too.

        ``facts`` are values by the names of the vocabulary (``facts.known_of``); those that it does not use are not
        looked at.  Raises: ConditionError (VST4044) if it asks for what is not there or is of another type, VST4045.
        """
        source, wanted = self.source, {name: facts[name] for name in self.uses if name in facts}
        if _HEADERS in wanted and not self.central:
            source, wanted[_HEADERS] = self._with_headers(wanted[_HEADERS])
        try:
            value = _program(source).eval(data={name: _told(each) for name, each in wanted.items()})
        except (RuntimeError, UnicodeError, OverflowError, TypeError, ValueError) as error:
            raise _failed("it could not be evaluated") from error
        kind = value.type().name()
        if kind == "BOOL":
            return bool(value.value())
        if kind == "ERROR":
            raise _failed(_reason(str(value.value())))
        raise _failed(f"it is a {kind.lower()}, neither true nor false")

    def _with_headers(self, sent: Mapping[str, str]) -> tuple[str, dict[str, str]]:
        """The headers that are asked for.  One whose value is no UTF-8 is there, but to read it is an error."""
        found = {name: sent[name] for name in self.headers if name in sent}
        odd = frozenset(name for name, value in found.items() if not _is_unicode(value))
        if not odd or self.tree is None:
            return self.source, found
        readable = {name: value for name, value in found.items() if name not in odd}
        return _with_present(self.source, self.tree, odd), readable


@lru_cache(maxsize=_KEPT)
def _program(source: str) -> Any:
    return environment().compile(source)


@lru_cache(maxsize=1024)
def _with_present(source: str, tree: ex.Expression, present: frozenset[str]) -> str:
    del source
    return ex.text(ex.with_present(tree, present))


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


def _told(value: Any) -> Any:
    """A value as the binding has to be told: it takes texts as C strings, and would not see what is behind a NUL.

    No condition can hold the character that stands for NUL, and no text that is UTF-8 in truth has it as a character.
    """
    if isinstance(value, str):
        return value if "\0" not in value else value.replace("\0", _NUL)
    if isinstance(value, Mapping):
        return {_told(key): _told(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    return value


def _is_unicode(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)
