"""Rules that the repository as a whole keeps."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from scripts import errors_docs

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "vestibule"
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIN = re.compile(r"^([a-z0-9][a-z0-9-]*)(?:\[[a-z,]+\])?==(\S+)", re.MULTILINE)


def pins(lock: Path) -> dict[str, str]:
    return dict(PIN.findall(lock.read_text()))


def test_there_are_locks_for_the_base_everything_development_and_the_build() -> None:
    assert [lock.stem for lock in LOCKS] == ["all", "base", "build", "dev"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_holds_no_addresses_and_no_machine_paths(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"(^|\s)/\w+/", text)
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE), "options such as --index-url"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_of_a_lock_is_exact_and_hashed(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", lock.read_text().rstrip())
    requirements = [entry for entry in entries if not entry.startswith("#")]
    assert requirements
    for entry in requirements:
        assert PIN.match(entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


@pytest.mark.parametrize(("narrow", "wide"), [("base", "all"), ("all", "dev")])
def test_a_wider_lock_holds_the_narrower_one_version_by_version(narrow: str, wide: str) -> None:
    narrower, wider = (pins(ROOT / "requirements" / f"{name}.txt") for name in (narrow, wide))
    assert narrower
    assert narrower.items() <= wider.items()


def test_every_dependency_says_why_it_is_there() -> None:
    metadata, _, _ = (ROOT / "pyproject.toml").read_text().partition("\n[tool.")
    dependencies = re.findall(r'^ +"[\w.-]+(?:\[\w+\])?[<>=].*$', metadata, re.MULTILINE)
    assert len(dependencies) > 20
    assert [line for line in dependencies if not re.search(r", +# [^ ]", line)] == []


def test_the_console_script_is_the_main_function_of_app() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"vestibule": "vestibule.app.main:main"}
    (script,) = entry_points(group="console_scripts", name="vestibule")
    assert callable(script.load())


def test_error_codes_are_defined_only_in_modules_named_codes() -> None:
    elsewhere = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "codes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "define"
    ]
    assert elsewhere == []


def test_error_codes_and_their_names_are_unique_across_rooms() -> None:
    # `define` refuses a second use when both rooms are imported; this imports them all.
    codes = errors_docs.catalogue()
    assert codes
    assert len({code.code for code in codes}) == len({code.name for code in codes}) == len(codes)


def test_every_error_code_has_a_current_page() -> None:
    assert [str(path.relative_to(ROOT)) for path in errors_docs.outdated(errors_docs.expected())] == []


def test_links_between_documents_lead_somewhere() -> None:
    skipped = {".venv", ".vestibule"}
    documents = [path for path in ROOT.rglob("*.md") if not skipped & set(path.relative_to(ROOT).parts)]
    broken = [
        f"{document.relative_to(ROOT)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert len(documents) > 5
    assert broken == []


def test_every_decision_is_listed_and_numbered_once() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    listed = re.findall(r"\]\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == records
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))


def test_the_map_of_the_rooms_names_every_room() -> None:
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    named = set(
        re.findall(r"^\| [0-9–]? ?\| `([a-z]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    )
    assert rooms - {"__init__", "__main__"} <= named


def test_no_module_is_named_for_nothing() -> None:
    vague = {"utils", "util", "common", "base", "manager", "helpers", "misc"}
    assert [str(path) for path in PACKAGE.rglob("*") if path.stem in vague] == []


def test_no_distribution_shadows_a_room() -> None:
    # `vestibule` must come from this tree, or every other test proves something about another copy.
    spec = importlib.util.find_spec("vestibule")
    assert spec is not None
    assert spec.origin == str(PACKAGE / "__init__.py")
