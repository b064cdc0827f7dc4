"""The answer to "why did this fail?": the layer, the cause, the evidence, and what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from vestibule.diagnose.evidence import decisive, symptom_of
from vestibule.errors import VestibuleError
from vestibule.failures import Failure, Layer, Symptom, explain, read_text
from vestibule.observe.access_record import SCHEMA, AccessRecord

FIRST_EXIT: Final = 10
"""The exit status of the first layer; every layer has its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """``failures``: what it may be, the likeliest first; none for what nobody has seen before."""

    symptom: Symptom
    failures: tuple[Failure, ...]
    record: AccessRecord | None = None

    @property
    def exit_status(self) -> int:
        """That of the layer that is to blame; 1 where none is known."""
        return exit_of(self.failures[0].layer) if self.failures else 1


def exit_of(layer: Layer) -> int:
    """10 for the first layer, and so on."""
    return FIRST_EXIT + list(Layer).index(layer)


def diagnose_records(records: Sequence[AccessRecord]) -> Diagnosis | None:
    """Of the records of one call; None if it went well."""
    record = decisive(records)
    if record is None:
        return None
    symptom = symptom_of(record)
    return Diagnosis(symptom=symptom, failures=explain(symptom), record=record)


def diagnose_text(text: str) -> Diagnosis | None:
    """Of whatever a person has in hand: lines of an access log, an error page, an exception.

    None for lines of the log that tell of nothing bad.
    """
    if records := _records(text):
        return diagnose_records(records)
    symptom = read_text(text)
    return Diagnosis(symptom=symptom, failures=explain(symptom))


def _records(text: str) -> list[AccessRecord]:
    """The lines that are of our access log."""
    found = []
    for line in text.splitlines():
        if SCHEMA in line:
            try:
                found.append(AccessRecord.from_json(line))
            except VestibuleError:
                continue
    return found


def document(diagnosis: Diagnosis) -> dict[str, Any]:
    """As JSON."""
    first = diagnosis.failures[0] if diagnosis.failures else None
    record = diagnosis.record
    return {
        "layer": first and first.layer.value,
        "failure": first and first.name,
        "title": first and first.title,
        "meaning": first and first.meaning,
        "confirm": list(first.confirm) if first else [],
        "fix": first and first.fix,
        "others": [each.name for each in diagnosis.failures[1:]],
        "evidence": _facts(record) if record else _seen(diagnosis.symptom),
    }


def _facts(record: AccessRecord) -> dict[str, Any]:
    """What a record says, without what it leaves empty."""
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {name: _plain(value) for name, value in values.items() if value not in ("", None, (), False)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | str | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else value.value


def _seen(symptom: Symptom) -> dict[str, Any]:
    found = {
        "status": symptom.status,
        "flags": sorted(symptom.flags),
        "details": symptom.details,
        "code": symptom.code,
    }
    return json.loads(json.dumps({name: value for name, value in found.items() if value}))  # type: ignore[no-any-return]
