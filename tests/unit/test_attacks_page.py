"""The page of attacks names tests, and each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/attacks.md"


def test_every_attack_has_a_test_that_is_there() -> None:
    known = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(
            r"^\s*(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for row in rows:
        test = row.split("|")[3].strip()
        if test == "test":
            continue
        named = re.findall(r"`(test_\w+)`", test)
        files = re.findall(r"`(tests/[\w/.]+)`", test)
        assert named or files or test.startswith("the same"), row
        assert not set(named) - known, row
        assert all((ROOT / file).exists() for file in files), row


def test_every_file_of_tests_that_the_page_names_is_there() -> None:
    for file in re.findall(r"`(tests/[\w/.]+\.py)`", PAGE.read_text(encoding="utf-8")):
        assert (ROOT / file).exists(), file
