"""The level of a log can be changed and found again, by SPIRE's names."""

from __future__ import annotations

import logging

import pytest

from vestibule.telemetry.levels import LogControl, LogLevel


def a_logger(level: int) -> logging.Logger:
    logger = logging.Logger("alone")
    logger.setLevel(level)
    return logger


@pytest.mark.parametrize("level", LogLevel)
def test_every_level_is_found_again_after_it_was_set(level: LogLevel) -> None:
    control = LogControl(a_logger(logging.INFO))
    control.set(level)
    assert (control.current, control.launch) == (level, LogLevel.INFO)


def test_a_level_lets_through_what_its_name_says() -> None:
    logger = a_logger(logging.INFO)
    LogControl(logger).set(LogLevel.ERROR)
    assert logger.isEnabledFor(logging.ERROR)
    assert not logger.isEnabledFor(logging.WARNING)
    LogControl(logger).set(LogLevel.TRACE)
    assert logger.isEnabledFor(logging.DEBUG)
    LogControl(logger).set(LogLevel.PANIC)
    assert not logger.isEnabledFor(logging.CRITICAL)


def test_a_number_between_two_levels_is_told_as_one_of_them() -> None:
    assert LogControl(a_logger(logging.INFO + 1)).launch is LogLevel.INFO
