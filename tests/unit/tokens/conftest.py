"""A token service on a clock that stands still, for a small shop: web, orders, reports."""

from __future__ import annotations

import pytest

from vestibule.testing.clock import FakeClock
from vestibule.testing.tokens import MemoryIssuer, MemoryTokens
from vestibule.tokens.ports import Verb

READ = "report:read"
WRITE = "report:write"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def lab(clock: FakeClock) -> MemoryTokens:
    """Users log in at corp; web trades their ID tokens, calls orders, which calls reports."""
    lab = MemoryTokens(clock)
    lab.trust(MemoryIssuer("corp", "https://login.corp.example", "shop-web"))
    lab.access.allow("web", Verb.MINT, "orders", READ, WRITE)
    lab.access.allow("web", Verb.ADMIT, "orders", READ, WRITE)
    lab.access.allow("orders", Verb.EXCHANGE, "orders")
    lab.access.allow("orders", Verb.RECEIVE, "reports", READ, WRITE)
    lab.access.allow("reports", Verb.EXCHANGE, "reports")
    lab.access.allow("reports", Verb.RECEIVE, "archive", READ, WRITE)
    lab.access.own("orders", "orders")
    lab.access.own("reports", "reports")
    await lab.service.start()
    return lab
