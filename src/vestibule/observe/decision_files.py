"""The decision log as JSON lines: in rotating files, or on standard output."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Final

from vestibule.observe.access_log import AccessLine, AccessLog

STUCK_SECONDS: Final = 1.0
"""How long a reader of standard output may take before its turn is over."""


class DecisionFile(AccessLog):
    """A ``DecisionSink``: bounded, rotating files, of which only whole lines are left."""

    name = "decision log"

    def take(self, text: str, *, allowed: bool) -> None:
        """Queue a line."""
        del allowed
        self.append([AccessLine(text, None)])


class DecisionStream(DecisionFile):
    """A ``DecisionSink``: lines on a descriptor, for whoever collects what programs print.

    A reader that is stuck holds nobody up: lines wait as far as there is room, then are dropped and counted.
    """

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__(Path(f"/dev/fd/{descriptor}"))
        self._descriptor = descriptor
        self._partial = b""

    def _write(self, batch: list[str]) -> int:
        """Write lines; how many of them went out whole, or will once the last of them has."""
        for done, line in enumerate(batch):
            if not self._flush_partial():
                return done
            self._partial = f"{line}\n".encode()
        self._flush_partial()
        return len(batch)

    def _flush_partial(self) -> bool:
        try:
            while self._partial:
                _, ready, _ = select.select([], [self._descriptor], [], STUCK_SECONDS)
                if not ready:
                    return False
                self._partial = self._partial[os.write(self._descriptor, self._partial[: select.PIPE_BUF]) :]
        except OSError as error:
            self._complain(error)
            return False
        self._recovered()
        return True
