"""A small run of the differential suite.  A large one: ``python -m tests.differential --requests 30000``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tests.differential.comparison import compare
from tests.differential.connections import compare_connections

from vestibule.envoy import rbac

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def test_engine_plain_reading_and_envoys_decide_alike_and_by_the_same_rules() -> None:
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as directory:
        result = compare(6_000, 8, Path(directory), each=300)
    assert not result.differences, "\n".join(result.lines())
    assert result.near >= result.requests / 10
    assert result.not_http < result.requests / 10
    assert not result.uncovered


def test_a_decision_service_decides_alike_and_by_the_same_rules() -> None:
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as directory:
        result = compare(3_000, 11, Path(directory), each=300, central=True)
    assert not result.differences, "\n".join(result.lines())


def test_callers_who_are_written_as_one_are_told_apart_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rbac, "_MANY_ALIKE", 0)
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as directory:
        result = compare(3_000, 12, Path(directory), each=300)
    assert not result.differences, "\n".join(result.lines())


def test_connections_are_decided_alike() -> None:
    with tempfile.TemporaryDirectory(prefix="vd", dir="/tmp") as directory:
        result = compare_connections(40, 13, Path(directory))
    assert not result.differences, "\n".join(result.lines())
    assert result.decided["no rule"]
    assert any(name.startswith("deny") for name in result.decided)
