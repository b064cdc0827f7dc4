"""Faults that the intent asks for are told apart from failures."""

from __future__ import annotations

import pytest
from tests.unit.mesh.test_discovery import FILES

from vestibule.calls.traffic_reports import traffic_from_wire, traffic_to_wire
from vestibule.intent import load_files
from vestibule.mesh.injected import failures, statuses
from vestibule.records import ProxyTraffic, Requests
from vestibule.wire.gen.vestibule.node.v1 import traffic_pb2

FAULT = """
routes:
- {id: slow, match: {path: /a}, fault: {abort: {status: 503}, until: 2030-01-01T00:00:00Z}}
- {id: none, match: {path: /b}, fault: {abort: {status: 404}, until: 2030-01-01T00:00:00Z}}
- {id: rest}
"""


@pytest.mark.parametrize(("aborted_with", "failed"), [((), 1), ((503,), 1), ((404, 429), 5), ((404, 503), 1)])
def test_aborts_of_4xx_hide_no_failure_and_those_of_5xx_are_none(
    aborted_with: tuple[int, ...], failed: int
) -> None:
    requests = Requests(requests=50, denied=4, failed=5, aborted=4)
    assert failures(requests, frozenset(aborted_with)) == failed


def test_the_statuses_are_those_of_the_intents() -> None:
    loaded = load_files({**FILES, "services/web.yaml": FILES["services/web.yaml"] + FAULT.encode()})
    assert loaded.intent is not None, loaded.problems
    assert statuses((loaded.intent,)) == {503, 404}


def test_servers_and_sidecars_of_one_version_apart_understand_each_other() -> None:
    counted = ProxyTraffic(outbound=Requests(requests=50, denied=4, failed=5, aborted=4))
    sent = traffic_to_wire(counted)
    assert sent.outbound.failed == 1
    assert traffic_from_wire(sent) == counted
    older = traffic_pb2.Traffic(outbound=traffic_pb2.Requests(requests=50, denied=4, failed=1))
    assert traffic_from_wire(older).outbound == Requests(requests=50, denied=4, failed=1)
