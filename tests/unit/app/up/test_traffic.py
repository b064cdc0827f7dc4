"""Requests per edge are counted from the access log as it grows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from vestibule.app.up.traffic import Traffic
from vestibule.observe.access_log import Edge
from vestibule.observe.access_record import SCHEMA, Direction, Verdict

WEB = "spiffe://example.org/ns/prod/sa/web"
NAMES = {WEB: "web"}


def line(
    source: str = WEB,
    verdict: Verdict = Verdict.ALLOWED,
    direction: Direction = Direction.INBOUND,
    reporter: str = "orders",
    destination: str = "orders",
) -> str:
    document = {
        "schema": SCHEMA,
        "time": datetime.now(UTC).isoformat(),
        "layer": "http",
        "direction": direction.value,
        "verdict": verdict.value,
        "reporter_service": reporter,
        "reporter_spiffe_id": "",
        "reporter_instance": "",
        "source_spiffe_id": source,
        "destination_service": destination,
        "authority": "payments:80",
    }
    return json.dumps(document) + "\n"


def append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(lines)


def test_each_call_is_counted_once_by_its_callee(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    traffic = Traffic(path, NAMES)
    append(path, line(), line(direction=Direction.OUTBOUND, reporter="web"), line(verdict=Verdict.DENIED))
    traffic.look()
    assert traffic.edges == {Edge("web", "orders", "allowed"): 1, Edge("web", "orders", "denied"): 1}


def test_only_what_is_new_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    traffic = Traffic(path, NAMES)
    append(path, line())
    traffic.look()
    traffic.look()
    append(path, line())
    traffic.look()
    assert traffic.edges[Edge("web", "orders", "allowed")] == 2


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    traffic = Traffic(path, NAMES)
    whole = line()
    append(path, whole[:20])
    traffic.look()
    assert not traffic.edges
    append(path, whole[20:])
    traffic.look()
    assert traffic.edges.total() == 1


def test_nothing_is_lost_when_the_file_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    traffic = Traffic(path, NAMES)
    append(path, line())
    traffic.look()
    append(path, line(), line())
    path.rename(tmp_path / "access.jsonl.1")
    append(path, line())
    traffic.look()
    assert traffic.edges.total() == 4


def test_what_the_callers_own_proxy_refused_is_seen_too(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    traffic = Traffic(path, NAMES)
    append(
        path,
        line(
            direction=Direction.OUTBOUND, reporter="reports", destination="payments", verdict=Verdict.DENIED
        ),
    )
    traffic.look()
    assert traffic.edges == {Edge("reports", "payments", "denied"): 1}


def test_before_there_is_a_log_there_is_nothing_to_count(tmp_path: Path) -> None:
    traffic = Traffic(tmp_path / "none", NAMES)
    traffic.look()
    assert not traffic.edges
