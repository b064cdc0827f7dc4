"""The page of the command line says what the program says."""

from __future__ import annotations

from scripts import cli_docs

from vestibule.app.main import COMMANDS


def test_the_page_of_the_command_line_is_current() -> None:
    assert cli_docs.PAGE.read_text(encoding="utf-8") == cli_docs.page(), "run `make docs`"


def test_every_command_has_a_section_with_its_options() -> None:
    sections = cli_docs.page().split("\n## vestibule ")[1:]
    assert {section.partition("\n")[0] for section in sections} == {
        path for path, lazy in COMMANDS.items() if not lazy.hidden
    }
    assert all("`--output`" in section for section in sections)


def test_options_for_supervisors_are_not_shown() -> None:
    assert "--supervisor-fd" not in cli_docs.page()
