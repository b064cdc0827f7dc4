"""How long to wait before something that ended is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential, bounded, with jitter.  All in seconds.

    A process that ran for ``steady`` seconds counts as healthy: its next end is a first failure again.
    """

    first: float = 0.2
    longest: float = 10.0
    factor: float = 2.0
    steady: float = 10.0
    jitter: float = 0.1

    def failures(self, before: int, ran_for: float) -> int:
        """Failures in a row, now that a process ended after ``ran_for`` seconds."""
        return 1 if ran_for >= self.steady else before + 1

    def delay(self, failures: int, chance: float = 0.5) -> float:
        """The pause after so many failures in a row; ``chance`` in [0, 1) spreads it by ± ``jitter``."""
        # Bounding the exponent keeps a process that failed for weeks from overflowing.
        pause = min(self.longest, self.first * self.factor ** min(failures - 1, 60))
        return pause * (1 + self.jitter * (2 * chance - 1))
