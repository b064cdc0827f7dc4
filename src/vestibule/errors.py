"""The root of every error that Vestibule raises on purpose, and the catalogue of their codes.

An error answers three questions for the person who sees it: what went wrong (``message``), where
(``where``) and what to do (``advice``).  Its ``ErrorCode`` is stable: it is documented once, is never
reused for another meaning, and decides the gRPC and HTTP status (``net/grpc.py``).

Code ranges: ``VST0nnn`` intent, 1 identity, 2 agent, 3 xDS, 4 policy, 5 secrets, 6 tokens, 7 sidecar,
8 store, 9 internal.  Each room defines its own codes in a module named ``codes``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """What an error means to the caller; mapped to wire statuses in one place (``net/grpc.py``)."""

    INVALID = "invalid"
    NOT_FOUND = "not-found"
    ALREADY_EXISTS = "already-exists"
    UNAUTHENTICATED = "unauthenticated"
    DENIED = "denied"
    PRECONDITION = "precondition"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    UNIMPLEMENTED = "unimplemented"
    INTERNAL = "internal"


class Fault(Enum):
    """Who can mend it."""

    CALLER = "the caller"
    OPERATOR = "the operator"
    PEER = "the other side"
    VESTIBULE = "Vestibule (a bug)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCode:
    """One documented kind of failure."""

    code: str
    name: str
    kind: Kind
    fault: Fault
    meaning: str
    advice: str

    def error(self, message: str, *, advice: str | None = None, where: Where | None = None) -> VestibuleError:
        """The error to raise for one occurrence; ``advice`` replaces the general advice of the code."""
        return VestibuleError(self, message, advice=advice, where=where)


CATALOGUE: Final[dict[str, ErrorCode]] = {}
_CODE = re.compile(r"VST[0-9]{4}")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def define(code: str, name: str, kind: Kind, fault: Fault, *, meaning: str, advice: str) -> ErrorCode:
    """Register a code in the catalogue; a code or name that is taken or malformed is a programming error."""
    if not _CODE.fullmatch(code) or not _NAME.fullmatch(name):
        raise ValueError(f"malformed error code {code!r} or name {name!r}")
    if code in CATALOGUE or any(known.name == name for known in CATALOGUE.values()):
        raise ValueError(f"error code {code} or name {name!r} is already defined")
    CATALOGUE[code] = ErrorCode(code=code, name=name, kind=kind, fault=fault, meaning=meaning, advice=advice)
    return CATALOGUE[code]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """A place in a file that a person wrote; lines and columns count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = (self.file, self.line, self.column)
        return ":".join(str(part) for part in parts if part is not None)


class VestibuleError(Exception):
    """A failure that was foreseen.  Its text carries no secret, key or token, so it may be shown and logged."""

    def __init__(
        self, code: ErrorCode, message: str, *, advice: str | None = None, where: Where | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.advice = advice or code.advice
        self.where = where

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.code.code} {self.message}"


class SeveralError(VestibuleError):
    """Everything that is wrong with one thing, told at once; by itself it is the first of them."""

    def __init__(self, errors: Sequence[VestibuleError]) -> None:
        first = errors[0]
        super().__init__(first.code, first.message, advice=first.advice, where=first.where)
        self.errors = tuple(errors)
