"""`vestibule graph` shows who calls whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli


def line(source: str, destination: str, **more: Any) -> str:
    facts = {
        "schema": "vestibule.access/v1",
        "time": "2026-11-22T12:00:00+00:00",
        "layer": "http",
        "direction": "inbound",
        "verdict": "allowed",
        "reporter_service": destination,
        "reporter_spiffe_id": f"spiffe://example.org/ns/prod/sa/{destination}",
        "reporter_instance": f"{destination}-1",
        "source_spiffe_id": source and f"spiffe://example.org/ns/prod/sa/{source}",
        "destination_service": destination,
        "request_id": "r1",
        "status": 200,
        "duration_ms": 3.0,
    }
    return json.dumps(facts | more) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.jsonl"
    path.write_text(
        line("web", "orders")
        + line("orders", "payments", verdict="denied", status=403)
        + line("", "reports", plaintext=True)
    )
    return path


def shown(capsys: pytest.CaptureFixture[str], log: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli(["graph", "--log", str(log), *words])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_people_see_a_line_for_each_link(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [text.split() for text in shown(capsys, log).splitlines()]
    assert lines == [
        ["FROM", "TO", "CALLS", "WELL", "DENIED", "FAILED", "P50", "P95"],
        ["orders", "━━▶", "payments", "1", "0.0%", "1", "-", "-", "-"],
        ["unknown", "┅┅▶", "plaintext", "reports", "1", "100.0%", "-", "-", "3.0", "ms", "3.0", "ms"],
        ["web", "━━▶", "orders", "1", "100.0%", "-", "-", "3.0", "ms", "3.0", "ms"],
    ]


def test_one_service_is_shown_with_its_neighbours(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(shown(capsys, log, "--service", "orders", "--output", "json"))["data"]
    assert [each["name"] for each in data["nodes"]] == ["orders", "payments", "web"]


@pytest.mark.parametrize(("form", "begin"), [("dot", "digraph mesh {"), ("svg", "<svg xmlns=")])
def test_it_is_drawn_for_other_programs(
    form: str, begin: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shown(capsys, log, "--as", form).startswith(begin)
