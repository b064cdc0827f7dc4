"""What a process does once it is up."""

from __future__ import annotations

import gc


def settle() -> None:
    """Let the garbage collector pass over everything that start-up made, which lives as long as the process.

    Otherwise it looks at all of it again whenever much is allocated at once, such as a new index of 10,000 entries:
    that doubles the cost, and stops everything else for tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
