"""What came of deciding about a call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A yes or no, and the name of the rule that gave it; a denial by default has none."""

    allowed: bool
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer, and the name of the rule that gave it; a denial by default has none.

    ``shadow``: the answer if the rules that are in shadow mode counted; None if there are none.
    """

    allowed: bool
    rule: str | None = None
    shadow: Verdict | None = None
