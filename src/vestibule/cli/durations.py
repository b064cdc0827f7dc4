"""Durations as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from vestibule.cli.codes import USAGE

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST: Final = 2**31 - 1
"""Seconds, as the messages of the server's API hold them."""
_DURATION: Final = re.compile(r"([0-9]{1,8})(s|m|h|d)")


def parse_duration(text: str) -> timedelta:
    """``90s``, ``15m``, ``24h`` or ``7d``.  Raises: VST9100."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise USAGE.error(
            f"{text!r} is not a duration", advice="Write a whole number and a unit: 90s, 15m, 24h, 7d."
        )
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > _LONGEST:
        raise USAGE.error(f"{text!r} is too long", advice="No duration is longer than 68 years.")
    return timedelta(seconds=seconds)
