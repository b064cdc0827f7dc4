"""As much of HCL 1 as configuration files of spiffe-helper are written in: keys, blocks, lists, objects, comments.

An object is a dictionary; a block is a key whose value is an object; what is given twice is an error.  Numbers keep
their text, since ``0644`` and ``644`` mean different things there.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from vestibule.errors import VestibuleError, Where
from vestibule.sdk.files.codes import HELPER_CONFIG


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written."""

    text: str


Value: TypeAlias = "str | bool | Number | list[Value] | dict[str, Value]"

_SPACE: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_NUMBER: Final = re.compile(r"-?[0-9][0-9A-Za-z_.]*")
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_DEEPEST: Final = 16
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_ESCAPE: Final = re.compile(r"\\(.)")


def read_hcl(text: str, file: str) -> dict[str, Value]:
    """The document's object.  Raises: VST2455, with the place."""
    if text.lstrip().startswith("{"):
        return _read_json(text, file)
    reader = _Reader(text, file)
    found = reader.members(end="", depth=0)
    reader.skip()
    return found


def _read_json(text: str, file: str) -> dict[str, Value]:
    try:
        found = json.loads(text, parse_int=_decimal, parse_float=Number)
    except (ValueError, RecursionError) as error:
        raise HELPER_CONFIG.error(f"it is not JSON: {error}", where=Where(file=file)) from error
    return dict(found)


def _decimal(text: str) -> Number:
    # JSON has no octal numbers: 420 is 0644.
    return Number(f"0{int(text):o}" if text.isdigit() else text)


class _Reader:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._at = 0

    def members(self, end: str, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        while not self._ends(end):
            name = self._name()
            if name in found:
                raise self._wrong(f"{name} is given twice")
            if self._takes("=") or self._takes(":"):
                found[name] = self._value(depth)
            elif self._takes("{"):
                found[name] = self.members("}", self._deeper(depth))
            else:
                raise self._wrong(f"after {name} comes neither = nor a block")
            self._takes(",")
        return found

    def skip(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _value(self, depth: int) -> Value:
        if self._takes("["):
            return self._list(self._deeper(depth))
        if self._takes("{"):
            return self.members("}", self._deeper(depth))
        if (text := self._token(_STRING)) is not None:
            return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[0]), text[1:-1])
        if (text := self._token(_NUMBER)) is not None:
            return Number(text)
        if (text := self._token(_WORD)) in ("true", "false"):
            return text == "true"
        raise self._wrong("here a value has to stand: a string, a number, true, false, a list or an object")

    def _list(self, depth: int) -> list[Value]:
        found: list[Value] = []
        while not self._ends("]"):
            found.append(self._value(depth))
            if not self._takes(",") and not self._ends("]", take=False):
                raise self._wrong("a list lacks a comma or its end")
        return found

    def _name(self) -> str:
        if (text := self._token(_WORD)) is not None:
            return text
        if (text := self._token(_STRING)) is not None:
            return text[1:-1]
        raise self._wrong("here a key has to stand")

    def _ends(self, end: str, *, take: bool = True) -> bool:
        self.skip()
        if self._at == len(self._text):
            if end:
                raise self._wrong(f"the file ends before {end}")
            return True
        if not end or self._text[self._at] != end:
            return False
        self._at += take
        return True

    def _takes(self, sign: str) -> bool:
        self.skip()
        taken = self._text.startswith(sign, self._at)
        self._at += taken
        return taken

    def _token(self, pattern: re.Pattern[str]) -> str | None:
        self.skip()
        match = pattern.match(self._text, self._at)
        if match is None:
            return None
        self._at = match.end()
        return match[0]

    def _deeper(self, depth: int) -> int:
        if depth >= _DEEPEST:
            raise self._wrong("it is nested too deeply")
        return depth + 1

    def _wrong(self, what: str) -> VestibuleError:
        before = self._text[: self._at]
        line, column = before.count("\n") + 1, self._at - before.rfind("\n")
        return HELPER_CONFIG.error(what, where=Where(file=self._file, line=line, column=column))
