"""YAML as we read it: YAML 1.2, nothing hidden, nothing twice, bounded."""

from __future__ import annotations

import pytest

from vestibule.intent.nodes import Broken, Kind, Mapping, Position, Scalar, Sequence, parse


def codes(text: str) -> list[str]:
    return [f"{flaw.at.line}:{flaw.at.column} {flaw.code.code}" for flaw in parse(text).flaws]


def test_values_know_where_they_stand() -> None:
    root = parse("a: [x, 'y']\nb: {c: 1}\n").root
    assert isinstance(root, Mapping)
    (_, first), (key, second) = root.entries
    assert isinstance(first, Sequence)
    assert [item.at for item in first.items] == [Position(1, 5), Position(1, 8)]
    assert (key.text, key.at) == ("b", Position(2, 1))
    assert isinstance(second, Mapping)


@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "y", "2030-01-01", "12:30:45", "0b1", "1_000", "010x"]
)
def test_what_only_old_yaml_converts_is_a_text(text: str) -> None:
    assert parse(text).root == Scalar(Position(1, 1), text, Kind.TEXT)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("null", Kind.NULL),
        ("~", Kind.NULL),
        ("true", Kind.BOOLEAN),
        ("-12", Kind.INTEGER),
        ("0o17", Kind.INTEGER),
        ("1e3", Kind.NUMBER),
        (".inf", Kind.NUMBER),
        ("'12'", Kind.TEXT),
    ],
)
def test_unquoted_values_have_their_kind(text: str, kind: Kind) -> None:
    root = parse(text).root
    assert isinstance(root, Scalar)
    assert root.kind is kind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &x 1", ["1:4 VST0011"]),
        ("a: &x {}\nb: *x", ["1:4 VST0011", "2:4 VST0011"]),
        ("a: !!str 1", ["1:4 VST0011"]),
        ("a: !!python/object:os.system {}", ["1:4 VST0011"]),
        ("%YAML 1.1\n---\na: on", ["2:1 VST0011"]),
        ("a: 1\n---\nb: 2", ["2:1 VST0011"]),
        ("? [a]\n: b", ["1:3 VST0011"]),
        ("a: 1\na: 2\na: 3", ["2:1 VST0012", "3:1 VST0012"]),
        ("a: 1\n'a': 2", ["2:1 VST0012"]),
        ("a:\n\tb: 1", ["2:1 VST0010"]),
        ("a: [1", ["1:6 VST0010"]),
        ("a: b: c", ["1:5 VST0010"]),
        ('a: "\\UFFFFFFFF"', ["1:1 VST0010"]),
        ('a: "\\ud800"', ["1:4 VST0014"]),
        ('a: "\\0"', ["1:4 VST0014"]),
        ("a: \u200bx", ["1:4 VST0014"]),
        ("\x00", ["1:1 VST0010"]),
        ("", ["1:1 VST0021"]),
        ("# only a comment\n", ["1:1 VST0021"]),
        ("[" * 17, ["1:17 VST0013"]),
    ],
)
def test_what_a_reviewer_could_misread_is_refused(text: str, expected: list[str]) -> None:
    assert codes(text) == expected


def test_a_tab_is_answered_with_spaces() -> None:
    (flaw,) = parse("a:\n\tb: 1").flaws
    assert flaw.advice is not None
    assert "spaces" in flaw.advice


def test_a_value_with_a_tag_is_not_looked_at_further() -> None:
    root = parse("a: !x {b: c}").root
    assert isinstance(root, Mapping)
    assert isinstance(root.entries[0][1], Broken)


def test_aliases_cannot_multiply() -> None:
    bomb = "a: &a [x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
    )
    assert {code[-7:] for code in codes(bomb)} == {"VST0011"}


def test_deep_nesting_ends_early() -> None:
    assert codes("[" * 100_000) == ["1:17 VST0013"]
    assert codes("\n".join(" " * n + "a:" for n in range(300))) == ["17:17 VST0013"]


def test_many_parts_end_early() -> None:
    (flaw,) = parse("[" + "a," * 220_000 + "]").flaws
    assert flaw.code.code == "VST0013"
