"""Services that were built before: of one changed file among a thousand, only that one is built anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vestibule.intent.documents import Declared
from vestibule.intent.model import Defaults, Service
from vestibule.intent.problems import Problem
from vestibule.intent.resolving import Names
from vestibule.intent.services import build_service
from vestibule.intent.shapes import Fields


@dataclass(frozen=True, slots=True)
class _Built:
    """What came of a file with so many problems before."""

    before: int
    service: Service | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Reading:
    """All services of one reading, which were built among the same names and defaults."""

    names: Names
    defaults: Defaults
    built: Mapping[Fields, _Built]


class Memory:
    """Of the last reading.  Files of equal contents have the very same ``Fields``, by which they are known again."""

    def __init__(self) -> None:
        self._last: _Reading | None = None

    def build(self, declared: Iterable[Declared], names: Names, defaults: Defaults) -> dict[str, Service]:
        """The services by name.  Their problems go to the findings of their files."""
        last = self._last
        same = last is not None and last.names == names and last.defaults == defaults
        known = last.built if last is not None and same else {}
        kept: dict[Fields, _Built] = {}
        services: dict[str, Service] = {}
        for each in declared:
            if each.fields is not None:
                found = _built(each, each.fields, names, defaults, known.get(each.fields))
                kept[each.fields] = found
                if found.service is not None:
                    services[each.name] = found.service
        # In one step, as readings may go on in several threads.
        self._last = _Reading(names, defaults, kept)
        return services


def _built(each: Declared, fields: Fields, names: Names, defaults: Defaults, known: _Built | None) -> _Built:
    before = each.findings.count
    if known is not None and known.before == before:
        each.findings.extend(known.problems)
        return known
    service = build_service(each.name, fields, names, defaults, each.findings)
    return _Built(before, service, each.findings.since(before))
