"""`vestibule coverage` shows who is not covered yet, and makes the file for the ticket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.cli.test_graph import line

from vestibule.app.main import cli


def coverage(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli(["coverage", "--admin-socket", "/nonexistent/agent-admin.sock", *words])
    return int(ended.value.code or 0), capsys.readouterr().out


def test_before_and_after_a_migration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, kept, report = tmp_path / "access.jsonl", tmp_path / "before.json", tmp_path / "report.md"
    log.write_text(line("web", "orders") + line("", "orders", plaintext=True, source_address="10.0.0.9:1"))
    status, shown = coverage(capsys, "--log", str(log), "--save", str(kept))
    assert status == 1
    assert "✗  orders   50.0%  web      10.0.0.9" in shown
    log.write_text(line("web", "orders") + line("batch", "orders"))
    status, shown = coverage(capsys, "--log", str(log), "--compare", str(kept), "--report", str(report))
    assert status == 0
    assert "✓  orders   100%  50.0%   batch, web  -" in shown
    assert "| orders | 100% | – | – | 50.0% |" in report.read_text()


def test_programs_get_both_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, kept = tmp_path / "access.jsonl", tmp_path / "before.json"
    log.write_text(line("web", "orders"))
    coverage(capsys, "--log", str(log), "--save", str(kept))
    _, shown = coverage(capsys, "--log", str(log), "--compare", str(kept), "--output", "json")
    data = json.loads(shown)["data"]
    assert (data["share"], data["before"]["share"], data["covered"]) == (1.0, 1.0, 1)


def test_files_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "access.jsonl"
    log.write_text(line("web", "orders"))
    (tmp_path / "other").write_text("{}")
    for words in (
        ("--compare", str(tmp_path / "other")),
        ("--compare", str(tmp_path / "none")),
        ("--save", str(tmp_path)),
        ("--log", str(tmp_path / "none")),
    ):
        assert coverage(capsys, "--log", str(log), *words)[0] in (2, 4)
