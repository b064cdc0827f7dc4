"""Who may do what with secrets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vestibule.errors import Where
from vestibule.spiffe import SpiffeId


class Verb(Enum):
    """What is done with a secret."""

    READ = "read"
    WRITE = "write"
    LIST = "list"
    ROTATE = "rotate"
    USE = "use"
    """To have something encrypted, signed, …, with a key that stays inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessDecision:
    """May it be done, and why.

    ``rule`` is the rule that decided (``group/rule-id``), None where no rule matches; ``commit`` that of the intent it
    stands in; ``shadow`` the verdict as it would be with shadow rules, where that differs.
    """

    allowed: bool
    rule: str | None = None
    commit: str = ""
    where: Where | None = None
    shadow: bool | None = None


class Access(Protocol):
    """Who may do what with which secret.  Default deny."""

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        """``path`` is a logical one: ``secret/payments/db``, ``database/creds/payments``, ``transit/encrypt/cards``."""
        ...
