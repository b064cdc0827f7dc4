"""The page of conformance: every rule is on it, with tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "conformance.md"
RULES = [
    f"{letter}{number}"
    for letter, last in {"S": 5, "X": 8, "J": 5, "E": 5, "W": 9, "B": 4, "F": 7, "T": 3}.items()
    for number in range(1, last + 1)
]
BUGS = 7
SUITES = [
    "join-token",
    "node-attestation",
    "node-re-attestation",
    "evict-agent",
    "rotation",
    "nested-rotation",
    "force-rotation-self-signed",
    "force-rotation-upstream-authority",
    "force-rotation-jwt-authority",
    "entries",
    "events-based-entries",
    "sync-authorized-entries",
    "fetch-x509-svids",
    "fetch-jwt-svids",
    "fetch-wit-svids",
    "admin-endpoints",
    "downstream-endpoints",
    "delegatedidentity",
    "debug-endpoints",
    "spire-server-cli",
    "agent-cli",
    "envoy-sds-v3",
    "envoy-sds-v3-spiffe-auth",
    "ghostunnel-federation",
    "oidc-discovery-provider",
    "svidstore",
    "workloadattestor",
    "upgrade",
    "datastore-postgres",
]


def rows(title: str, page: str | None = None) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    _, _, section = (page or PAGE.read_text(encoding="utf-8")).partition(f"\n## {title}\n")
    lines = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(cell: str) -> list[tuple[str, str]]:
    return re.findall(r"`([\w/]+\.py)::(test_\w+)`", cell)


@cache
def functions(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(
        each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_rule_stands_on_the_page_once_in_order_with_its_section() -> None:
    found = rows("The standards")
    assert [row[0] for row in found] == RULES
    assert [row for row in found if not (row[1] and re.search(r"§\d", row[2]))] == []


def test_every_bug_and_every_suite_stands_on_the_page() -> None:
    assert len({row[0] for row in rows("Security bugs that SPIRE had")}) == BUGS
    assert [row[0] for row in rows("SPIRE's integration suites")] == SUITES


@pytest.mark.parametrize(
    "row",
    [
        row
        for title in ("The standards", "Security bugs that SPIRE had", "SPIRE's integration suites")
        for row in rows(title)
    ],
    ids=lambda row: row[0][:40],
)
def test_it_is_held_by_tests_that_exist(row: list[str]) -> None:
    tests = named(row[-1])
    assert tests, f"{row[0]} has no test"
    assert len(tests) == row[-1].count("`") // 2, "each name is path::function"
    missing = [
        f"{path}::{name}"
        for path, name in tests
        if not (TESTS / path).is_file() or name not in functions(path)
    ]
    assert missing == []


def test_each_test_that_is_named_after_a_rule_stands_at_that_rule() -> None:
    held = {row[0]: {name for _, name in named(row[-1])} for row in rows("The standards")}
    astray = []
    for path in TESTS.rglob("test_*.py"):
        for name in functions(str(path.relative_to(TESTS))):
            if found := re.match(r"test_([sxjewbft]\d)(?:(?:_and)?_([sxjewbft]\d))?_", name):
                astray += [(rule, name) for rule in found.groups() if rule and name not in held[rule.upper()]]
    assert astray == []
