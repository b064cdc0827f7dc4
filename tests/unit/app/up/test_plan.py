"""A plan is a directory that holds together; a copy of it can be edited without touching the original."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vestibule.app.up.plan import Plan, command_of, copy_intent, find_directory, make_plan
from vestibule.errors import VestibuleError
from vestibule.intent import App

MESH = "mesh: shop\ntrust_domain: example.org\nenvironment: test\n"
WEB = "service: web\nports: {http: {protocol: http}}\nallow: []\n"
UP = "apps:\n  web: {run: [python, web.py], instances: 2}\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    root = tmp_path / "shop"
    (root / "services").mkdir(parents=True)
    (root / "mesh.yaml").write_text(MESH)
    (root / "services" / "web.yaml").write_text(WEB)
    (root / "up.yaml").write_text(UP)
    (root / "web.py").write_text("")
    return root


def test_a_sound_directory_is_a_plan(directory: Path) -> None:
    plan = make_plan(directory)
    assert isinstance(plan, Plan)
    assert plan.services == ("web",)
    assert [each.name for each in plan.instances] == ["web", "web-2"]


def test_gateways_are_part_of_a_plan_and_must_exist(directory: Path) -> None:
    (directory / "gateways").mkdir()
    (directory / "gateways" / "edge.yaml").write_text(
        "gateway: edge\nlisteners: {http: {port: 8080}}\nroutes: [{id: all, to: web}]\n"
    )
    (directory / "up.yaml").write_text(f"{UP}gateways: [edge]\n")
    plan = make_plan(directory)
    assert isinstance(plan, Plan)
    assert plan.gateways == ("edge",)
    assert {name: each.path for name, each in plan.identities.items()} == {
        "web": "/ns/test/sa/web",
        "edge": "/ns/test/sa/edge",
    }
    (directory / "up.yaml").write_text(f"{UP}gateways: [egde]\n")
    problems = make_plan(directory)
    assert isinstance(problems, tuple)
    assert [(each.code.code, "'edge'" in each.advice) for each in problems] == [("VST0040", True)]


def test_all_problems_come_at_once_with_paths_that_can_be_opened(directory: Path) -> None:
    (directory / "services" / "web.yaml").write_text(
        "service: web\nports: {http: {protocl: http}}\nowner: 3\n"
    )
    (directory / "up.yaml").write_text("apps:\n  web: {rum: [x]}\n")
    problems = make_plan(directory)
    assert isinstance(problems, tuple)
    files = {Path(str(each.where.file)) for each in problems}
    assert files == {directory / "services" / "web.yaml", directory / "up.yaml"}
    assert all(path.is_file() for path in files)


def test_an_up_file_without_apps_starts_nothing(directory: Path) -> None:
    (directory / "up.yaml").write_text("apps: {}\n")
    with pytest.raises(VestibuleError) as caught:
        make_plan(directory)
    assert caught.value.code.code == "VST7301"


def test_python_means_the_interpreter_that_runs_us() -> None:
    assert command_of(App(service="web", run=("python", "web.py"))) == (sys.executable, "web.py")
    assert command_of(App(service="web", run=("python3", "web.py"))) == (sys.executable, "web.py")
    assert command_of(App(service="web", run=("./web", "python"))) == ("./web", "python")


def test_without_a_directory_the_example_is_found() -> None:
    found = find_directory(None)
    assert found.parts[-2:] == ("examples", "shop")
    assert isinstance(make_plan(found), Plan)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError) as caught:
        find_directory(tmp_path / "nowhere")
    assert caught.value.code.code == "VST7300"


def test_a_copy_is_edited_without_touching_the_original(directory: Path, tmp_path: Path) -> None:
    copy = copy_intent(directory, tmp_path / "copy")
    assert isinstance(make_plan(copy), Plan)
    (copy / "services" / "web.yaml").write_text("changed")
    assert (directory / "services" / "web.yaml").read_text() == WEB


def test_intent_behind_symbolic_links_is_copied_not_linked(directory: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (directory / "services").rename(elsewhere)
    (directory / "services").symlink_to(elsewhere)
    (directory / "mesh.yaml").rename(tmp_path / "mesh.yaml")
    (directory / "mesh.yaml").symlink_to(tmp_path / "mesh.yaml")
    copy = copy_intent(directory, tmp_path / "copy")
    assert not (copy / "services").is_symlink()
    assert not (copy / "mesh.yaml").is_symlink()
    (copy / "services" / "web.yaml").write_text("changed")
    assert (elsewhere / "web.yaml").read_text() == WEB


def test_dependencies_are_lent_and_histories_left_out(directory: Path, tmp_path: Path) -> None:
    for name in (".venv", "node_modules", ".git", ".vestibule", "__pycache__", "data"):
        (directory / name).mkdir()
        (directory / name / "file").write_text("x")
    (directory / "loop").symlink_to(directory)
    copy = copy_intent(directory, tmp_path / "copy")
    assert (copy / ".venv").is_symlink()
    assert (copy / "node_modules").is_symlink()
    assert (copy / "loop").is_symlink()
    assert (copy / "data" / "file").read_text() == "x"
    assert not any((copy / name).exists() for name in (".git", ".vestibule", "__pycache__"))


def test_a_file_that_cannot_be_copied_is_named(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with pytest.raises(VestibuleError) as caught:
        copy_intent(directory, tmp_path / "copy")
    assert caught.value.code.code == "VST7300"
    assert str(tmp_path / "copy") in str(caught.value)
