"""Which failures count, against what, and how many it takes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.mesh.test_discovery import instance

from vestibule.mesh.error_rates import Count, ErrorRates, Report, Side
from vestibule.mesh.judging import MOST_KNOWN, Judging
from vestibule.xds.resources import ProxyKey

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class Proxy:
    """One that counts up."""

    def __init__(self, rates: ErrorRates, service: str = "web", name: str = "web-1") -> None:
        self.rates, self.service, self.name = rates, service, name
        self.count = Count()
        self.now = NOW
        self.report(tries=False)

    def report(
        self, requests: int = 0, failed: int = 0, *, denied: int = 0, tries: bool, later: float = 2
    ) -> None:
        self.count += Count(requests, denied, failed)
        self.now += timedelta(seconds=later)
        said = Report(instance_id=self.name, service=self.service, counts=((Side.INBOUND, self.count),))
        self.rates.take(said, self.now, tries_for=timedelta(0) if tries else None)


def tried(*, before: tuple[int, int], after: tuple[int, int], denied: int = 0) -> str:
    rates = ErrorRates()
    proxy = Proxy(rates)
    proxy.report(*before, tries=False)
    rates.begin(proxy.now)
    proxy.report(tries=True)
    proxy.report(*after, denied=denied, tries=True)
    return rates.spike(5)


def test_more_failures_than_before_are_a_spike() -> None:
    assert "60 of 100 requests to web failed (60%)" in tried(before=(1000, 0), after=(100, 60))


def test_as_many_failures_as_before_are_none() -> None:
    assert tried(before=(100, 50), after=(100, 54)) == ""
    assert tried(before=(100, 50), after=(100, 56)) != ""


def test_a_few_requests_say_nothing() -> None:
    assert tried(before=(1000, 0), after=(3, 3)) == ""
    assert tried(before=(1000, 0), after=(19, 19)) == ""
    assert tried(before=(1000, 0), after=(100, 9)) == ""


def test_a_service_without_traffic_before_is_not_judged() -> None:
    assert tried(before=(3, 0), after=(1000, 1000)) == ""


def test_requests_that_rules_stop_are_no_failures() -> None:
    assert tried(before=(1000, 0), after=(1000, 0), denied=1000) == ""


def test_what_came_while_a_proxy_changed_belongs_to_neither_side() -> None:
    rates = ErrorRates()
    proxy = Proxy(rates)
    proxy.report(1000, tries=False)
    rates.begin(proxy.now)
    proxy.report(100, 100, tries=True)
    assert rates.spike(5) == ""


def test_what_a_quiet_service_counts_later_is_as_new_as_its_report() -> None:
    rates = ErrorRates()
    proxy = Proxy(rates)
    proxy.report(1000, tries=False)
    rates.begin(proxy.now)
    proxy.count += Count(50, 0, 50)
    said = Report(instance_id="web-1", service="web", counts=((Side.INBOUND, proxy.count),))
    rates.take(said, proxy.now + timedelta(seconds=8), tries_for=timedelta(seconds=7))
    assert "50 of 50" in rates.spike(5)


def test_a_proxy_that_restarts_counts_anew() -> None:
    rates = ErrorRates()
    proxy = Proxy(rates)
    proxy.report(1000, tries=False)
    rates.begin(proxy.now)
    proxy.report(tries=True)
    proxy.count = Count()
    proxy.report(50, 50, tries=True)
    assert "50 of 50" in rates.spike(5)


def test_what_is_long_ago_is_compared_with_nothing() -> None:
    rates = ErrorRates()
    proxy = Proxy(rates)
    proxy.report(1000, tries=False)
    proxy.report(1, tries=False, later=300)
    rates.begin(proxy.now)
    assert rates.before() == {("web", Side.INBOUND): Count(1, 0, 0)}


def test_what_was_before_survives_a_restart_of_the_server() -> None:
    rates = ErrorRates()
    rates.resume({("web", Side.INBOUND): Count(1000, 0, 0)})
    proxy = Proxy(rates)
    proxy.report(tries=True)
    proxy.report(50, 50, tries=True)
    assert rates.spike(5) != ""


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.booleans()), max_size=40))
def test_no_reports_make_a_mesh_without_failures_spike(reports: list[tuple[int, int, bool]]) -> None:
    rates = ErrorRates()
    proxy = Proxy(rates)
    for requests, denied, anew in reports:
        if anew:
            rates.begin(proxy.now)
        proxy.report(requests + denied, denied=denied, tries=True)
    assert rates.spike(0) == ""


def test_of_instances_that_are_gone_nothing_is_kept() -> None:
    """Each start of an instance has an id of its own."""
    there = instance(id="web-0")
    judging = Judging(lambda: (there,), lambda _proxy: None, lambda _proxy: None)
    for number in range(3 * MOST_KNOWN):
        report = Report(instance_id=f"web-{number}", service="web", counts=((Side.INBOUND, Count(number)),))
        judging.take_report(ProxyKey(there.spiffe_id, report.instance_id), report, None, NOW)
    assert judging.rates.size <= MOST_KNOWN
