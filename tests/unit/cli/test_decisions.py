"""``vestibule decisions``: the decision log, read, searched and followed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.observe.test_decisions import ordinary
from tests.unit.observe.test_emergency_uses import line

from vestibule.app.main import cli
from vestibule.cli.decisions import followed, placed, read
from vestibule.observe.access_log import AccessLine
from vestibule.observe.decision_files import DecisionFile, DecisionStream
from vestibule.observe.decision_settings import DecisionLogSettings
from vestibule.observe.decisions import DecisionLog

CALLS = (
    ordinary("/a", destination_service="payments", request_id="r-a", trace_id="t" * 32),
    ordinary("/b", destination_service="payments", verdict="denied", rule="", details="direct_response"),
    ordinary("/c", destination_service="ledger", source_spiffe_id="spiffe://example.org/ns/prod/sa/web"),
    line("/d", destination_service="payments"),
)


def written(path: Path, *lines: AccessLine, **more: Any) -> Path:
    file = DecisionFile(path, **more)
    DecisionLog(DecisionLogSettings(), [file]).append(lines)
    file._write_the_rest()
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written(tmp_path / "decisions.jsonl", *CALLS)


def asked(log: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    with pytest.raises(SystemExit):
        cli(["decisions", str(log), *options, "--output", "json"])
    return [each["path"] for each in json.loads(capsys.readouterr().out)["data"]]


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ([], ["/a", "/b", "/c", "/d"]),
        (["--verdict", "denied"], ["/b"]),
        (["--service", "ledger"], ["/c"]),
        (["--caller", "web"], ["/c"]),
        (["--caller", "spiffe://example.org/ns/prod/sa/orders"], ["/a", "/b", "/d"]),
        (["--rule", "payments/pay"], ["/a", "/c"]),
        (["--rule", "break-glass/"], ["/d"]),
        (["--request", "r-a"], ["/a"]),
        (["--request", "t" * 32], ["/a"]),
        (["--limit", "1"], ["/d"]),
        (["--since", "1h"], []),
    ],
)
def test_decisions_are_found_by_what_is_known_of_them(
    log: Path, capsys: pytest.CaptureFixture[str], options: list[str], paths: list[str]
) -> None:
    assert asked(log, capsys, *options) == paths


def test_people_read_who_called_what_and_why_that_was_denied(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli(["decisions", str(log)])
    out = capsys.readouterr().out
    assert "spiffe://example.org/ns/prod/sa/orders → payments/http GET /b: no rule allows it" in out
    assert "→ payments/http GET /d: break-glass/k7f2m9qa" in out


def test_rotated_files_are_read_too_oldest_first(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    for number in range(4):
        written(path, ordinary(f"/{number}"), file_bytes=10, files_kept=2)
    assert [each["path"] for each in read(path)] == ["/1", "/2", "/3"]


def test_a_log_that_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli(["decisions", str(tmp_path / "none")])
    assert "there is no decision log" in capsys.readouterr().err


def test_it_is_followed_over_the_end_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "decisions.jsonl", ordinary("/before"))
    seen: list[str] = []
    third = threading.Event()

    def follow() -> None:
        with closing(followed(path)) as found:
            for each in found:
                seen.append(each["path"])
                if len(seen) == 3:
                    third.set()
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    for number in range(100):
        # Each line begins a new file, so that one of them comes after the reader has begun.
        written(path, ordinary(f"/{number}"), file_bytes=10)
        if third.wait(0.3):
            break
    thread.join(60)
    assert len(seen) == 3
    assert seen == sorted(seen, key=lambda each: int(each[1:]))


def test_decisions_go_to_standard_output_as_lines() -> None:
    program = (
        "from vestibule.observe.decision_files import DecisionStream as S\n"
        "s = S()\n"
        "for n in range(1000): s.take('{\"n\": %d}' % n, allowed=True)\n"
        "s._write_the_rest()\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert [json.loads(each)["n"] for each in out.splitlines()] == list(range(1000))


def test_a_reader_that_is_stuck_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from vestibule.observe import decision_files

    monkeypatch.setattr(decision_files, "STUCK_SECONDS", 0.01)
    reading, writing = os.pipe()
    try:
        stream = DecisionStream(writing)
        text = "x" * 1000
        for _ in range(200):
            stream.take(text, allowed=True)
        stream._write_the_rest()
        assert stream.dropped > 0
        taken = os.read(reading, 1 << 20)
        assert taken.startswith(text.encode() + b"\n" + text.encode())
    finally:
        os.close(reading)
        os.close(writing)


def test_a_decisions_rule_is_told_with_its_place_where_the_intent_that_decided_is_known() -> None:
    places = {("v1", "payments/pay"): "services/payments.yaml:5:5"}
    decision = {"intent_version": "v1", "rule": "payments/pay"}
    assert placed(decision, places) == {**decision, "where": "services/payments.yaml:5:5"}
    for other in ({**decision, "intent_version": "v2"}, {**decision, "rule": ""}, {}):
        assert placed(other, places) == other


def test_lines_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "decisions.jsonl").write_bytes(b"\xff\xfe\x00\n")
    assert not list(read(tmp_path / "decisions.jsonl"))
