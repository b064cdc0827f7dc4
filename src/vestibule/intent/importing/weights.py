"""Weights as hundredths."""

from __future__ import annotations

from collections.abc import Mapping


def in_hundredths(weights: Mapping[str, int]) -> dict[str, int]:
    """The same shares of a hundred; what is left by rounding down goes to those that lost most by it."""
    total = sum(weights.values())
    exact = {name: weight * 100 / total for name, weight in weights.items()}
    found = {name: int(share) for name, share in exact.items()}
    lost = sorted(exact, key=lambda name: (found[name] - exact[name], name))
    for name in lost[: 100 - sum(found.values())]:
        found[name] += 1
    return found
