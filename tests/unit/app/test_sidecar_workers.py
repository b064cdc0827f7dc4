"""How many threads an Envoy gets that nobody sized."""

from __future__ import annotations

import pytest

from vestibule.app.sidecar import default_workers


@pytest.mark.parametrize(("processors", "workers"), [(1, 1), (2, 1), (3, 1), (4, 2), (64, 2)])
def test_a_proxy_takes_half_the_processors_and_two_at_most(processors: int, workers: int) -> None:
    assert default_workers(processors) == workers
