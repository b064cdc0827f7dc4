"""Which regular expressions may stand in a condition: such as every proxy can load, none larger than it looks.

Envoy refuses a whole configuration for one regular expression whose RE2 program has more than 100 instructions.  What
is counted here is at least what RE2 makes of an expression; what cannot be counted is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_LENGTH: Final = 256
MAX_PROGRAM: Final = 96
"""Instructions; four more are RE2's own."""

_TOO_LARGE: Final = "is larger than proxies take"
_ANY: Final = 10  # of a character outside ASCII that is not told: "." and all that is negated
_WIDE: Final = 14  # of a range outside ASCII
_FOLDED: Final = 6  # k and s have relatives outside ASCII when case does not count
_CLASSES: Final = {"d": 1, "w": 4, "s": 5, "D": _ANY + 2, "W": _ANY + 5, "S": _ANY + 6}
_ANCHORS: Final = frozenset("AzbB")
_CHARACTERS: Final = frozenset("aftnrv\\.+*?()|[]{}^$-/_\"'#%&,:;<=>@`~! ")
_HEXADECIMAL: Final = re.compile(r"x(?:[0-9A-Fa-f]{2}|\{([0-9A-Fa-f]{1,6})\})")
_COUNTED: Final = re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}")
_OPENED: Final = re.compile(r"\((?:\?(?:P?<[A-Za-z_]\w*>|(?P<flags>[ims]*)(?P<end>[:)])))?")
_POSIX: Final = re.compile(
    r"\[:(\^?)(?:alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]"
)


class _Refused(Exception):  # noqa: N818
    """The end of a sentence about an expression."""


@dataclass(slots=True)
class _Part:
    """Something that may be repeated: how large it is, and whether something in it is repeated."""

    cost: int
    repeats: bool = False


def why_not(regex: str) -> str | None:
    """Why a pattern is refused, as the end of a sentence; None if it is not."""
    if len(regex) > MAX_LENGTH:
        return f"has {len(regex)} characters; {MAX_LENGTH} are allowed"
    try:
        cost = _Reader(regex).whole()
    except _Refused as refused:
        return str(refused)
    return _TOO_LARGE if cost > MAX_PROGRAM else None


class _Reader:
    def __init__(self, regex: str) -> None:
        self._text = regex
        self._at = 0
        self._folds = re.search(r"\(\?[ms]*i", regex) is not None

    def whole(self) -> int:
        part = self._alternatives()
        if self._at < len(self._text):
            raise _Refused("has a ) too many")
        return part.cost

    def _alternatives(self) -> _Part:
        whole = self._sequence()
        while self._text[self._at : self._at + 1] == "|":
            self._at += 1
            other = self._sequence()
            whole = _Part(whole.cost + other.cost + 1, whole.repeats or other.repeats)
        return whole

    def _sequence(self) -> _Part:
        whole = _Part(0)
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            part = self._repeated(self._one())
            whole = _Part(whole.cost + part.cost, whole.repeats or part.repeats)
            if whole.cost > MAX_PROGRAM:
                raise _Refused(_TOO_LARGE)
        return whole

    def _repeated(self, part: _Part) -> _Part:
        text, at = self._text, self._at
        counted = _COUNTED.match(text, at)
        if counted is None and text[at : at + 1] not in ("*", "+", "?"):
            return part
        if counted is None:
            self._at += 1
            cost, repeats = part.cost + 2, text[at] != "?"
        else:
            self._at = counted.end()
            least, more, most = int(counted[1]), counted[2] is not None, counted[3]
            further = int(most) - least if most else int(more)
            cost, repeats = part.cost * least + (part.cost + 2) * max(further, 0), True
        if repeats and part.repeats:
            raise _Refused("repeats what has repetitions in it")
        if text[self._at : self._at + 1] == "?":
            self._at += 1
        following = text[self._at : self._at + 1]
        if following in ("*", "+", "?") or _COUNTED.match(text, self._at):
            raise _Refused("repeats what has repetitions in it")
        return _Part(cost, part.repeats or repeats)

    def _one(self) -> _Part:
        character = self._text[self._at]
        match character:
            case "(":
                return self._group()
            case "[":
                return _Part(self._class())
            case "\\":
                self._at += 1
                return _Part(self._escape(inside=False))
            case "*" | "+" | "?":
                raise _Refused(f"has a {character} with nothing before it")
            case ".":
                self._at += 1
                return _Part(_ANY)
            case _:
                self._at += 1
                return _Part(self._literal(character))

    def _literal(self, character: str) -> int:
        if not character.isascii():
            return _WIDE if self._folds else len(character.encode())
        return _FOLDED if self._folds and character in "ksKS" else 1

    def _group(self) -> _Part:
        opened = _OPENED.match(self._text, self._at)
        if opened is None or (opened[0] == "(" and self._text[self._at + 1 : self._at + 2] == "?"):
            raise _Refused("has a group of a kind that RE2 does not know")
        self._at = opened.end()
        if opened["end"] == ")":
            return _Part(0)
        part = self._alternatives()
        if self._text[self._at : self._at + 1] != ")":
            raise _Refused("has a ( without its )")
        self._at += 1
        return _Part(part.cost + (2 if opened["end"] is None else 0), part.repeats)

    def _escape(self, *, inside: bool) -> int:
        escaped = self._text[self._at : self._at + 1]
        if hexadecimal := _HEXADECIMAL.match(self._text, self._at):
            self._at = hexadecimal.end()
            return _WIDE if hexadecimal[1] or hexadecimal[0][1] in "89abcdefABCDEF" else self._literal("k")
        self._at += 1
        if escaped in _CLASSES and escaped:
            return _CLASSES[escaped]
        if escaped and escaped in _ANCHORS and not inside:
            return 1
        if escaped and escaped in _CHARACTERS:
            return 1
        raise _Refused(f"has \\{escaped}, which cannot be used here")

    def _class(self) -> int:
        self._at += 1
        negated = self._text[self._at : self._at + 1] == "^"
        self._at += negated
        cost = first = 0
        while True:
            character = self._text[self._at : self._at + 1]
            if not character:
                raise _Refused("has a [ without its ]")
            if character == "]" and first:
                self._at += 1
                break
            first = 1
            cost += self._member(character)
        if self._folds:
            cost = 2 * cost + _FOLDED
        return cost + _ANY if negated else cost

    def _member(self, character: str) -> int:
        """One character, range or class among others in brackets."""
        if posix := _POSIX.match(self._text, self._at):
            self._at = posix.end()
            return _ANY + 6 if posix[1] else 5
        self._at += 1
        cost = self._escape(inside=True) if character == "\\" else _WIDE if not character.isascii() else 1
        end = self._text[self._at : self._at + 2]
        if len(end) == 2 and end[0] == "-" and end[1] != "]":
            self._at += 2
            cost += self._escape(inside=True) if end[1] == "\\" else _WIDE if not end[1].isascii() else 0
        return cost
