"""Values for ``vestibule secret``: never from the command line, never onto a terminal unless that is asked for."""

from __future__ import annotations

import json
import secrets
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from rich.markup import escape

from vestibule.cli.codes import USAGE
from vestibule.cli.output import console

MASK: Final = "••••••••"
GENERATED: Final = 32
"""Characters of a value that is made."""

LARGEST: Final = 1024 * 1024
_LETTERS: Final = string.ascii_letters + string.digits
_NOT_HERE: Final = (
    "Write KEY=- and give the value on standard input, KEY=@FILE to read a file, or KEY alone to be asked. "
    "What stands on a command line is in the process list and in the shell's history."
)


def values_of(fields: Sequence[str], file: Path | None) -> dict[str, Any]:
    """What is to be kept: by fields, or a JSON object from a file or standard input.  Raises: VST9100."""
    if file is not None and fields:
        raise USAGE.error("put takes fields, or --file, and not both")
    if not fields:
        return _object(_content(file) if file is not None and str(file) != "-" else _standard_input())
    if sum(each.endswith("=-") for each in fields) > 1:
        raise USAGE.error("only one value comes from standard input", advice="Give a JSON object instead.")
    found: dict[str, Any] = {}
    for each in fields:
        name, equals, source = each.partition("=")
        if not name or name in found:
            raise USAGE.error(f"the field {name[:60]!r} is {'given twice' if name else 'without a name'}")
        found[name] = _value(name, source) if equals else _asked(name)
    return found


def _value(name: str, source: str) -> str:
    if source == "-":
        return _text(_standard_input().removesuffix(b"\n"), name)
    if source.startswith("@"):
        return _text(_content(Path(source[1:])), name)
    raise USAGE.error(f"the value of {name[:60]!r} stands on the command line", advice=_NOT_HERE)


def _asked(name: str) -> str:
    if not sys.stdin.isatty():
        raise USAGE.error(f"nobody is there to be asked for {name[:60]!r}", advice=_NOT_HERE)
    value: str = typer.prompt(name, hide_input=True, confirmation_prompt=True, err=True)
    return value


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise USAGE.error(
            f"the value of {name[:60]!r} is not UTF-8", advice="Encode it, in base64 say."
        ) from None


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        found = None  # what the parser says quotes the value
    if not isinstance(found, dict):
        raise USAGE.error(
            'what is to be kept is not a JSON object, such as {"password": "…"}', advice=_NOT_HERE
        )
    return found


def _content(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise USAGE.error(f"{file} cannot be read: {error.strerror}") from error
    return _bounded(content)


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise USAGE.error("standard input is a terminal", advice=_NOT_HERE)
    return _bounded(sys.stdin.buffer.read(LARGEST + 1))


def _bounded(content: bytes) -> bytes:
    if len(content) > LARGEST:
        raise USAGE.error(f"a secret has at most {LARGEST} bytes")
    return content


def generated() -> str:
    """A new password."""
    return "".join(secrets.choice(_LETTERS) for _ in range(GENERATED))


def hides(raw: bool) -> bool:
    """Whether values are masked: on terminals, where others look and scrollback stays."""
    return not raw and sys.stdout.isatty()


def masked(data: Mapping[str, Any] | None, hide: bool) -> dict[str, Any] | None:
    """Fields with their values, or with what stands for them."""
    if data is None:
        return None
    return dict.fromkeys(data, MASK) if hide else dict(data)


def show(data: Mapping[str, Any] | None, hide: bool) -> None:
    """For people the fields, for pipes JSON."""
    if not hide:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        return
    for name in data or {}:
        console.print(f"{escape(name)}  [dim]{MASK}[/]")
    console.print("[dim]--raw shows the values[/]")
