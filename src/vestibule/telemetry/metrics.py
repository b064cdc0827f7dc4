"""Metrics of a serving process, in Prometheus' form.  All names begin with ``vestibule_``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One registry per process component, so that tests may run several side by side."""

    content_type: Final = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, component: str, version: str) -> None:
        self.registry = CollectorRegistry()
        Info("vestibule", "What runs here.", registry=self.registry).info(
            {"component": component, "version": version}
        )
        self._calls = Counter(
            "vestibule_rpc_calls",
            "RPCs answered, by method and outcome.",
            ("method", "outcome"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "vestibule_rpc_seconds",
            "How long RPCs took, from the first byte of the request; streams count from begin to end.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def rpc(self, method: str, outcome: str, seconds: float) -> None:
        """Count one answered RPC."""
        self._calls.labels(method, outcome).inc()
        self._seconds.labels(method).observe(seconds)

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A value that is asked for whenever the metrics are read."""
        Gauge(f"vestibule_{name}", meaning, registry=self.registry).set_function(value)

    def gauges(self, name: str, meaning: str, label: str, values: Callable[[], Mapping[str, float]]) -> None:
        """One value for each of what a label may name, all asked for whenever the metrics are read."""
        self.registry.register(_Labelled(f"vestibule_{name}", meaning, label, values))

    def counts(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str],
        values: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        """Counts that only grow, for each of what labels may name; asked for whenever the metrics are read."""
        self.registry.register(_Counted(f"vestibule_{name}", meaning, labels, values))

    def counter(self, name: str, meaning: str, *labels: str) -> Counter:
        """A count that only grows; its name ends in ``_total`` when it is read."""
        return Counter(f"vestibule_{name}", meaning, labels, registry=self.registry)

    def histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        """How long something took, in seconds."""
        return Histogram(f"vestibule_{name}", meaning, labels, buckets=_SECONDS, registry=self.registry)

    def text(self) -> bytes:
        """All metrics, as ``/metrics`` answers."""
        return generate_latest(self.registry)


class _Labelled(Collector):
    def __init__(
        self, name: str, meaning: str, label: str, values: Callable[[], Mapping[str, float]]
    ) -> None:
        self._name, self._meaning, self._label, self._values = name, meaning, label, values

    def describe(self) -> Iterable[Metric]:
        return [GaugeMetricFamily(self._name, self._meaning, labels=[self._label])]

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._meaning, labels=[self._label])
        for each, value in sorted(self._values().items()):
            family.add_metric([each], value)
        return [family]


class _Counted(Collector):
    def __init__(
        self,
        name: str,
        meaning: str,
        labels: Sequence[str],
        values: Callable[[], Mapping[tuple[str, ...], float]],
    ) -> None:
        self._name, self._meaning, self._labels, self._values = name, meaning, tuple(labels), values

    def describe(self) -> Iterable[Metric]:
        return [CounterMetricFamily(self._name, self._meaning, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for each, value in sorted(self._values().items()):
            family.add_metric(each, value)
        return [family]
