"""The page of xDS conformance: T1 to T27 are on it, with tests that exist."""

from __future__ import annotations

import re

import pytest
from tests.unit.test_conformance import TESTS, functions, named

PAGE = TESTS.parent / "docs" / "conformance-xds.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if re.match(r"\| T\d", line)
]


def test_every_test_of_the_list_stands_on_the_page_once_in_order() -> None:
    assert [row[0] for row in ROWS] == [f"T{number}" for number in range(1, 28)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_it_is_held_by_tests_that_exist(row: list[str]) -> None:
    tests = named(row[-1])
    assert tests
    assert len(tests) == row[-1].count("`") // 2, "each name is path::function"
    assert [f"{path}::{name}" for path, name in tests if name not in functions(path)] == []
