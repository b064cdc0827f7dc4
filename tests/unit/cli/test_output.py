"""How texts for people are laid out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from vestibule.cli.output import Terminal, complaints, console, sentence

LONG = (
    "a sentence that is longer than the terminal is wide, with spiffe://example.org/ns/prod/sa/payments in it"
)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_long_sentence_is_broken_between_words_on_a_terminal_only(terminal: bool) -> None:
    printed = io.StringIO()
    console = Console(file=printed, width=50, force_terminal=terminal, soft_wrap=True, color_system=None)
    sentence(console, "  fix:", LONG)
    lines = printed.getvalue().rstrip("\n").split("\n")
    assert (len(lines) > 1) is terminal
    assert " ".join(" ".join(lines).split()) == f"fix: {LONG}"
    assert all(line.startswith("       ") for line in lines[1:]), (
        "they stand below the text, not below the mark"
    )


def test_what_strangers_wrote_moves_no_cursor() -> None:
    printed = io.StringIO()
    table = Table(box=None)
    table.add_column("PATH")
    table.add_row("/x\x1b]0;title\x07\x9b2J\u202eend")
    target = Terminal(file=printed, highlight=False, soft_wrap=True)
    target.print("a\x1b[31mb\x9bc")
    target.print(table)
    shown = printed.getvalue()
    assert shown.startswith("a\ufffd[31mb\ufffdc\n")
    assert "/x\ufffd]0;title\ufffd\ufffd2J\ufffdend" in shown
    assert isinstance(console, Terminal)
    assert isinstance(complaints, Terminal)


def test_colours_of_our_own_are_left() -> None:
    printed = io.StringIO()
    Terminal(file=printed, force_terminal=True, color_system="standard").print("[red]no[/]")
    assert "\x1b[31mno" in printed.getvalue()
