"""What `scripts/bootstrap` says on machines that lack something; a working one is what runs these tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "cut", "dirname", "env", "flock", "rm", "sha256sum")


class Machine:
    """A directory with the files that bootstrap reads, and a PATH with nothing but what is put there."""

    def __init__(self, home: Path) -> None:
        self.project = home / "project"
        self.bin = home / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, f"{tool} is needed to bootstrap"
            (self.bin / tool).symlink_to(found)
        shutil.copytree(ROOT / "requirements", self.project / "requirements")
        (self.project / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "bootstrap", self.project / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.project)

    def put(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def bootstrap(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.project / "scripts" / "bootstrap", *arguments],
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_the_venv_module_it_names_the_package_of_this_python(machine: Machine) -> None:
    machine.put("python3", f'case "$*" in *ensurepip*) exit 1;; *) exec {sys.executable} "$@";; esac')
    result = machine.bootstrap("all")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert result.returncode != 0
    assert f"apt-get install python{version}-venv" in result.stderr


def test_a_python_that_is_too_old_is_passed_over_and_named(machine: Machine) -> None:
    machine.put("python3", 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi')
    result = machine.bootstrap("all")
    assert result.returncode != 0
    assert "Python 3.9.2" in result.stderr
    assert "fix: " in result.stderr


def test_the_python_asked_for_is_used_or_refused(machine: Machine) -> None:
    machine.put("python3", f'exec {sys.executable} "$@"')
    machine.put("other", "exit 1")
    result = machine.bootstrap("all", PYTHON="other")
    assert result.returncode != 0
    assert "PYTHON=other is not" in result.stderr


def test_an_unknown_extent_is_a_usage_error(machine: Machine) -> None:
    assert machine.bootstrap("everything").returncode == 2
