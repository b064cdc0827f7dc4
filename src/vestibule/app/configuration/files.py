"""Reading a configuration file: into typed values, or into everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.configuration.meanings import AGENT, SERVER, SPIRE, Meaning
from vestibule.app.configuration.shapes import plain, record_of
from vestibule.errors import SeveralError, VestibuleError, Where
from vestibule.intent import codes
from vestibule.intent.nodes import Mapping as MappingNode
from vestibule.intent.nodes import Position, parse
from vestibule.intent.problems import Findings
from vestibule.intent.shapes import Schema

MAX_BYTES: Final = 1024 * 1024


class Configuration:
    """One kind of configuration file: the settings class that it fills."""

    def __init__(self, kind: str, settings: type[Any], meanings: Mapping[str, Meaning]) -> None:
        self.kind = kind
        self.settings = settings
        self.meanings = meanings
        self.record = record_of(f"the {kind}'s file", settings, self._describe)

    def _describe(self, name: str) -> str:
        # A test, not a start in production, tells that a sentence is missing.
        return self.meanings[name].text if name in self.meanings else ""

    def schema(self) -> Schema:
        """The JSON Schema of a file, for editors."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"Vestibule {self.kind} configuration",
            **self.record.schema(),
        }

    def read(self, path: Path) -> ReadFile:
        """The values in a file.  Raises: ``SeveralError``, each with file, line and column."""
        found = Findings(str(path))
        root = _parsed(path, found)
        values: dict[str, Any] = {}
        places: dict[str, Position] = {}
        if root is not None:
            fields = self.record.read(self._without_spires(root, found), found)
            for key in self.record.keys if fields else ():
                if fields and (value := fields.value.get(key)) is not None:
                    values[key.name] = plain(value.value)
                if fields and (place := fields.value.place(key)) is not None:
                    places[key.name] = place
        if problems := [each.error for each in found.problems()]:
            raise SeveralError(problems)
        return ReadFile(path, values, places)

    def _without_spires(self, root: MappingNode, found: Findings) -> MappingNode:
        """Keys that somebody brought from SPIRE are told apart from misspelt ones."""
        known = {key.name for key in self.record.keys}
        ours = []
        for name, value in root.entries:
            if name.text not in known and (said := SPIRE.get(f"{self.kind}.{name.text}")) is not None:
                message = f"{name.text!r} is a key of SPIRE's configuration"
                found.add(codes.UNKNOWN_KEY, message, name.at, advice=f"Here: {said}.")
            else:
                ours.append((name, value))
        return MappingNode(root.at, tuple(ours))


class ReadFile:
    """What a file said, and where."""

    def __init__(self, path: Path, values: Mapping[str, Any], places: Mapping[str, Position]) -> None:
        self.path = path
        self.values = values
        self._places = places

    def located(self, error: VestibuleError) -> VestibuleError:
        """An objection to the settings as a whole, with the place of the first setting that it names."""
        if error.where is not None:
            return error
        words = re.findall(r"[a-z][a-z0-9_]+", error.message)
        place = next((self._places[word] for word in words if word in self._places), None)
        where = Where(
            file=str(self.path), line=place.line if place else None, column=place.column if place else None
        )
        return error.code.error(error.message, advice=error.advice, where=where)


def _parsed(path: Path, found: Findings) -> MappingNode | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error.strerror or "it is not there") from error
    if len(content) > MAX_BYTES:
        raise _unreadable(path, f"it is larger than {MAX_BYTES} bytes")
    try:
        document = parse(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _unreadable(path, "it is not UTF-8") from error
    found.add_flaws(document.flaws)
    if document.root is None:
        return None
    if not isinstance(document.root, MappingNode):
        found.add(codes.WRONG_TYPE, "the file is not a mapping of settings", document.root.at)
        return None
    return document.root


def _unreadable(path: Path, reason: str) -> VestibuleError:
    return INVALID_SETTING.error(f"{path} cannot be read: {reason}", where=Where(file=str(path)))


@lru_cache(maxsize=1)
def server_configuration() -> Configuration:
    """The server's."""
    from vestibule.app.server_settings import ServerSettings

    return Configuration("server", ServerSettings, SERVER)


@lru_cache(maxsize=1)
def agent_configuration() -> Configuration:
    """The agent's."""
    from vestibule.app.agent import AgentSettings

    return Configuration("agent", AgentSettings, AGENT)
