"""What a proxy counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Since the proxy started: ``denied`` were answered with 4xx, ``failed`` with 5xx.

    ``aborted`` are the faults that were injected, whatever their status, and among ``denied`` or ``failed``.
    """

    requests: int = 0
    denied: int = 0
    failed: int = 0
    aborted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyTraffic:
    """Requests to the app and from it."""

    inbound: Requests = Requests()
    outbound: Requests = Requests()
