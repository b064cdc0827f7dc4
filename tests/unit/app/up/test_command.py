"""The command refuses what cannot run, with everything that is wrong and the right exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vestibule.app.up import command


def up(*arguments: str) -> Any:
    program = typer.Typer()
    program.command("up")(command.up)
    return CliRunner().invoke(program, [*arguments])


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path = path.with_suffix(".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        mesh="mesh: m\ntrust_domain: example.org\nenvironment: test\n",
        services__web="service: web\nports: {http: {protocl: http}}\nowner: 7\n",
        up="apps:\n  web: {rum: [x]}\n",
    )


def test_every_problem_of_the_directory_is_told_at_once(broken: Path) -> None:
    answer = up(str(broken), "--output", "json")
    errors = json.loads(answer.stdout)["errors"]
    assert answer.exit_code == 1
    assert {Path(each["where"].split(":")[0]).name for each in errors} == {"web.yaml", "up.yaml"}
    assert all(each["advice"] and each["code"].startswith("VST0") for each in errors)


def test_people_are_told_the_same_and_once_too(broken: Path) -> None:
    for arguments in ((), ("--once",)):
        answer = up(str(broken), *arguments)
        assert answer.exit_code == 1
        assert "protocl" in answer.stderr
        assert "fix:" in answer.stderr


def test_nothing_is_left_where_nothing_was_started(broken: Path, tmp_path: Path) -> None:
    up(str(broken), "--state", str(tmp_path / "state"))
    assert not (tmp_path / "state").exists()


def test_a_missing_directory_is_a_usage_error(tmp_path: Path) -> None:
    answer = up(str(tmp_path / "nowhere"), "--output", "json")
    assert answer.exit_code == 2
    assert json.loads(answer.stdout)["errors"][0]["code"] == "VST7300"


def test_a_state_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    answer = up("--state", str(state), "--output", "json")
    assert answer.exit_code != 0
    assert json.loads(answer.stdout)["errors"][0]["code"] == "VST7003"


def test_commits_and_a_locality_are_for_runs_that_stay(tmp_path: Path) -> None:
    for option in (("--committed",), ("--locality", "eu/a")):
        answer = up(str(tmp_path), "--once", *option)
        assert answer.exit_code == 2
        assert "runs that stay" in answer.stderr.replace("\n", " ")
