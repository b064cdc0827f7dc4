"""What is wrong with an intent, gathered rather than raised, so that everything is said at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from vestibule.errors import ErrorCode, VestibuleError, Where
from vestibule.intent import codes
from vestibule.intent.nodes import Flaw, Position

MAX_PER_FILE: Final = 100


class Severity(Enum):
    """Whether the intent can be used all the same."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One finding; ``where.file`` is relative to the intent directory."""

    code: ErrorCode
    message: str
    advice: str
    where: Where
    severity: Severity = Severity.ERROR

    @property
    def error(self) -> VestibuleError:
        """The finding as an error, for those who raise it or put it in an answer."""
        return self.code.error(self.message, advice=self.advice, where=self.where)


class Findings:
    """Collects the problems of one file."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[Problem] = []

    def copy(self) -> Findings:
        """The same so far; what is added to one is not added to the other."""
        other = Findings(self._file)
        other._problems = list(self._problems)
        return other

    @property
    def count(self) -> int:
        """How many problems were noted so far."""
        return len(self._problems)

    @property
    def full(self) -> bool:
        """Whether more would only be noise."""
        return len(self._problems) > MAX_PER_FILE

    @property
    def failed(self) -> bool:
        """Whether any of it is an error."""
        return any(found.severity is Severity.ERROR for found in self._problems)

    def where(self, at: Position) -> Where:
        """A position as a place in this file."""
        return Where(file=self._file, line=at.line, column=at.column)

    def add(
        self,
        code: ErrorCode,
        message: str,
        at: Position | None,
        *,
        advice: str | None = None,
        severity: Severity = Severity.ERROR,
    ) -> None:
        """Note a problem; past the limit, that there are more is noted once."""
        if self.full:
            return
        if len(self._problems) == MAX_PER_FILE:
            code, severity, advice = codes.TOO_MANY_PROBLEMS, Severity.ERROR, None
            message = f"there are more than {MAX_PER_FILE} problems in this file"
        place = self.where(at) if at else Where(file=self._file)
        self._problems.append(
            Problem(code=code, message=message, advice=advice or code.advice, where=place, severity=severity)
        )

    def add_flaws(self, flaws: Iterable[Flaw]) -> None:
        """Note what was wrong with the text itself."""
        for flaw in flaws:
            self.add(flaw.code, flaw.message, flaw.at, advice=flaw.advice)

    def add_error(self, error: VestibuleError, at: Position) -> None:
        """Note why a value was refused by what reads it."""
        self.add(error.code, error.message, at, advice=error.advice)

    def since(self, count: int) -> tuple[Problem, ...]:
        """What was noted after the first ``count``."""
        return tuple(self._problems[count:])

    def extend(self, problems: Iterable[Problem]) -> None:
        """Note what was noted of the same file before."""
        self._problems += problems

    def problems(self) -> tuple[Problem, ...]:
        """What was found, from the top of the file to its end."""
        return tuple(
            sorted(self._problems, key=lambda found: (found.where.line or 0, found.where.column or 0))
        )


def warning(code: ErrorCode, message: str, where: Where | None) -> Problem:
    """What is told of an intent that holds."""
    place = where or Where(file="services")
    return Problem(code=code, message=message, advice=code.advice, where=place, severity=Severity.WARNING)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    if len(name) > 100:
        return None
    by_folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None
