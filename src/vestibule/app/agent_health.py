"""The agent's health pages and metrics, served where the operator asks for them."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from vestibule import __version__
from vestibule.agent.skew import Skew
from vestibule.attest.workload import Finding
from vestibule.doors.health import Check, HealthServer, health_app
from vestibule.errors import VestibuleError
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
    metrics.gauge("agent_entries", "Entries that this agent is entitled to.", lambda: len(cache.now.entries))
    metrics.gauge(
        "agent_own_svid_expires_timestamp_seconds",
        "When the agent's own certificate ends; 0 while it has none.",
        lambda: _timestamp(own.not_after if (own := agent.sync.own.credential) else None),
    )
    metrics.gauge(
        "agent_server_seen_timestamp_seconds",
        "When the server last answered; 0 if it has not since the agent started.",
        lambda: _timestamp(agent.sync.contact.seen_at),
    )
    metrics.gauge(
        "agent_sync_failing",
        "1 while the last round with the server failed.",
        lambda: agent.sync.contact.problem is not None,
    )
    metrics.gauge(
        "agent_oldest_svid_seconds",
        "The age of the oldest workload certificate in hand.",
        lambda: _age_of_oldest(
            [each.svid.not_before for each in cache.now.svids.values()], agent.clock.now()
        ),
    )
    metrics.gauges(
        "agent_decisions_asked",
        "Questions of proxies answered since the start, by verdict (allowed, denied, undecided).",
        "verdict",
        lambda: agent.deciding.counts,
    )
    metrics.gauge("agent_jwt_svids", "Tokens in hand.", lambda: len(agent.jwt_svids))
    metrics.gauge("clock_timestamp_seconds", "The agent's clock.", lambda: agent.clock.now().timestamp())
    metrics.gauge("agent_sidecars", "Sidecars attached.", lambda: len(agent.sidecars.sessions))
    metrics.gauge(
        "agent_access_records_dropped", "Access records that could not be kept.", lambda: log.dropped
    )
    metrics.gauge(
        "agent_break_glass_uses_waiting",
        "Calls that only break-glass allowed and that the server has not yet put on record.",
        lambda: agent.emergency_uses.waiting,
    )
    _watch_decisions(metrics, agent)
    _watch_denials(metrics, agent)
    _watch_checks(metrics, agent)
    _watch_sync(metrics, agent)
    _watch_attestation(metrics, agent)
    return metrics


def _watch_decisions(metrics: Metrics, agent: Agent) -> None:
    decisions = agent.decisions
    metrics.gauges(
        "agent_decisions_dropped",
        "Decisions that found no room on their way to a sink of the decision log.",
        "sink",
        lambda: decisions.dropped,
    )
    metrics.gauge(
        "agent_decisions_refused",
        "Decisions that the collector refused for good.",
        lambda: decisions.refused,
    )
    metrics.gauge(
        "agent_decisions_waiting",
        "Decisions that the collector does not have yet.",
        lambda: decisions.waiting,
    )
    metrics.gauge(
        "agent_decisions_left_out",
        "Allowed calls that the sample of the decision log left out.",
        lambda: decisions.log.left_out,
    )


def _watch_denials(metrics: Metrics, agent: Agent) -> None:
    metrics.counts(
        "agent_denials",
        "Calls that proxies of this node denied, as far as they logged them.",
        ("service", "rule", "code"),
        lambda: agent.denials.counts,
    )


def _watch_checks(metrics: Metrics, agent: Agent) -> None:
    answers = metrics.counter(
        "agent_app_checks", "Health checks of apps, by kind and outcome (well or not).", "kind", "outcome"
    )
    agent.sidecars.checks.observe = lambda kind, well: answers.labels(kind, "well" if well else "not").inc()
    metrics.gauges(
        "agent_apps",
        "Instances of this node, by what is known of their apps.",
        "health",
        lambda: Counter(each.health.value for each in agent.sidecars.sessions if each.instance is not None),
    )


def _watch_sync(metrics: Metrics, agent: Agent) -> None:
    contact = agent.sync.contact
    metrics.gauge(
        "agent_entries_synced_timestamp_seconds",
        "When the entries were last fetched from the server; 0 if they were not since the agent started.",
        lambda: _timestamp(contact.entries_synced_at),
    )
    seconds = metrics.histogram(
        "agent_entry_sync_seconds", "How long it took to fetch from the server what changed of the entries."
    )
    contact.observe_sync = seconds.observe


def _watch_attestation(metrics: Metrics, agent: Agent) -> None:
    attested = metrics.counter(
        "agent_workload_attestations",
        "Examinations of calling processes, by attestor and outcome (ok, or an error code).",
        "attestor",
        "outcome",
    )

    def observe(findings: Sequence[Finding]) -> None:
        for each in findings:
            attested.labels(each.attestor, _outcome(each)).inc()

    agent.workloads.observe = observe


def _outcome(finding: Finding) -> str:
    if finding.error is None:
        return "ok"
    return finding.error.code.code if isinstance(finding.error, VestibuleError) else "error"


def _seconds_of(skew: Skew | None) -> float:
    return skew.offset.total_seconds() if skew is not None else math.nan


def _until_first_expiry(instants: list[datetime], now: datetime) -> float:
    return (min(instants) - now).total_seconds() if instants else 0.0


def _timestamp(instant: datetime | None) -> float:
    return 0.0 if instant is None else instant.timestamp()


def _age_of_oldest(instants: list[datetime], now: datetime) -> float:
    return (now - min(instants)).total_seconds() if instants else 0.0
