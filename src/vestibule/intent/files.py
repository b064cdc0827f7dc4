"""The files of an intent, in a directory or any other tree, and what is wrong with them as files."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from vestibule.errors import ErrorCode, Where
from vestibule.intent import codes
from vestibule.intent.key_sets import holds_private_keys
from vestibule.intent.problems import Problem, nearest
from vestibule.intent.words import NAME

MESH: Final = "mesh.yaml"
UP: Final = "up.yaml"
SERVICES: Final = "services"
EGRESS: Final = "egress"
GATEWAYS: Final = "gateways"
CERTS: Final = "certs"
KEYS: Final = "keys"
SECRETS: Final = "secrets"
TOKENS: Final = "tokens"
ENVIRONMENTS: Final = "environments"
MAX_BYTES: Final = 1024 * 1024
_YAML: Final = (".yaml", ".yml")
# What is read of each folder.
_FOLDERS: Final = {
    **dict.fromkeys((SERVICES, EGRESS, GATEWAYS, SECRETS, TOKENS), ".yaml"),
    CERTS: ".pem",
    KEYS: ".json",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a folder."""

    name: str
    is_dir: bool


class Tree(Protocol):
    """Where files are read from: a directory of this machine, or a commit.  Both methods may raise ``OSError``."""

    def listing(self, folder: str) -> Sequence[Entry]:
        """What is in a folder; that of the tree itself is ``""``."""
        ...

    def content(self, name: str) -> bytes | None:
        """At most one byte more than ``MAX_BYTES`` of a file; None for what is no regular file."""
        ...


class Directory:
    """A ``Tree`` on disk.  Links are followed, since a checkout may consist of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def listing(self, folder: str) -> Sequence[Entry]:
        """As the disk has it now."""
        with os.scandir(self._directory / folder) as entries:
            return [Entry(entry.name, entry.is_dir()) for entry in entries]

    def content(self, name: str) -> bytes | None:
        """Without waiting, as for a FIFO."""
        descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return file.read(MAX_BYTES + 1)


def read_tree(tree: Tree) -> tuple[dict[str, bytes], tuple[Problem, ...]]:
    """Every file that is intent, by its path relative to the root of ``tree``, and what else was found.

    Hidden files are no intent, nor is anything that does not look like YAML.
    """
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    try:
        for name in _wanted(tree, problems):
            if name != UP and not _is_an_environments_up(name):
                _read_into(files, tree, name, problems)
    except OSError as error:
        problems.append(problem(codes.NO_INTENT, _reason("the directory cannot be read", error), "."))
    return files, tuple(problems)


def read_file(tree: Tree, name: str) -> tuple[bytes | None, Problem | None]:
    """One file, or why it cannot be read."""
    try:
        content = tree.content(name)
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


def _wanted(tree: Tree, problems: list[Problem], root: str = "") -> Iterator[str]:
    """The files of an intent at ``root``: of the tree's own, or of one environment."""
    for entry in _listing(tree, root.rstrip("/")):
        name = f"{root}{entry.name}"
        if entry.is_dir and not root and _is_or_resembles(entry.name, (ENVIRONMENTS,)):
            yield from _wanted_environments(tree, entry.name, problems)
        elif entry.is_dir:
            yield from _wanted_folder(tree, root, entry.name, problems)
        elif entry.name in (MESH, UP):
            yield name
        elif entry.name.endswith(_YAML):
            advice = _rename(entry.name, (MESH, UP))
            problems.append(problem(codes.STRAY_FILE, "this file is not read", name, advice=advice))


def _wanted_environments(tree: Tree, folder: str, problems: list[Problem]) -> Iterator[str]:
    for entry in _listing(tree, folder):
        name = f"{folder}/{entry.name}"
        if entry.is_dir and folder == ENVIRONMENTS and re.fullmatch(NAME, entry.name):
            yield from _wanted(tree, problems, f"{name}/")
        elif entry.is_dir or entry.name.endswith(_YAML):
            what = "folder" if entry.is_dir else "file"
            problems.append(problem(codes.STRAY_FILE, f"this {what} is not read", name))


def _wanted_folder(tree: Tree, root: str, folder: str, problems: list[Problem]) -> Iterator[str]:
    if not _is_or_resembles(folder, _FOLDERS):
        return
    suffix = _FOLDERS.get(folder)
    for entry in _listing(tree, f"{root}{folder}"):
        name = f"{root}{folder}/{entry.name}"
        if suffix and entry.name.endswith(suffix) and not entry.is_dir:
            yield name
        elif entry.name.endswith(_YAML) or (suffix and entry.is_dir):
            what = "folder" if entry.is_dir else "file"
            problems.append(problem(codes.STRAY_FILE, f"this {what} is not read", name))


def _is_or_resembles(folder: str, known: Collection[str]) -> bool:
    return folder in known or nearest(folder, known) is not None


def _listing(tree: Tree, folder: str) -> list[Entry]:
    visible = [entry for entry in tree.listing(folder) if not entry.name.startswith(".")]
    return sorted(visible, key=lambda entry: entry.name)


def _rename(name: str, names: tuple[str, ...]) -> str | None:
    close = nearest(name, names)
    return f"Did you mean {close!r}?" if close else None


def _read_into(files: dict[str, bytes], tree: Tree, name: str, problems: list[Problem]) -> None:
    content, found = read_file(tree, name)
    if content is not None and name.startswith(f"{CERTS}/") and b"PRIVATE KEY" in content:
        # Never kept: what is read goes on into histories and plans.
        found = problem(
            codes.NOT_CERTIFICATES, "this file holds a private key", name, advice=codes.KEY_ADVICE
        )
    elif content is not None and name.startswith(f"{KEYS}/") and holds_private_keys(content):
        found = problem(codes.NOT_KEYS, "this file holds a private key", name, advice=codes.KEY_ADVICE)
    elif content is not None:
        files[name] = content
    if found:
        problems.append(found)


def _reason(what: str, error: OSError) -> str:
    return f"{what}: {error.strerror or type(error).__name__}"


def _is_an_environments_up(name: str) -> bool:
    parts = name.split("/")
    return parts[0] == ENVIRONMENTS and parts[2:] == [UP]
