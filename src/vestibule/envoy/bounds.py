"""What bounds the calls from one proxy to one cluster: circuit limits, the budget of retries, outlier detection."""

from __future__ import annotations

from typing import Final

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from vestibule.envoy.protos import seconds
from vestibule.intent.traffic import CircuitLimits, OutlierDetection, RetryBudget

LIMIT: Final = 10_000
"""Where nobody says less."""


def limit(cluster: cluster_pb2.Cluster, said: CircuitLimits | None = None) -> None:
    """Bound what may be in flight.  Without limits of one's own, retries have a budget all the same."""
    said = said or CircuitLimits()
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds(
        max_connections=_count(said.connections),
        max_pending_requests=_count(said.pending),
        max_requests=_count(said.requests),
    )
    budget = said.budget or RetryBudget()
    thresholds.retry_budget.budget_percent.CopyFrom(percent_pb2.Percent(value=budget.percent))
    thresholds.retry_budget.min_retry_concurrency.CopyFrom(UInt32Value(value=budget.least))
    cluster.circuit_breakers.thresholds.append(thresholds)


def watch(cluster: cluster_pb2.Cluster, said: OutlierDetection | None) -> None:
    """Leave out instances that fail, by what is said and nothing else."""
    if said is None:
        return
    cluster.outlier_detection.CopyFrom(
        outlier_detection_pb2.OutlierDetection(
            consecutive_5xx=UInt32Value(value=said.consecutive),
            interval=seconds(said.interval.total_seconds()),
            base_ejection_time=seconds(said.eject_for.total_seconds()),
            max_ejection_percent=UInt32Value(value=said.most_percent),
            # Envoy would also compare instances with each other.
            enforcing_success_rate=UInt32Value(value=0),
        )
    )


def _count(said: int | None) -> UInt32Value:
    return UInt32Value(value=LIMIT if said is None else said)
