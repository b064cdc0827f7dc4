"""Which regular expressions may stand in a condition: RE2 reads them, and none is larger than it looks."""

from __future__ import annotations

import re
from typing import Final

MAX_LENGTH: Final = 256
MAX_REPEAT: Final = 100

_ESCAPE: Final = re.compile(r"\\(?:x\{[^}]*\}|[pP]\{[^}]*\}|.)", re.DOTALL)
_CLASS: Final = re.compile(r"\[\^?\]?(?:\\.|\[:[^\]]*:\]|[^\]\\])*\]", re.DOTALL)
_COUNTED: Final = re.compile(r"\{(\d+)(?:,(\d*))?\}")


def why_not(regex: str) -> str | None:
    """Why a pattern is refused, as the end of a sentence; None if it is not.

    RE2 has no catastrophic backtracking, but memory and time grow with repetitions inside repetitions.
    """
    if len(regex) > MAX_LENGTH:
        return f"has {len(regex)} characters; {MAX_LENGTH} are allowed"
    repeats = [False]  # for each open group, whether something in it is repeated
    closed = False  # whether what stands before is a group that repeats something itself
    at = 0
    while at < len(regex):
        if found := _ESCAPE.match(regex, at) or _CLASS.match(regex, at):
            at, closed = found.end(), False
            continue
        counted = _COUNTED.match(regex, at)
        if counted and max(int(each) for each in counted.groups() if each) > MAX_REPEAT:
            return f"repeats something more than {MAX_REPEAT} times"
        if counted or regex[at] in "*+":
            if closed:
                return "repeats what has repetitions in it"
            repeats[-1] = True
            at = counted.end() if counted else at + 1
            at += regex[at : at + 1] == "?"
            continue
        if regex[at] == "(":
            repeats.append(False)
            closed = False
            at += 2 if regex[at + 1 : at + 2] == "?" else 1
            continue
        if regex[at] == ")" and len(repeats) > 1:
            closed = repeats.pop()
            repeats[-1] = repeats[-1] or closed
        elif regex[at] != "?":
            closed = False
        at += 1
    return None
