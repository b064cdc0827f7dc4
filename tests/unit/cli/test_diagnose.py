"""`vestibule diagnose` names the layer, for people and for programs, and refuses what it cannot read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Protocol

import pytest

from vestibule.app.main import COMMANDS, cli
from vestibule.failures import FAILURES

DENIED = {
    "schema": "vestibule.access/v1",
    "time": "2026-11-22T12:00:00+00:00",
    "layer": "http",
    "direction": "inbound",
    "verdict": "denied",
    "reporter_service": "orders",
    "reporter_spiffe_id": "spiffe://example.org/ns/prod/sa/orders",
    "reporter_instance": "orders-1",
    "source_spiffe_id": "spiffe://example.org/ns/prod/sa/web",
    "destination_service": "orders",
    "request_id": "r1",
    "method": "POST",
    "path": "/v1/[red]x[/red] y",
    "status": 403,
    "details": "rbac_access_denied_matched_policy[none]",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.jsonl"
    well = DENIED | {"request_id": "r2", "verdict": "allowed", "status": 200, "details": "via_upstream"}
    path.write_text("".join(f"{json.dumps(each)}\n" for each in (DENIED, well)))
    return path


class Asked(Protocol):
    def __call__(self, *arguments: str, text: str = "") -> tuple[int, str]: ...


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Asked:
    def asked(*arguments: str, text: str = "") -> tuple[int, str]:
        words = ["diagnose", *arguments]
        if text:
            (tmp_path / "text").write_bytes(text.encode("latin-1"))
            words += ["--text", str(tmp_path / "text")]
        with pytest.raises(SystemExit) as left:
            cli(words)
        assert isinstance(left.value.code, int)
        return left.value.code, capsys.readouterr().out

    return asked


def test_a_denied_request_is_explained_with_a_command_to_copy(run: Asked, log: Path) -> None:
    status, shown = run("--request", "r1", "--log", str(log))
    assert status == 19
    assert shown.startswith("✗ authorization: No rule allows the call  (denied-by-no-rule)")
    assert "vestibule explain spiffe://example.org/ns/prod/sa/web orders POST '/v1/[red]x[/red] y'" in shown


def test_a_request_that_went_well_is_no_failure(run: Asked, log: Path) -> None:
    assert run("--request", "r2", "--log", str(log)) == (0, "✓ the call went well\n")


def test_an_unknown_request_is_said_to_be_unknown(run: Asked, log: Path) -> None:
    status, shown = run("--request", "other", "--log", str(log), "--output", "json")
    assert status == 4
    assert json.loads(shown)["errors"][0]["code"] == "VST9115"


def test_programs_get_layer_evidence_and_advice(run: Asked) -> None:
    status, shown = run("--output", "json", text=json.dumps(DENIED))
    data = json.loads(shown)["data"]
    assert (status, data["layer"], data["failure"]) == (19, "authorization", "denied-by-no-rule")
    assert data["evidence"]["request_id"] == "r1"
    assert data["others"] == ["denied-by-rule"]


def test_a_text_that_says_nothing_is_a_finding(run: Asked) -> None:
    status, shown = run(text="it does not work\x00\xff")
    assert status == 1
    assert "no layer can be named" in shown


def test_either_a_request_or_a_text_is_wanted(run: Asked, tmp_path: Path) -> None:
    assert run()[0] == 2
    assert run("--request", "a", "--text", "-")[0] == 2
    assert run("--text", str(tmp_path / "none"))[0] == 2


def test_every_command_that_the_failure_map_names_exists() -> None:
    texts = [text for each in FAILURES for text in (*each.confirm, each.fix)]
    named = {found for text in texts for found in re.findall(r"`vestibule ([a-z -]*[a-z])", text)}
    assert len(named) > 10
    assert {
        each for each in named if not any(f"{each} ".startswith(f"{command} ") for command in COMMANDS)
    } == set()
