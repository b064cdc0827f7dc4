"""Reading the fields of requests: the types that Vault's clients send, and no others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from vestibule.doors.vault.codes import VAULT_FIELD

_DURATION: Final = re.compile(r"([0-9]+)(ms|s|m|h|d)?", re.ASCII)
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, None: 1}
LONGEST: Final = timedelta(days=3650)


def text(body: Mapping[str, Any], name: str, default: str = "") -> str:
    """A string.  Raises: VST5210."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise VAULT_FIELD.error(f"{name} is not a string")
    return value


def switch(body: Mapping[str, Any], name: str, default: bool | None = None) -> bool | None:
    """True or false, also as text.  Raises: VST5210."""
    value = body.get(name, default)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if value is not None and not isinstance(value, bool):
        raise VAULT_FIELD.error(f"{name} is neither true nor false")
    return value


def number(body: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    """A whole number, also as text; not negative.  Raises: VST5210."""
    value = body.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 18:
        return int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**18):
        return value
    raise VAULT_FIELD.error(f"{name} is not a whole number")


def duration(body: Mapping[str, Any], name: str) -> timedelta | None:
    """Seconds, or a number with a unit (``90s``, ``1h``, ``1h30m``).  Raises: VST5210."""
    value = body.get(name)
    if value is None or value == "":
        return None
    found = as_duration(value)
    if found is None:
        raise VAULT_FIELD.error(f"{name} is no duration: seconds, or 30s, 5m, 1h")
    return found


def as_duration(value: object) -> timedelta | None:
    """The duration that a client has written; None if it is none, or longer than ten years."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    parts = [*_DURATION.finditer(str(value))]
    if not parts or "".join(each[0] for each in parts) != str(value):
        return None
    if len(parts) > 1 and any(each[2] is None for each in parts):
        return None
    seconds = sum(int(each[1][:12]) * _UNITS[each[2]] for each in parts)
    return timedelta(seconds=seconds) if seconds <= LONGEST.total_seconds() else None


def items(body: Mapping[str, Any], name: str, most: int) -> list[Mapping[str, Any]] | None:
    """A list of objects.  Raises: VST5210."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > most or not all(isinstance(each, dict) for each in value):
        raise VAULT_FIELD.error(f"{name} is not a list of up to {most} objects")
    return value
