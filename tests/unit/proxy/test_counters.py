"""What a sidecar makes of its Envoy's counters."""

from __future__ import annotations

import json

import pytest

from vestibule.proxy.counters import parse
from vestibule.records import ProxyTraffic, Requests


def answer(**stats: int) -> bytes:
    named = [{"name": name.replace("__", "."), "value": value} for name, value in stats.items()]
    return json.dumps({"stats": [*named, {"histograms": {}}]}).encode()


def test_requests_are_told_apart_by_side_and_class() -> None:
    body = answer(
        http__ingress__downstream_rq_completed=100,
        http__ingress__downstream_rq_4xx=7,
        http__ingress__downstream_rq_5xx=3,
        http__egress__downstream_rq_completed=50,
        http__egress__downstream_rq_5xx=5,
        http__egress__fault__aborts_injected=4,
    )
    assert parse(body) == ProxyTraffic(
        inbound=Requests(requests=100, denied=7, failed=3),
        outbound=Requests(requests=50, failed=5, aborted=4),
    )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"stats": [{"name": "http.egress.downstream_rq_5xx", "value": "y"}]}']
)
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse(body)
