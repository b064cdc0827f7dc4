"""What a process does once it is up."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 100_000
"""Objects that are made before the collector looks at them: a change for thousands of proxies makes millions, nearly
all of which live until the next change or die by themselves."""


def settle() -> None:
    """Let the garbage collector pass over everything that start-up made, which lives as long as the process.

    Otherwise it looks at all of it again whenever much is allocated at once, such as a new index of 10,000 entries:
    that doubles the cost, and stops everything else for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 20)
