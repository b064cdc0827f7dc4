"""When a bundle endpoint is asked again (SPIFFE_Federation.md, section 4.1)."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

DEFAULT_HINT: Final = timedelta(minutes=5)
"""What a bundle that does not say so is refreshed after."""
SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(days=1)
"""A partner may ask for less traffic, but not to be forgotten: what it withdraws stays trusted until we look."""
FIRST_RETRY: Final = timedelta(seconds=5)
JITTER: Final = 0.1


def interval(refresh_hint: int, shortest: timedelta = SHORTEST) -> timedelta:
    """How long a bundle with this hint (seconds, 0 for none) may be good for before it is fetched again."""
    hinted = timedelta(seconds=min(refresh_hint, LONGEST.total_seconds())) if refresh_hint else DEFAULT_HINT
    return min(max(hinted, shortest), LONGEST)


def pause(refresh_hint: int, failures: int, jitter: float, shortest: timedelta = SHORTEST) -> timedelta:
    """How long to wait now, after this many ``failures`` in a row; ``jitter`` lies in [-1, 1].

    After a success: the hint, up to a tenth less, so that partners of one endpoint do not march in step and nobody
    is late.  After failures: from seconds on, doubling, up to the default of five minutes or the hint if it is shorter.
    """
    usual = interval(refresh_hint, shortest)
    if not failures:
        return usual * (1 - JITTER * (1 + jitter) / 2)
    growing: timedelta = min(FIRST_RETRY, shortest) * (1 << min(failures - 1, 20))
    return min(growing, usual, DEFAULT_HINT) * (1 + 0.25 * jitter)
