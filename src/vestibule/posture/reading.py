"""Scans as JSON, and back."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from vestibule.posture.codes import MALFORMED_SCAN
from vestibule.posture.facts import Facts, printable
from vestibule.posture.findings import Profile

FORM: Final = "vestibule.scan-facts/v1"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What was seen of all endpoints; findings are made of it anew whenever they are wanted."""

    made: datetime
    profile: Profile
    endpoints: tuple[Facts, ...]


def write_scan(scan: Scan) -> str:
    """The text of a file."""
    return json.dumps({"schema": FORM, **as_document(scan)}, indent=2, ensure_ascii=False) + "\n"


def read_scan(text: str, name: str) -> Scan:
    """What ``write_scan`` wrote; ``name`` is the file's.  Raises: VST2471."""
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("schema") != FORM:
            raise ValueError(f"it is not marked as {FORM}")
        scan: Scan = _read(Scan, document, "")
    except (ValueError, TypeError, RecursionError) as error:
        raise MALFORMED_SCAN.error(f"{name} is no saved scan: {printable(str(error))}") from error
    return scan


def as_document(value: Any) -> Any:
    """Values as JSON has them."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: as_document(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple):
        return [as_document(each) for each in value]
    if isinstance(value, Enum):
        return value.value
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _read(kind: Any, value: Any, place: str) -> Any:
    """``value`` as a ``kind``.  Raises: ValueError or TypeError, naming the place."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = (each for each in get_args(kind) if each is not type(None))
        return None if value is None else _read(inner, value, place)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{place or 'the file'} is no list")
        return tuple(_read(get_args(kind)[0], each, f"{place}[{n}]") for n, each in enumerate(value))
    if is_dataclass(kind):
        return _read_fields(kind, value, place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is datetime:
        return _read_time(value, place)
    if type(value) is not kind:
        raise ValueError(f"{place} is not of the kind {kind.__name__}")
    return printable(value) if isinstance(value, str) else value


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{place or 'the file'} is no object")
    hints = get_type_hints(kind)
    known = {each.name: hints[each.name] for each in fields(kind)}
    # A key that is missing has its default; one that is too many is of a version to come.
    return kind(**{k: _read(known[k], v, f"{place}.{k}".lstrip(".")) for k, v in value.items() if k in known})


def _read_time(value: Any, place: str) -> datetime:
    if not isinstance(value, str):
        raise TypeError(f"{place} is no time")
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(f"{place} has no time zone")
    return time.astimezone(UTC)
