"""Whoever is refused at the doors for known proxies is worth a line in the log, but not a flood of them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final

from vestibule.clock import Clock
from vestibule.errors import VestibuleError

AT_MOST_EVERY: Final = timedelta(seconds=1)
"""A process may start others without end, each of which is refused once."""
_REMEMBERED: Final = 256

_log = logging.getLogger(__name__)


class Strangers:
    """Notes each refused process once: an Envoy that is refused asks again every second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noted: OrderedDict[Hashable, None] = OrderedDict()
        self._last: datetime | None = None

    @contextmanager
    def noted(self, process: Hashable) -> Iterator[None]:
        """Log what is raised inside, as said about this process."""
        try:
            yield
        except VestibuleError as error:
            self._note(process, error)
            raise

    def _note(self, process: Hashable, error: VestibuleError) -> None:
        now = self._clock.now()
        if process in self._noted or (self._last is not None and now - self._last < AT_MOST_EVERY):
            return
        self._noted[process] = None
        if len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
        self._last = now
        _log.warning("refused %s: %s", process, error)
