"""The records of rollouts: which intents were taken up, and how far the newest one is."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class IntentOutcome(Enum):
    """What became of an intent that was taken up.

    ``TRYING``: its proxies are being watched.  ``GOOD``: all may have it.  ``REFUSED``: it was taken back by itself.
    ``SUPERSEDED``: a newer one came while it was watched.  ``ROLLED_BACK``: an operator took it back.
    """

    TRYING = "trying"
    GOOD = "good"
    REFUSED = "refused"
    SUPERSEDED = "superseded"
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptIntent:
    """An intent that was taken up once.

    ``number`` counts up and is given by the store (0: not yet).  ``commit`` to ``committed_at`` are empty where the
    source has no commits.  ``files`` is what it can be read from again, and empty in listings.
    """

    version: str
    place: str
    taken_up_at: datetime
    number: int = 0
    outcome: IntentOutcome = IntentOutcome.TRYING
    reason: str = ""
    ended_at: datetime | None = None
    commit: str = ""
    author: str = ""
    subject: str = ""
    signed_by: str = ""
    committed_at: datetime | None = None
    files: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRecord:
    """How far the rollout is, as its own room writes it; ``revision`` counts the changes."""

    revision: int
    document: str
