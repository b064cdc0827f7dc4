"""What `up` itself has to say beside its view: in a file, since the terminal shows something else."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vestibule.telemetry.logs import set_up_logs


@contextmanager
def journal(directory: Path) -> Iterator[None]:
    """Send this process's log lines to ``up.log`` in ``directory`` while the block runs."""
    descriptor = os.open(directory / "up.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    before = logging.getLogger().handlers[:]
    with os.fdopen(descriptor, "a", encoding="utf-8", buffering=1) as file:
        set_up_logs(stream=file)
        try:
            yield
        finally:
            logging.getLogger().handlers[:] = before
