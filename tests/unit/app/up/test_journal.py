"""While something else is on the terminal, log lines go to a private file."""

from __future__ import annotations

import logging
from pathlib import Path

from vestibule.app.up.journal import journal


def test_lines_go_to_a_private_file_and_afterwards_back(tmp_path: Path) -> None:
    before = logging.getLogger().handlers[:]
    with journal(tmp_path):
        logging.getLogger("vestibule.app").warning("the agent ended")
    assert logging.getLogger().handlers == before
    path = tmp_path / "up.log"
    assert "the agent ended" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
