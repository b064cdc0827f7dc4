"""`vestibule trace` shows a request's way from the logs of one machine or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli


def line(direction: str, source: str, destination: str, second: float, lasts: float, **more: Any) -> str:
    reporter = source if direction == "outbound" else destination
    facts = {
        "schema": "vestibule.access/v1",
        "time": f"2026-11-22T12:00:{second:09.6f}+00:00",
        "layer": "http",
        "direction": direction,
        "verdict": "allowed",
        "reporter_service": reporter,
        "reporter_spiffe_id": f"spiffe://example.org/ns/prod/sa/{reporter}",
        "reporter_instance": f"{reporter}-1",
        "source_spiffe_id": f"spiffe://example.org/ns/prod/sa/{source}",
        "destination_service": destination,
        "request_id": "r1",
        "method": "GET",
        "path": f"/{destination}",
        "status": 200,
        "duration_ms": lasts,
    }
    return json.dumps(facts | more) + "\n"


CHAIN = (
    line("outbound", "web", "orders", 1, 100),
    line("inbound", "web", "orders", 1.005, 90),
    line("outbound", "orders", "payments", 1.010, 20, attempts=2),
    line("inbound", "orders", "payments", 1.015, 5),
)


def trace(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli(["trace", *words])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


def test_a_request_is_shown_as_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text("".join(CHAIN) + line("outbound", "web", "other", 3, 1, request_id="r2"))
    status, shown = trace(capsys, "r1", "--log", str(log))
    assert status == 0
    assert shown.splitlines() == [
        "request r1",
        "└── ✓ web → orders GET /orders 200 100.0 ms (app 70.0 ms, between 10.0 ms)",
        "    └── ✓ orders → payments GET /payments 200 20.0 ms (app 5.0 ms, between 15.0 ms)  [2 tries]",
    ]


def test_logs_of_several_machines_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(CHAIN):
        (tmp_path / f"{number}.jsonl").write_text(text)
    logs = [word for number in range(len(CHAIN)) for word in ("--log", str(tmp_path / f"{number}.jsonl"))]
    status, shown = trace(capsys, "r1", *logs, "--output", "json")
    [call] = json.loads(shown)["data"]["calls"]
    assert status == 0
    assert (call["seen_by"], call["own_ms"]) == (["caller", "callee"], 70.0)
    assert [each["destination"] for each in call["calls"]] == ["payments"]


def test_a_failed_call_is_a_finding_and_says_what_the_callee_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text(
        line("outbound", "web", "orders", 1, 9, status=403, details="via_upstream")
        + line("inbound", "web", "orders", 1, 8, status=403, verdict="denied", details="rbac[[none]")
    )
    status, shown = trace(capsys, "r1", "--log", str(log))
    assert status == 1
    assert "✗ web → orders GET /orders 403" in shown
    assert "[rbac[[none]]" in shown


def test_a_trace_id_finds_every_call_of_the_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "access.jsonl"
    ours = {"trace_id": "a" * 32}
    log.write_text(
        line("inbound", "web", "orders", 1, 50, request_id="one", **ours)
        + line("outbound", "orders", "payments", 1.01, 5, request_id="two", **ours)
    )
    for name in ("one", "a" * 32):
        _, shown = trace(capsys, name, "--log", str(log))
        assert "orders → payments" in shown


def test_an_unknown_request_is_said_to_be_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "access.jsonl").write_text("".join(CHAIN))
    status, shown = trace(capsys, "nothing", "--log", str(tmp_path / "access.jsonl"))
    assert (status, "VST9115" in shown) == (4, True)
    assert trace(capsys, "r1", "--log", str(tmp_path / "none.jsonl"))[0] == 4
