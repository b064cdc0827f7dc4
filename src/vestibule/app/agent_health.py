"""The agent's health pages and metrics, served where the operator asks for them."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from vestibule import __version__
from vestibule.agent.skew import Skew
from vestibule.doors.health import Check, HealthServer, health_app
from vestibule.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from vestibule.app.agent import Agent


async def serve_health(agent: Agent, sock: socket.socket) -> None:
    """Serve ``/live``, ``/ready`` and ``/metrics`` on a listening socket until cancelled."""
    await HealthServer(health_app(_checks(agent), _metrics(agent)), sock).run()


def _checks(agent: Agent) -> Mapping[str, Check]:
    async def identities() -> str | None:
        """Being cut off from the server is no reason to be taken out of service: the agent goes on serving."""
        if not agent.cache.ready or agent.cache.now.bundle is None:
            return "the agent has not joined yet, or has not heard from the server since it started"
        return None

    return {"identities": identities}


def _metrics(agent: Agent) -> Metrics:
    metrics = Metrics("agent", __version__)
    cache, log = agent.cache, agent.access_log
    metrics.gauge(
        "agent_server_connected",
        "1 while the server's changes are followed.",
        lambda: agent.sync.contact.connected,
    )
    metrics.gauge(
        "agent_clock_skew_seconds",
        "This machine's clock minus the server's, as last measured; NaN before.",
        lambda: _seconds_of(agent.sync.contact.skew),
    )
    metrics.gauge("agent_svids", "Workload SVIDs in hand.", lambda: len(cache.now.svids))
    metrics.gauge(
        "agent_svid_expires_seconds",
        "Seconds until the first workload SVID in hand expires; negative once it has.",
        lambda: _until_first_expiry(
            [each.svid.not_after for each in cache.now.svids.values()], agent.clock.now()
        ),
    )
    metrics.gauge("agent_sidecars", "Sidecars attached.", lambda: len(agent.sidecars.sessions))
    metrics.gauge(
        "agent_access_records_dropped", "Access records that could not be kept.", lambda: log.dropped
    )
    return metrics


def _seconds_of(skew: Skew | None) -> float:
    return skew.offset.total_seconds() if skew is not None else math.nan


def _until_first_expiry(instants: list[datetime], now: datetime) -> float:
    return (min(instants) - now).total_seconds() if instants else 0.0
