"""When to renew a certificate.  How is the business of whoever holds it."""

from __future__ import annotations

from datetime import datetime
from typing import Final

JITTER: Final = 0.1


def renew_at(not_before: datetime, not_after: datetime, issued_at: datetime, jitter: float) -> datetime:
    """Half of the life that was left at issue, moved by ``jitter`` (−1 to 1) times a tenth of that life.

    A certificate is backdated against slow clocks, so its life counts from its issue; from ``not_before``
    if that is later.  The jitter keeps certificates that were issued together from being renewed together.
    """
    if not -1.0 <= jitter <= 1.0:
        raise ValueError(f"jitter {jitter} is not between -1 and 1")
    start = max(not_before, issued_at)
    return start + (not_after - start) * (0.5 + JITTER * jitter)
