"""``vestibule validate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from vestibule.cli.validate import validate

SHOP = Path(__file__).parents[3] / "examples" / "shop"
program = typer.Typer()
program.command()(validate)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, words)
    return result.exit_code, result.output


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "services").mkdir()
    (tmp_path / "mesh.yaml").write_text("mesh: shop\ntrust_domain: example.org\n")
    (tmp_path / "services" / "web.yaml").write_text("service: web\nports: {http: {protocol: http}}\n")
    (tmp_path / "up.yaml").write_text("apps: {web: {}}\n")
    return tmp_path


def test_a_valid_intent_exits_with_0() -> None:
    code, output = run(str(SHOP))
    assert code == 0
    assert "✓ shop: 4 services, 1 group of secrets, 1 group of tokens, 12 rules, version " in output


def test_problems_are_shown_with_place_and_fix_and_exit_with_1(broken: Path) -> None:
    code, output = run(str(broken))
    assert code == 1
    assert f"{broken}/mesh.yaml:1:1: VST0021" in output
    assert f"{broken}/up.yaml:1:13: VST0021" in output
    assert f"! {broken}/services/web.yaml:2:1: VST0060" in output
    assert output.count("fix: ") == 3
    assert "✗ 2 problems" in output


def test_programs_get_the_envelope(broken: Path) -> None:
    code, output = run(str(broken), "--output", "json")
    answer = json.loads(output)
    assert code == 1
    assert answer["schema"] == "vestibule.validate/v1"
    assert answer["data"]["valid"] is False
    assert [each["code"] for each in answer["errors"]] == ["VST0021", "VST0021"]
    assert [each["code"] for each in answer["data"]["warnings"]] == ["VST0060"]
    assert set(answer["errors"][0]) == {"code", "message", "advice", "where"}


def test_a_valid_intent_is_summed_up_for_programs() -> None:
    answer = json.loads(run(str(SHOP), "-o", "json")[1])
    assert answer["errors"] == []
    assert answer["data"]["services"] == ["orders", "payments", "reports", "web"]
    assert "payments/orders-charge" in answer["data"]["rules"]


def test_a_directory_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    code, output = run(str(tmp_path / "nowhere"))
    assert code == 1
    assert "VST0001" in output


@pytest.mark.parametrize("kind", ["mesh", "service", "up"])
def test_the_schemas_are_printed(kind: str) -> None:
    code, output = run("--schema", kind)
    assert code == 0
    assert json.loads(output)["title"] == f"Vestibule {kind} file"


def test_what_has_ended_is_warned_of_and_stays_valid(tmp_path: Path) -> None:
    (tmp_path / "services").mkdir()
    (tmp_path / "mesh.yaml").write_text("mesh: shop\ntrust_domain: example.org\nenvironment: prod\n")
    (tmp_path / "services" / "web.yaml").write_text(
        "service: web\nports: {http: {protocol: http}}\nallow: []\n"
        "mtls: {permissive_until: 2020-01-01T00:00:00Z, reason: why, allow: [{id: a}]}\n"
        "routes:\n  - {id: drill, fault: {until: 2020-01-02T00:00:00Z, abort: {status: 503}}}\n"
    )
    code, output = run(str(tmp_path))
    assert code == 0
    assert (
        f"! {tmp_path}/services/web.yaml:1:1: VST0066 plain text to web ended at 2020-01-01 00:00 UTC"
        in output
    )
    assert f"! {tmp_path}/services/web.yaml:6:5: VST0066 the fault of the route web/drill ended" in output


@pytest.mark.parametrize("kind", ["external", "gateway"])
def test_the_schemas_of_what_is_outside_are_printed(kind: str) -> None:
    assert json.loads(run("--schema", kind)[1])["title"] == f"Vestibule {kind} file"
