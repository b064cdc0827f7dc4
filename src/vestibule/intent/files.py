"""The files of an intent directory, and what is wrong with them as files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vestibule.errors import ErrorCode, Where
from vestibule.intent import codes
from vestibule.intent.problems import Problem, nearest

MESH: Final = "mesh.yaml"
UP: Final = "up.yaml"
SERVICES: Final = "services"
EGRESS: Final = "egress"
MAX_BYTES: Final = 256 * 1024
_YAML: Final = (".yaml", ".yml")


def read_directory(directory: Path) -> tuple[dict[str, bytes], tuple[Problem, ...]]:
    """Every file that is intent, by its path relative to ``directory``, and what else was found.

    Hidden files are no intent, nor is anything that does not look like YAML.
    """
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    try:
        for name in _wanted(directory, problems):
            if name != UP:
                _read_into(files, directory, name, problems)
    except OSError as error:
        problems.append(problem(codes.NO_INTENT, _reason("the directory cannot be read", error), "."))
    return files, tuple(problems)


def read_file(directory: Path, name: str) -> tuple[bytes | None, Problem | None]:
    """One file, or why it cannot be read."""
    try:
        content = _content(directory / name)
    except FileNotFoundError:
        advice = (
            "Write up.yaml beside mesh.yaml: apps: {web: {run: [python, web.py]}}." if name == UP else None
        )
        return None, problem(codes.NO_INTENT, f"there is no {name}", name, advice=advice)
    except OSError as error:
        return None, problem(codes.UNREADABLE_FILE, _reason("the file cannot be read", error), name)
    if content is None:
        return None, problem(codes.UNREADABLE_FILE, "this is no regular file", name)
    if len(content) > MAX_BYTES:
        return None, problem(codes.UNREADABLE_FILE, f"the file is larger than {MAX_BYTES} bytes", name)
    return content, None


def problem(code: ErrorCode, message: str, name: str, *, advice: str | None = None) -> Problem:
    """A problem with a whole file."""
    return Problem(code=code, message=message, advice=advice or code.advice, where=Where(file=shown(name)))


def shown(name: str) -> str:
    """A file name as it may be printed: file names can hold anything, also bytes that are no text."""
    return (
        name
        if name.isprintable()
        else os.fsencode(name).decode("utf-8", "replace").encode("unicode_escape").decode("ascii")
    )


def _wanted(directory: Path, problems: list[Problem]) -> Iterator[str]:
    for entry in _listing(directory):
        if entry.is_dir():
            yield from _wanted_folder(directory, entry.name, problems)
        elif entry.name in (MESH, UP):
            yield entry.name
        elif entry.name.endswith(_YAML):
            advice = _rename(entry.name, (MESH, UP))
            problems.append(problem(codes.STRAY_FILE, "this file is not read", entry.name, advice=advice))


def _wanted_folder(directory: Path, folder: str, problems: list[Problem]) -> Iterator[str]:
    if folder not in (SERVICES, EGRESS) and not nearest(folder, (SERVICES, EGRESS)):
        return
    for entry in _listing(directory / folder):
        name = f"{folder}/{entry.name}"
        if folder == SERVICES and entry.name.endswith(".yaml") and not entry.is_dir():
            yield name
        elif folder == EGRESS and entry.name.endswith(_YAML):
            message = "external destinations are not supported by this version"
            problems.append(problem(codes.NOT_SUPPORTED, message, name))
        elif entry.name.endswith(_YAML) or (folder == SERVICES and entry.is_dir()):
            what = "folder" if entry.is_dir() else "file"
            problems.append(problem(codes.STRAY_FILE, f"this {what} is not read", name))


def _listing(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _rename(name: str, names: tuple[str, ...]) -> str | None:
    close = nearest(name, names)
    return f"Did you mean {close!r}?" if close else None


def _read_into(files: dict[str, bytes], directory: Path, name: str, problems: list[Problem]) -> None:
    content, found = read_file(directory, name)
    if content is not None:
        files[name] = content
    if found:
        problems.append(found)


def _content(path: Path) -> bytes | None:
    """At most one byte more than allowed; None for what is no regular file, such as a FIFO, without waiting."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return file.read(MAX_BYTES + 1)


def _reason(what: str, error: OSError) -> str:
    return f"{what}: {error.strerror or type(error).__name__}"
