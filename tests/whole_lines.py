"""Files that grow while they are read."""

from __future__ import annotations


def whole_lines(text: str) -> list[str]:
    """The lines that have their end; of the last one there may be only a part yet."""
    return text[: text.rfind("\n") + 1].splitlines()
