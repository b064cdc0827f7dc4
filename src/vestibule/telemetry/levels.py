"""How much the process writes into its log, changed while it runs, and back again.

The names are those of SPIRE's logger API.  Nothing here writes at ``panic`` or ``trace``: the one silences a
component almost entirely, the other is ``debug`` with room below it.  What libraries remark stays at warnings
whatever the level: at their own debug level they would write headers, and with them tokens.
"""

from __future__ import annotations

import logging
from enum import Enum


class LogLevel(Enum):
    """A level by its name; the value is Python's number for it."""

    PANIC = 60
    FATAL = logging.CRITICAL
    ERROR = logging.ERROR
    WARN = logging.WARNING
    INFO = logging.INFO
    DEBUG = logging.DEBUG
    TRACE = 5

    @classmethod
    def nearest(cls, number: int) -> LogLevel:
        """The level that lets through what Python's ``number`` does, as nearly as there is one."""
        return min(cls, key=lambda level: (abs(level.value - number), level.value))


class LogControl:
    """The level of one logger (the process's, unless told otherwise): now, and as it was at the start."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger()
        self.launch = LogLevel.nearest(self._logger.getEffectiveLevel())

    @property
    def current(self) -> LogLevel:
        """The level that holds now."""
        return LogLevel.nearest(self._logger.getEffectiveLevel())

    def set(self, level: LogLevel) -> None:
        """Write this much from now on, until the process ends or the level is set again."""
        self._logger.setLevel(level.value)
