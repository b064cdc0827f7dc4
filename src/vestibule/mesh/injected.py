"""Faults that the intent asks for are no failures of anybody."""

from __future__ import annotations

from collections.abc import Iterable

from vestibule.intent import Intent
from vestibule.records import Requests


def statuses(intents: Iterable[Intent]) -> frozenset[int]:
    """What requests are aborted with, by any of these intents."""
    return frozenset(
        route.fault.abort
        for intent in intents
        for service in intent.services.values()
        for route in service.traffic.routes
        if route.fault is not None and route.fault.abort is not None
    )


def failures(requests: Requests, aborted_with: frozenset[int]) -> int:
    """How many failed that were not meant to.

    A proxy counts what it aborts, but not with which status.  Where the intent has both kinds, all of it may have been
    a failure made on purpose.
    """
    if aborted_with and all(status < 500 for status in aborted_with):
        return requests.failed
    return max(0, requests.failed - requests.aborted)
