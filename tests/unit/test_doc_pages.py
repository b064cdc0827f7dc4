"""How pages of the documentation are read, and that a wrong answer is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.doc_pages import Command, Console, File, parts_of

PAGE = """\
Text, and a file:

```yaml
# shop/mesh.yaml
mesh: shop
```

```yaml
no: path, no file
```

```console
$ one
first
$ two \\
>   lines
$ echo $?
4
```

<!-- not run: needs root -->
```console
$ three
```

<!-- stays: ends with 4 -->

```console
$ four
```
"""


def answers(*lines: str) -> Command:
    return Command(place="page.md:1", text="command", answer=list(lines))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_a_page_is_files_and_commands_in_their_order(page: Path) -> None:
    file, first, third, fourth = parts_of(page)
    assert isinstance(file, File)
    assert (file.path, file.text) == ("shop/mesh.yaml", "# shop/mesh.yaml\nmesh: shop\n")
    assert isinstance(first, Console)
    assert [(each.text, each.answer) for each in first.commands] == [
        ("one", ["first"]),
        ("two \\\n  lines", []),
        ("echo $?", ["4"]),
    ]
    assert first.commands[1].place == "page.md:15"
    assert isinstance(third, Console)
    assert third.not_run == "needs root"
    assert isinstance(fourth, Console)
    assert (fourth.stays, fourth.ends_with) == (True, 4)


def test_an_ellipsis_is_anything_within_its_line() -> None:
    assert answers("version … of …").answered_by("version 1.2 of today\n")
    assert not answers("version …").answered_by("another version\n")


def test_an_ellipsis_alone_is_any_number_of_lines() -> None:
    assert answers("a", "…", "z").answered_by("a\nb\nc\nz\n")
    assert answers("a", "…", "z").answered_by("a\nz\n")
    assert not answers("a", "…", "z").answered_by("a\nb\n")


@pytest.mark.parametrize("output", ["", "a\n", "a\nb\nc\n", "b\na\n", "ab\n"])
def test_what_is_missing_added_or_moved_is_another_answer(output: str) -> None:
    assert not answers("a", "b").answered_by(output)


def test_blanks_do_not_matter_and_dots_are_dots() -> None:
    assert answers("a   b").answered_by("  a b  \n\n")
    assert not answers("1.2").answered_by("1x2\n")


def test_an_answer_without_a_command_is_a_mistake_in_the_page(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("```console\nanswer\n```\n")
    with pytest.raises(AssertionError, match="an answer without a command"):
        parts_of(tmp_path / "page.md")
