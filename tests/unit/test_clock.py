"""Where the data of time zones is found."""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
from pathlib import Path

import pytest

from vestibule import clock
from vestibule.clock import time_zones


def test_the_machines_own_time_zones_need_no_word(tmp_path: Path) -> None:
    assert time_zones(tmp_path) is None


def test_without_them_those_of_the_package_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tzdata" / "__init__.py"
    found = importlib.machinery.ModuleSpec("tzdata", None, origin=str(package))
    monkeypatch.setattr(clock, "find_spec", lambda _: found)
    assert time_zones(tmp_path / "none") == tmp_path / "tzdata" / "zoneinfo"
    monkeypatch.setattr(clock, "find_spec", lambda _: None)
    assert time_zones(tmp_path / "none") is None


def test_a_condition_finds_its_time_zone_where_tzdir_says(tmp_path: Path) -> None:
    program = """
from vestibule.errors import VestibuleError
from vestibule.policy import Condition
try:
    Condition.parse("request.time.getHours('Europe/Paris') == 1")
except VestibuleError as error:
    print(error.message)
"""
    for directory, told in ((tmp_path, "which is not known here: install"), (clock.TIME_ZONES, "")):
        shown = subprocess.run(
            [sys.executable, "-c", program],
            env={"TZDIR": str(directory)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told in shown.stdout
        assert bool(told) is bool(shown.stdout)
