"""Log lines that cannot be forged, and metrics that can be read."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from vestibule.telemetry.logs import LogFormat, set_up_logs
from vestibule.telemetry.metrics import Metrics


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_peer_cannot_write_lines_of_its_own() -> None:
    stream = io.StringIO()
    set_up_logs("info", LogFormat.TEXT, stream)
    logging.getLogger("vestibule.doors").warning("from %s", "x\n2026 error doors: forged\x1b[2J")
    [line] = stream.getvalue().splitlines()
    assert "doors: from x\\n2026 error doors: forged\\x1b[2J" in line


def test_json_lines_hold_one_object_each() -> None:
    stream = io.StringIO()
    set_up_logs("info", LogFormat.JSON, stream)
    logging.getLogger("vestibule.doors").error("a\nb", exc_info=ValueError("c"))
    line = json.loads(stream.getvalue())
    assert (line["level"], line["where"], line["message"]) == ("error", "vestibule.doors", "a\nb")
    assert "ValueError: c" in line["trace"]


def test_libraries_are_heard_only_when_it_matters() -> None:
    stream = io.StringIO()
    set_up_logs("debug", LogFormat.TEXT, stream)
    logging.getLogger("hpack.hpack").debug("detail")
    assert stream.getvalue() == ""


def test_metrics_are_counted_by_method_and_outcome() -> None:
    metrics = Metrics("server", "1")
    metrics.rpc("/a/B", "ok", 0.1)
    metrics.rpc("/a/B", "refused", 0.1)
    metrics.gauge("things", "How many.", lambda: 3)
    text = metrics.text().decode()
    assert 'vestibule_rpc_calls_total{method="/a/B",outcome="ok"} 1.0' in text
    assert "vestibule_things 3.0" in text
