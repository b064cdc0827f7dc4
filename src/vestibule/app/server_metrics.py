"""What a server counts.  Each name stands in docs/metrics.md, with what it means for whoever is called at night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from vestibule.audit import AuditEvent
from vestibule.clock import Clock
from vestibule.doors.limits import Limits
from vestibule.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from vestibule.app.server_services import Services

_ISSUING: Final = frozenset({"issue", "mint"})
_KINDS: Final = {
    "svid": "x509",
    "jwt-svid": "jwt",
    "wit-svid": "wit",
    "downstream-ca": "ca",
    "x509": "x509",
    "jwt": "jwt",
}


def server_metrics(metrics: Metrics, services: Services, clock: Clock) -> None:
    """Register what follows from the services."""
    authorities = services.authorities
    metrics.gauges(
        "authority_rotated_timestamp_seconds",
        "When the signing authority of a kind was made that is active now.",
        "kind",
        lambda: {kind: at[0] for kind, at in _lives(services).items()},
    )
    metrics.gauges(
        "signing_key_expires_timestamp_seconds",
        "When the active signing authority of a kind ends.",
        "kind",
        lambda: {kind: at[1] for kind, at in _lives(services).items()},
    )
    metrics.gauge(
        "authority_rotation_failing",
        "1 while the authorities cannot be moved on.",
        lambda: authorities.problem is not None,
    )
    metrics.gauge(
        "server_svid_expires_timestamp_seconds",
        "When the server's own certificate ends.",
        lambda: services.identity.svid.not_after.timestamp(),
    )
    metrics.gauge("clock_timestamp_seconds", "The server's clock.", lambda: clock.now().timestamp())
    metrics.gauge(
        "store_leads",
        "1 on the server that does what is done once per database.",
        lambda: services.store.leads,
    )
    metrics.gauge(
        "audit_deferred_records",
        "Records of emergencies that wait for room.",
        lambda: services.audit.deferred,
    )
    _watch_store(metrics, services)
    metrics.gauge(
        "audit_checkpointed_records",
        "Records of the audit log that the newest signed checkpoint covers.",
        lambda: _checkpointed(services),
    )
    metrics.gauge(
        "audit_checkpoints_failing",
        "Whether checkpoints of the audit log can not be written now.",
        lambda: bool(services.following.checkpointer.failing),
    )
    metrics.gauges(
        "audit_sink_behind_records",
        "Records that a place does not have yet that they are carried to.",
        "sink",
        lambda: {each.name: services.audit_log.end.seq - each.sent for each in services.following.forwarders},
    )
    metrics.gauges(
        "audit_sink_failing",
        "Whether a place takes no audit records now.",
        "sink",
        lambda: {each.name: bool(each.failing) for each in services.following.forwarders},
    )
    _watch_audit(metrics, services)


def limit_metrics(metrics: Metrics) -> Callable[[str, str], None]:
    """What to tell of rate limits that were met."""
    met = metrics.counter(
        "rate_limited",
        "Calls that met a rate limit, by limit and whether they waited or were refused.",
        "limit",
        "outcome",
    )
    for name in Limits.NAMES:
        for outcome in ("waited", "refused"):
            met.labels(name, outcome)
    return lambda name, outcome: met.labels(name, outcome).inc()


def _lives(services: Services) -> Mapping[str, tuple[float, float]]:
    """By kind, when what signs now began and when it ends."""
    x509 = services.authorities.active
    found = {"x509": (x509.not_before.timestamp(), x509.not_after.timestamp())}
    jwt = services.authorities.jwt_active()
    if jwt is not None:
        found["jwt"] = (jwt.not_before.timestamp(), jwt.not_after.timestamp())
    return found


def _watch_store(metrics: Metrics, services: Services) -> None:
    seconds = metrics.histogram("store_seconds", "How long transactions of the store took.", "operation")
    failures = metrics.counter(
        "store_failures", "Transactions of the store that failed.", "operation", "code"
    )
    for operation in ("read", "write"):
        seconds.labels(operation)

    def observe(operation: str, took: float, failure: str) -> None:
        seconds.labels(operation).observe(took)
        if failure:
            failures.labels(operation, failure).inc()

    services.store.observe(observe)


def _checkpointed(services: Services) -> int:
    latest = services.following.checkpointer.latest
    return latest.size if latest else 0


def _watch_audit(metrics: Metrics, services: Services) -> None:
    """Everything that is issued, attested or administered is on record first: so it is counted there."""
    seconds = metrics.histogram("audit_seconds", "How long records took until they were on disk.")
    failures = metrics.counter(
        "audit_failures", "Calls whose records could not be kept: what they did was refused."
    )
    audited = metrics.counter(
        "audit_records", "Records in the audit log, by what was done.", "action", "outcome"
    )
    issued = metrics.counter(
        "issued", "Documents asked for, by kind and outcome (ok, or an error code).", "kind", "outcome"
    )
    attested = metrics.counter(
        "node_attestations",
        "Attempts of nodes to join that are on record, by attestor and outcome.",
        "kind",
        "outcome",
    )

    def observe(events: Sequence[AuditEvent], took: float, kept: bool) -> None:
        seconds.observe(took)
        if not kept:
            failures.inc()
            return
        for (action, outcome), number in Counter((each.action, each.outcome) for each in events).items():
            audited.labels(action, outcome).inc(number)
            what, _, done = action.rpartition(".")
            if done in _ISSUING and what in _KINDS:
                issued.labels(_KINDS[what], outcome).inc(number)
        for event in events:
            if event.action == "agent.attest":
                attested.labels(_attestor(event, services), event.outcome).inc()

    services.audit_log.observe = observe


def _attestor(event: AuditEvent, services: Services) -> str:
    """The attestor's name; what a stranger made up is not given a series of its own."""
    name = str(event.details.get("type") or event.subject.removeprefix("attestation:"))
    return name if name in services.nodes.attestation_types else "unknown"
