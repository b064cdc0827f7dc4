"""What a server counts of its rollouts, and of break-glass."""

from __future__ import annotations

from collections.abc import Callable

from vestibule.intent import Severity
from vestibule.mesh import Rolling
from vestibule.mesh.break_glass import BreakGlass
from vestibule.mesh.rollout import Phase
from vestibule.mesh.rollout_view import RolloutView
from vestibule.mesh.unenforced import Unenforced
from vestibule.telemetry.metrics import Metrics


def rollout_metrics(
    metrics: Metrics, rolling: Rolling | None = None, view: Callable[[], RolloutView] | None = None
) -> None:
    """Register it; a server without an intent has nothing to tell, under the same names."""
    metrics.gauges(
        "rollout_phase",
        "1 for the phase that the rollout of the newest intent is in.",
        "phase",
        lambda: {} if rolling is None else {each.value: each is rolling.state.phase for each in Phase},
    )
    metrics.gauge(
        "rollout_paused", "1 while an operator has paused it.", lambda: bool(rolling and rolling.state.paused)
    )
    metrics.gauge(
        "rollout_proxies_behind",
        "Registered proxies that have not what they are to have.",
        lambda: len(view().behind) if view is not None else 0,
    )
    metrics.gauge(
        "intent_errors",
        "What is wrong with the intent as its source has it now; the last good one is in force.",
        lambda: (
            sum(each.severity is Severity.ERROR for each in rolling.source.reading.problems)
            if rolling is not None
            else 0
        ),
    )


def break_glass_metrics(metrics: Metrics, break_glass: BreakGlass | None = None) -> None:
    """Register it."""
    metrics.gauge(
        "break_glass_open",
        "Permissions of break-glass that hold now.",
        lambda: 0 if break_glass is None else len(break_glass.holding()),
    )
    uses = metrics.counter(
        "break_glass_uses", "Calls that only break-glass allowed, by the called service.", "service"
    )
    if break_glass is not None:
        break_glass.observe = lambda service, count: uses.labels(service).inc(count)


def unenforced_metrics(metrics: Metrics, unenforced: Unenforced | None = None) -> None:
    """Register it."""
    metrics.gauge(
        "proxies_not_enforcing_revocations",
        "Proxies whose Envoy refused the list of what is revoked and goes on with an older one.",
        lambda: 0 if unenforced is None else len(unenforced),
    )
