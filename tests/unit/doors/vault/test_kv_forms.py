"""Times and durations as Go's programs write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vestibule.doors.vault.kv_forms import duration_form, instant_form


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(seconds=30), "30s"),
        (timedelta(seconds=90), "1m30s"),
        (timedelta(hours=1), "1h0m0s"),
        (timedelta(days=30), "720h0m0s"),
        (timedelta(hours=3, minutes=25, seconds=19), "3h25m19s"),
        (timedelta(seconds=-1), "-1s"),
        (timedelta(seconds=1.5), "1.5s"),
    ],
)
def test_durations(duration: timedelta, text: str) -> None:
    assert duration_form(duration) == text


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2018, 3, 22, 2, 24, 6, 945319, tzinfo=UTC), "2018-03-22T02:24:06.945319Z"),
        (datetime(2018, 3, 22, 2, 24, 6, 940000, tzinfo=UTC), "2018-03-22T02:24:06.94Z"),
        (datetime(2018, 3, 22, 2, 24, 6, tzinfo=UTC), "2018-03-22T02:24:06Z"),
        (None, ""),
    ],
)
def test_instants(instant: datetime | None, text: str) -> None:
    assert instant_form(instant) == text
