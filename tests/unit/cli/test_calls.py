"""``vestibule calls``: an access log, counted."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from vestibule.app.main import cli
from vestibule.observe.access_record import SCHEMA, AccessRecord, Direction, Layer, Verdict

NOW = datetime.now(UTC)
WEB = "spiffe://example.org/ns/prod/sa/web"


def record(direction: Direction = Direction.INBOUND, **more: Any) -> AccessRecord:
    plain: dict[str, Any] = {
        "time": NOW,
        "layer": Layer.HTTP,
        "direction": direction,
        "verdict": Verdict.ALLOWED,
        "reporter_service": "payments",
        "reporter_spiffe_id": "",
        "reporter_instance": "",
        "source_spiffe_id": WEB,
        "source_address": "10.0.0.7:4711",
        "destination_service": "payments",
    }
    return AccessRecord(**{**plain, **more})


def line(each: AccessRecord) -> str:
    written = {field.name: getattr(each, field.name) for field in fields(each)}
    told = {name: value.value if isinstance(value, Enum) else value for name, value in written.items()}
    return json.dumps({"schema": SCHEMA, **told, "time": each.time.isoformat()})


@pytest.fixture
def log(tmp_path: Path) -> Path:
    records = [
        *[record()] * 6,
        *[record(plaintext=True, source_spiffe_id="", rule="payments/plaintext/batch")] * 2,
        record(verdict=Verdict.DENIED, time=NOW - timedelta(hours=2)),
        record(destination_service="ledger"),
        record(layer=Layer.LISTENER),
        *[record(Direction.OUTBOUND, route="payments/canary", version="v1")] * 3,
        record(Direction.OUTBOUND, route="payments/canary", version="v2"),
    ]
    (tmp_path / "access.jsonl").write_text("".join(f"{line(each)}\n" for each in records))
    return tmp_path / "access.jsonl"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli(["calls", *words])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out + captured.err


def calls(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    code, output = run(capsys, *words, "--output", "json")
    assert code == 0
    return json.loads(output)["data"]


def test_each_call_is_counted_once_as_its_callee_saw_it(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = calls(capsys, str(log), "--service", "payments")
    assert [(each["source"], each["verdict"], each["calls"]) for each in rows] == [
        (WEB, "allowed", 6),
        ("plaintext", "allowed", 2),
        (WEB, "denied", 1),
    ]


def test_the_share_of_plain_text_is_told(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = calls(capsys, str(log), "--by", "transport", "--service", "payments", "--since", "1h")
    assert rows == [
        {"transport": "mtls", "calls": 6, "share": 0.75},
        {"transport": "plaintext", "calls": 2, "share": 0.25},
    ]


def test_versions_are_counted_as_callers_saw_them(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = calls(capsys, str(log), "--by", "route,version")
    assert [(each["route"], each["version"], each["share"]) for each in rows] == [
        ("payments/canary", "v1", 0.75),
        ("payments/canary", "v2", 0.25),
    ]


def test_what_cannot_be_counted_is_said(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, str(log), "--by", "colour")
    assert (code, "VST9100" in said) == (2, True)
    assert "VST9106" in run(capsys, str(tmp_path / "none"))[1]
    assert "VST9106" in run(capsys, str(tmp_path))[1]
    _, table = run(capsys, str(log), "--by", "transport")
    assert "plaintext" in table
    assert "20.0%" in table
