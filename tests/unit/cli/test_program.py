"""The program as a whole: every command is there, and none is loaded before it runs."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vestibule import __version__
from vestibule.app.main import COMMANDS, GROUPS, cli
from vestibule.cli.durations import parse_duration
from vestibule.cli.output import Exit, Output, run
from vestibule.errors import VestibuleError

# Typer itself may load pydantic.
HEAVY = ("grpclib", "sqlalchemy", "google.protobuf", "cryptography", "uvloop", "starlette")


def invoke(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and everything printed."""
    with pytest.raises(SystemExit) as ended:
        cli(list(arguments))
    printed = capsys.readouterr()
    code = ended.value.code
    return code if isinstance(code, int) else 0, printed.out + printed.err


@pytest.mark.parametrize("arguments", [["--help"], ["entry", "--help"], ["--version"]])
def test_listing_commands_loads_none_of_them(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vestibule.app.main import cli\n"
        f"try: cli({arguments!r})\nexcept SystemExit: pass\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_what_stands_in_brackets_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = invoke(capsys, "trace", "--help")
    assert (code, "[default: of `up` here" in output) == (0, True)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = invoke(capsys, *command.split(), "--help")
    assert (code, "Usage:" in output) == (0, True)


def test_every_group_has_its_line() -> None:
    words = [path.split(" ") for path in COMMANDS]
    assert {" ".join(path[:depth]) for path in words for depth in range(1, len(path))} == set(GROUPS)


def test_a_mistyped_command_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = invoke(capsys, "entri")
    assert (code, "'entry'" in output) == (2, True)


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    _, output = invoke(capsys)
    assert "Run everything on this machine" in output


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(capsys, "--version") == (0, f"vestibule {__version__}\n")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86400), (" 7d ", 604800)])
def test_durations_carry_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "10", "h", "1.5h", "-1s", "1h30m", "999999999d", "1 h", "24856d"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(VestibuleError, match="VST9100"):
        parse_duration(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["entry", "create", "--output", "json"],
        ["entry", "show", "--nope", "-o", "json"],
        ["entry", "shwo", "--output=json"],
    ],
)
def test_a_program_that_calls_wrongly_gets_its_envelope(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = invoke(capsys, *arguments)
    [error] = json.loads(output)["errors"]
    assert (code, error["code"]) == (2, "VST9100")
    assert error["message"]
    assert "--help" in error["advice"]


def test_what_belongs_to_an_app_is_not_an_option_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    code, output = invoke(capsys, "sidecar", "--nope", "--", "app", "--output", "json")
    assert (code, output.startswith("{")) == (2, False)


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_answer_that_cannot_be_written_is_said_on_the_other_channel(form: str) -> None:
    code = (
        "from vestibule.cli.output import Exit, Output, answer, console, run\n"
        f"form = Output({form!r})\n"
        "async def main():\n"
        "    answer(form, 'x', {}, lambda: console.print('x'))\n"
        "    return Exit.FINE\n"
        "import typer\n"
        "try: run(form, 'x', main)\n"
        "except typer.Exit as end: raise SystemExit(end.exit_code)\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 4
    assert "VST9103 the answer cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device", "/some/file"),
        ExceptionGroup(
            "tasks", [ExceptionGroup("inner", [OSError(errno.ENOSPC, "No space left", "/some/file")])]
        ),
    ],
    ids=["plain", "in a task"],
)
def test_a_disk_without_room_ends_a_command_with_words(
    failure: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> Exit:
        raise failure

    with pytest.raises(typer.Exit) as end:
        run(Output.JSON, "x", main)
    [error] = json.loads(capsys.readouterr().out)["errors"]
    assert (end.value.exit_code, error["code"]) == (4, "VST9104")
    assert "/some/file" in error["message"]


def test_other_failures_keep_their_trace() -> None:
    async def main() -> Exit:
        raise ExceptionGroup("tasks", [OSError(errno.EIO, "broken"), ValueError("a mistake")])

    with pytest.raises(ExceptionGroup):
        run(Output.TEXT, "x", main)
