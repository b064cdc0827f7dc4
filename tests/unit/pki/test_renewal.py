"""When to renew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.pki.renewal import renew_at

ISSUED = datetime(2026, 1, 1, tzinfo=UTC)
BACKDATED = ISSUED - timedelta(seconds=60)


def test_renewal_is_at_half_of_the_life_left_at_issue() -> None:
    assert renew_at(BACKDATED, ISSUED + timedelta(hours=1), ISSUED, 0.0) == ISSUED + timedelta(minutes=30)


def test_backdating_does_not_make_short_certificates_renew_at_once() -> None:
    assert renew_at(BACKDATED, ISSUED + timedelta(seconds=4), ISSUED, 0.0) == ISSUED + timedelta(seconds=2)


def test_a_certificate_that_is_valid_later_is_renewed_in_the_middle_of_its_validity() -> None:
    start = ISSUED + timedelta(hours=1)
    assert renew_at(start, start + timedelta(hours=2), ISSUED, 0.0) == start + timedelta(hours=1)


@given(st.floats(-1, 1), st.integers(1, 10**6))
def test_jitter_moves_it_by_at_most_a_tenth_of_the_life(jitter: float, seconds: int) -> None:
    life = timedelta(seconds=seconds)
    share = (renew_at(BACKDATED, ISSUED + life, ISSUED, jitter) - ISSUED) / life
    assert share == pytest.approx(0.5 + 0.1 * jitter, abs=1e-5)


@pytest.mark.parametrize("jitter", [1.1, -2, float("nan")])
def test_jitter_out_of_range_is_a_programming_error(jitter: float) -> None:
    with pytest.raises(ValueError):
        renew_at(BACKDATED, ISSUED, ISSUED, jitter)
