"""Log lines on standard error, for people or as JSON.  No secret, key or token is ever put into one."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from enum import Enum
from typing import Final, TextIO

QUIET: Final = ("hpack", "h2", "grpclib", "aiosqlite", "sqlalchemy", "alembic", "asyncio", "uvicorn")
"""Libraries whose remarks matter only as warnings."""

LONGEST: Final = 4000
"""Characters of a line's message: messages quote what peers send, which must not fill the disk."""


class LogFormat(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """The two forms of a log line."""

    TEXT = "text"
    JSON = "json"


def set_up_logs(level: str = "info", form: LogFormat = LogFormat.TEXT, stream: TextIO | None = None) -> None:
    """Send the logs of this process to ``stream``, standard error unless given."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json() if form is LogFormat.JSON else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _one_line(text: str) -> str:
    """Line breaks and other controls made visible, so that what a peer sends cannot forge a line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        where = record.name.removeprefix("vestibule.")
        line = f"{_instant(record)} {record.levelname.lower():<7} {where}: {_one_line(_message(record))}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "where": record.name,
            "message": _message(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True)
