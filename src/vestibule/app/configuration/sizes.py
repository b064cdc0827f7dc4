"""Numbers of bytes, as people write them."""

from __future__ import annotations

import re
from typing import Final, NewType

from vestibule.app.codes import INVALID_SETTING

Size = NewType("Size", int)
"""A number of bytes."""

_FACTORS: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_size(text: str) -> Size:
    """``512KiB``, ``64MiB``, ``2GiB``.  Raises: VST9110."""
    match = re.fullmatch(r"([0-9]{1,9})(B|KiB|MiB|GiB)", text.strip())
    if match is None:
        raise INVALID_SETTING.error(
            f"{text[:60]!r} is not a size", advice="Write a whole number and a unit: 512KiB, 64MiB, 2GiB."
        )
    return Size(int(match[1]) * _FACTORS[match[2]])
