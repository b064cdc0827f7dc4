"""Doubles for tests, shipped beside the product: a clock that obeys, an authority of one's own."""

from vestibule.testing.authority import TestAuthority
from vestibule.testing.clock import FakeClock
from vestibule.testing.upstream import TestUpstream

__all__ = ["FakeClock", "TestAuthority", "TestUpstream"]
