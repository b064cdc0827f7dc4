"""Every command in the documentation is run, and answers what the page says.

All pages share one ``vestibule up`` of the example shop, which runs in the directory in which their commands are
typed.  How a page is read stands in ``doc_pages``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.e2e.doc_pages import Command, Console, File, parts_of
from tests.e2e.doc_shell import Shell
from tests.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
SHOP: Final = ROOT / "examples" / "shop"
PAGES: Final = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if "```" in path.read_text(encoding="utf-8")),
]
UP: Final = "vestibule up shop"
"""What the pages take to be running; it is started once."""

FOREIGN: Final = ("VESTIBULE_", "SPIFFE_", "XDG_")
PORTS: Final = ("8081", "8082", "8083", "8443", "9081", "9082", "9441", "9442")
"""Ports that pages name, and that may be taken here: each page gets free ones in their place."""
PATIENCE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the commands of the pages are typed."""

    directory: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A scratch directory with the shop, and the shop running."""
    directory = Path(tempfile.mkdtemp(prefix="vd-", dir="/tmp"))
    try:
        shutil.copytree(SHOP, directory / "shop", ignore=shutil.ignore_patterns("__pycache__"))
        (directory / "examples").symlink_to(SHOP.parent)
        scene = Scene(directory, _environment(directory))
        log = directory / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                UP.split(),
                cwd=directory,
                env=dict(scene.environment),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _until(lambda: "sidecars after" in log.read_text() or process.poll() is not None, log)
            assert process.poll() is None, log.read_text()
            yield scene
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(3 * PATIENCE)
        assert status == 0, log.read_text()
        assert _processes_about(directory) == []
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_the_commands_of_a_page_answer_what_it_says(page: Path, scene: Scene) -> None:
    parts = parts_of(page)
    if not any(isinstance(part, Console) and not part.not_run for part in parts):
        return
    ports = [str(free_port()) for _ in PORTS]
    try:
        with Shell(scene.directory, scene.environment) as shell:
            for part in parts:
                _do(part, shell, scene, lambda text: _with_ports(text, ports))
    finally:
        _tidy_up(scene)


def test_what_is_not_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    left = [part for page in PAGES for part in parts_of(page) if isinstance(part, Console) and part.not_run]
    with capsys.disabled():
        for part in left:
            sys.stdout.write(f"\nnot run: {part.place}: {part.not_run}")
    reasons = ("needs ", "takes ", "makes ")
    assert [part.place for part in left if not part.not_run.startswith(reasons)] == []


def test_systemd_takes_the_units_as_they_stand(tmp_path: Path) -> None:
    units = [
        part for page in PAGES for part in parts_of(page) if isinstance(part, File) and "systemd" in part.path
    ]
    assert {Path(unit.path).suffix for unit in units} == {".service", ".conf"}
    ours = str(Path(sys.executable).parent / "vestibule")
    for unit in units:
        text = unit.text.replace("/opt/vestibule/bin/vestibule", ours)
        _, _, below = unit.path.partition("/systemd/system/")  # a drop-in lies in a directory of its unit
        (tmp_path / below).parent.mkdir(exist_ok=True)
        (tmp_path / below).write_text(text)
        (words,) = re.findall(r"^ExecStart=(.+?)(?: -- .*)?$", text, re.MULTILINE)
        # Options are read before help is given: an unknown one would be refused.
        asked = subprocess.run([*words.split(), "--help"], capture_output=True, text=True, timeout=120)
        assert asked.returncode == 0, f"{unit.place}: {asked.stderr}"
    if shutil.which("systemd-analyze"):
        paths = [str(path) for path in tmp_path.glob("*.service")]
        verified = subprocess.run(
            ["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=60
        )
        complaints = [line for line in verified.stderr.splitlines() if str(tmp_path) in line]
        assert complaints == []


def test_every_block_of_commands_is_marked_as_one() -> None:
    strays = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(_outside_console(page), start=1)
        if re.match(r"\s*[$#] (vestibule|curl|make|pip)\b", line)
    ]
    assert strays == []


def _do(part: Console | File, shell: Shell, scene: Scene, local: Callable[[str], str]) -> None:
    if isinstance(part, File):
        if not part.path.startswith("/"):
            path = scene.directory / part.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(local(part.text), encoding="utf-8")
        return
    if part.not_run:
        return
    following = [*(each.text for each in part.commands[1:]), ""]
    for command, after in zip(part.commands, following, strict=True):
        here = Command(
            place=command.place, text=local(command.text), answer=[local(each) for each in command.answer]
        )
        if part.stays and command.text != UP:
            shell.stay(here, part.ends_with)
        elif not part.stays:
            shell.run(here, may_fail=after == "echo $?")


def _environment(home: Path) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN) and not name.lower().endswith("_proxy")
    }
    path = f"{Path(sys.executable).parent}:{inherited.get('PATH', os.defpath)}"
    return {**inherited, "PATH": path, "HOME": str(home), "LC_ALL": "C.UTF-8", "COLUMNS": "200"}


def _tidy_up(scene: Scene) -> None:
    """The shop as it was, and nothing else: the next page's reader begins anew."""
    for path in scene.directory.iterdir():
        if path.name in (".vestibule", "up.log", "shop", "examples"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in SHOP.rglob("*.yaml"):
        ours = scene.directory / "shop" / path.relative_to(SHOP)
        if ours.read_bytes() != path.read_bytes():
            shutil.copy(path, ours)


def _with_ports(text: str, ports: list[str]) -> str:
    for named, ours in zip(PORTS, ports, strict=True):
        text = re.sub(rf"(?<=[: ]){named}\b", ours, text)
    return text


def _outside_console(page: Path) -> list[str]:
    inside = [part for part in parts_of(page) if isinstance(part, Console)]
    lines = page.read_text(encoding="utf-8").splitlines()
    for part in inside:
        begin = int(part.place.rpartition(":")[2])
        end = next(number for number in range(begin, len(lines)) if lines[number].rstrip() == "```")
        lines[begin:end] = [""] * (end - begin)
    return lines


def _processes_about(directory: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes()
        except OSError:
            continue
        if str(directory).encode() in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def _until(condition: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 3 * PATIENCE
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
