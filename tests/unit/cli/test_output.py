"""How texts for people are laid out."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from vestibule.cli.output import sentence

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
