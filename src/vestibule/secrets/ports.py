"""Who may do what with secrets."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from vestibule.intent.rulings import Ruling
from vestibule.spiffe import SpiffeId


class Verb(Enum):
    """What is done with a secret."""

    READ = "read"
    WRITE = "write"
    LIST = "list"
    ROTATE = "rotate"
    USE = "use"
    """To have something encrypted, signed, …, with a key that stays inside."""


AccessDecision = Ruling
"""May it be done, and why."""


class Access(Protocol):
    """Who may do what with which secret.  Default deny."""

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        """``path`` is a logical one: ``secret/payments/db``, ``database/creds/payments``, ``transit/encrypt/cards``."""
        ...
