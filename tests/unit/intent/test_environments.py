"""One repository, several meshes: a file of an environment stands in place of the shared one, and nothing is merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tests.unit.intent.reading import CALLER, accepted, found, only
from typer.testing import CliRunner

from vestibule.cli.validate import validate
from vestibule.intent import load, load_files, load_up
from vestibule.intent.files import MAX_BYTES

MESH = "mesh: shop\ntrust_domain: {0}.example.org\nenvironment: {0}\n"
WEB = "service: web\nports: {http: {protocol: http}}\nallow: [{id: a, from: [orders]}]\n"
FILES = {
    "services/web.yaml": WEB,
    "services/orders.yaml": CALLER.format("orders"),
    "environments/prod/mesh.yaml": MESH.format("prod"),
    "environments/staging/mesh.yaml": MESH.format("staging"),
    "environments/staging/services/orders.yaml": CALLER.format("orders") + "owner: staging\n",
    "environments/staging/services/probe.yaml": CALLER.format("probe"),
}


def encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


def written(directory: Path, **more: str) -> Path:
    for name, text in {**FILES, **more}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def test_each_environment_is_a_mesh_of_its_own() -> None:
    prod = accepted(load_files(encoded(FILES), "prod"))
    staging = accepted(load_files(encoded(FILES), "staging"))
    assert (prod.mesh.environment, sorted(prod.services)) == ("prod", ["orders", "web"])
    assert (staging.mesh.environment, sorted(staging.services)) == ("staging", ["orders", "probe", "web"])
    assert str(prod.services["web"].spiffe_id) == "spiffe://prod.example.org/ns/prod/sa/web"
    assert (prod.services["orders"].owner, staging.services["orders"].owner) == (None, "staging")
    assert prod.version != staging.version


def test_what_one_environment_says_changes_no_other() -> None:
    changed = {**FILES, "environments/staging/services/probe.yaml": CALLER.format("probe") + "owner: me\n"}
    before, after = load_files(encoded(FILES), "prod"), load_files(encoded(changed), "prod")
    assert accepted(before) == accepted(after)
    broken = {**FILES, "environments/staging/services/probe.yaml": "- no\n"}
    accepted(load_files(encoded(broken), "prod"))
    assert (
        only(load_files(encoded(broken), "staging"))[0]
        == "environments/staging/services/probe.yaml:1:1 VST0022"
    )


def test_what_was_read_is_read_again_without_saying_which_environment() -> None:
    for name in ("prod", "staging"):
        loaded = load_files(encoded(FILES), name)
        assert not any(
            f"environments/{'prod' if name == 'staging' else 'staging'}" in path for path in loaded.files
        )
        assert accepted(load_files(loaded.files)) == accepted(loaded)


def test_it_must_be_said_which_of_several_is_meant() -> None:
    place, message, fix = only(load_files(encoded(FILES)))
    assert place == "environments VST0006"
    assert "prod, staging" in message
    assert "--environment prod" in fix
    place, _, fix = only(load_files(encoded(FILES), "stagin"))
    assert (place, fix) == ("environments VST0006", "Did you mean 'staging'?")


def test_an_intent_without_environments_is_the_one_that_it_says() -> None:
    plain = {"mesh.yaml": MESH.format("prod"), "services/web.yaml": CALLER.format("web")}
    accepted(load_files(encoded(plain), "prod"))
    assert only(load_files(encoded(plain), "staging"))[0] == "mesh.yaml:3:14 VST0006"


def test_a_folder_is_named_after_its_environment() -> None:
    files = {**FILES, "environments/prod/mesh.yaml": MESH.format("staging")}
    assert only(load_files(encoded(files), "prod"))[0] == "environments/prod/mesh.yaml:3:14 VST0004"


def test_a_shared_mesh_is_no_mesh_of_anyone() -> None:
    files = {**FILES, "mesh.yaml": MESH.format("prod")}
    assert only(load_files(encoded(files), "prod"))[0] == "mesh.yaml VST0003"


def test_an_environment_without_a_mesh_is_told_where_to_write_it() -> None:
    files = {name: text for name, text in FILES.items() if name != "environments/staging/mesh.yaml"}
    assert found(load_files(encoded(files), "staging"))[0] == "environments/staging/mesh.yaml VST0001"


def test_a_directory_is_read_for_one_environment(tmp_path: Path) -> None:
    written(tmp_path)
    assert sorted(accepted(load(tmp_path, "staging")).services) == ["orders", "probe", "web"]
    (tmp_path / "environments" / "staging" / "service").mkdir()
    (tmp_path / "environments" / "staging" / "service" / "a.yaml").write_text("service: a\n")
    (tmp_path / "environments" / "staging" / "services" / "probe.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    accepted(load(tmp_path, "prod"))
    assert found(load(tmp_path, "staging")) == [
        "environments/staging/service/a.yaml VST0003",
        "environments/staging/services/probe.yaml VST0002",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "environments/mesh.yaml",
        "environments/Prod/mesh.yaml",
        "environment/prod/mesh.yaml",
        "environments/prod/a.yml",
    ],
)
def test_a_file_that_would_not_be_read_is_a_problem(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mesh: a\n")
    (place,) = found(load(tmp_path, "prod"))
    assert place.endswith("VST0003")
    assert name.startswith(place.removesuffix(" VST0003"))


def test_an_environment_may_run_other_apps(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "up.yaml").write_text("apps: {web: {run: [shared]}}\n")
    (tmp_path / "environments" / "staging" / "up.yaml").write_text(
        "apps: {probe: {run: [own]}, oder: {run: [a]}}\n"
    )
    prod = load_up(tmp_path, load(tmp_path, "prod").intent, "prod")
    assert prod.up is not None
    assert list(prod.up.apps) == ["web"]
    (problem,) = load_up(tmp_path, load(tmp_path, "staging").intent, "staging").problems
    assert str(problem.where) == "environments/staging/up.yaml:1:29"


# ------------------------------------------------------------------------------------------- validate

program = typer.Typer()
program.command()(validate)


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(program, words)
    return result.exit_code, result.output


def test_every_environment_is_validated_unless_one_is_named(tmp_path: Path) -> None:
    written(tmp_path)
    code, output = run(str(tmp_path))
    assert code == 0
    assert "✓ shop in prod: 2 services, 1 rule, version " in output
    assert "✓ shop in staging: 3 services, 1 rule, version " in output
    code, output = run(str(tmp_path), "--environment", "prod")
    assert code == 0
    assert "staging" not in output
    assert run(str(tmp_path), "--environment", "test")[0] == 1


def test_what_is_wrong_in_a_shared_file_is_said_once(tmp_path: Path) -> None:
    written(tmp_path, **{"services/web.yaml": WEB.replace("orders", "oders")})
    code, output = run(str(tmp_path), "-o", "json")
    answer = json.loads(output)
    assert code == 1
    assert [each["code"] for each in answer["errors"]] == ["VST0040"]
    assert answer["data"]["environments"] == {"prod": None, "staging": None}


def test_what_is_wrong_in_one_environment_leaves_the_other_valid(tmp_path: Path) -> None:
    written(tmp_path, **{"environments/staging/services/probe.yaml": "service: prob\n"})
    code, output = run(str(tmp_path))
    assert code == 1
    assert "✓ shop in prod" in output
    assert "✗ staging" in output
