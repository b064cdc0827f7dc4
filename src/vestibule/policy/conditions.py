"""Conditions of rules (``when``), in CEL, as values."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A condition that was type-checked against what is known of a call.

    ``source`` is as it was written.  ``tree`` is the checked expression, a serialised ``cel.expr.CheckedExpr``.
    ``central``: it asks for what no proxy knows (a request's body, attributes from outside).
    """

    source: str
    tree: bytes = field(default=b"", compare=False, repr=False)
    central: bool = False
