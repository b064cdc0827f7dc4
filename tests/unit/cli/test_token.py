"""``vestibule token generate --write``."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from vestibule.cli import token
from vestibule.cli.output import Exit


def test_no_token_no_file(tmp_path: Path) -> None:
    with pytest.raises(typer.Exit) as left:
        token.generate(write=tmp_path / "token", server_socket=tmp_path / "nobody.sock")
    assert left.value.exit_code == Exit.UNREACHABLE
    assert not (tmp_path / "token").exists()


def test_an_existing_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("precious")
    with pytest.raises(typer.Exit) as left:
        token.generate(write=tmp_path / "token", server_socket=tmp_path / "nobody.sock")
    assert left.value.exit_code == Exit.USAGE
    assert "VST9100" in capsys.readouterr().err
    assert (tmp_path / "token").read_text() == "precious"
