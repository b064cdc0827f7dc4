"""Denials are counted by rule, in a bounded number of series."""

from __future__ import annotations

from collections.abc import Iterable

from vestibule.observe.access_log import AccessLine, Denial
from vestibule.observe.denials import MOST, OTHER, RESTING, Denials


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def denied(*rules: str, service: str = "payments") -> Iterable[AccessLine]:
    return [AccessLine("{}", None, denial=Denial(service, rule, "VST4001")) for rule in rules]


def test_denials_are_counted_by_service_rule_and_code() -> None:
    denials = Denials()
    denials.append([*denied("payments/a", "payments/b", "payments/a"), AccessLine("{}", None)])
    denials.append(denied(""))
    assert denials.counts == {
        ("payments", "payments/a", "VST4001"): 2,
        ("payments", "payments/b", "VST4001"): 1,
        ("payments", "", "VST4001"): 1,
    }


def test_beyond_a_bound_rules_are_counted_together() -> None:
    denials = Denials()
    denials.append(denied(*(f"payments/{number}" for number in range(MOST + 5))))
    denials.append(denied("payments/0"))
    assert len(denials.counts) == MOST + 1
    assert denials.counts["payments", OTHER, "VST4001"] == 5
    assert denials.counts["payments", "payments/0", "VST4001"] == 2


def test_not_even_services_make_series_without_end() -> None:
    denials = Denials()
    for number in range(3 * MOST):
        denials.append(denied("x", service=f"s{number}"))
    assert len(denials.counts) == 2 * MOST + 1
    assert denials.counts[OTHER, OTHER, OTHER] == MOST
    assert sum(denials.counts.values()) == 3 * MOST


def test_a_series_that_rested_makes_room_for_one_that_is_needed() -> None:
    clock = Clock()
    denials = Denials(clock)
    denials.append(denied(*(f"payments/{number}" for number in range(MOST))))
    clock.now = RESTING - 1
    denials.append(denied(*(f"payments/{number}" for number in range(1, MOST))))
    clock.now = RESTING
    denials.append(denied("payments/new"))
    assert ("payments", "payments/0", "VST4001") not in denials.counts
    assert denials.counts["payments", "payments/new", "VST4001"] == 1
    assert ("payments", OTHER, "VST4001") not in denials.counts
