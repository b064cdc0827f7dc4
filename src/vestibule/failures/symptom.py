"""What is known of one call that did not go well, from one side of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Side(Enum):
    """Whose proxy says it."""

    CALLER = "caller"
    CALLEE = "callee"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """Empty where nothing is known.

    ``flags`` are Envoy's response flags, ``details`` its response code details (or why it ended a connection),
    ``transport`` what it says of TLS or of connecting.  ``code`` is one of ours.  ``text`` is what a person saw, if
    that is all there is: an error page, a line of a log, an exception.  ``encrypted`` is None where nobody knows.
    """

    side: Side = Side.UNKNOWN
    status: int | None = None
    flags: frozenset[str] = frozenset()
    details: str = ""
    transport: str = ""
    code: str = ""
    rule: str = ""
    verdict: str = ""
    layer: str = ""
    text: str = ""
    encrypted: bool | None = None
