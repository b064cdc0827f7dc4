"""Recorded calls, judged again: which of them an intent that is not yet in force would deny, or newly allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Final

from vestibule.errors import VestibuleError, Where
from vestibule.intent import Intent, plaintext
from vestibule.intent.port_policies import port_policy
from vestibule.observe.access_log import read_file
from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.policy import Call, Decision, Engine, PortPolicy, Rule
from vestibule.spiffe import SpiffeId

EXAMPLES: Final = 3
MOST_GROUPS: Final = 10_000
_DENIED: Final = Decision(allowed=False)
_OUTSIDE: Final = re.compile(r"^(?:external:|egress/)")


@dataclass(slots=True, kw_only=True)
class Group:
    """Calls of one caller to one target by one method, that one rule decides: they change together."""

    caller: str
    target: str
    method: str
    rule: str | None
    where: Where | None = None
    requests: int = 0
    paths: dict[str, None] = field(default_factory=dict)
    first: datetime | None = None
    last: datetime | None = None

    def add(self, record: AccessRecord) -> None:
        """Count one."""
        self.requests += 1
        if len(self.paths) < EXAMPLES and record.path:
            self.paths.setdefault(record.path)
        self.first = min(self.first or record.time, record.time)
        self.last = max(self.last or record.time, record.time)

    def __str__(self) -> str:
        """``orders → payments POST /v1/charges``."""
        paths = ", ".join(self.paths)
        return " ".join(filter(None, (f"{self.caller} → {self.target}", self.method, paths)))


@dataclass(slots=True, kw_only=True)
class Replay:
    """What came of it.  ``denied`` were allowed by the old rules, ``allowed`` were denied by them.

    ``elsewhere``: records that are no calls to something that either intent has.
    """

    requests: int = 0
    elsewhere: int = 0
    denied: list[Group] = field(default_factory=list)
    allowed: list[Group] = field(default_factory=list)

    @property
    def denials(self) -> int:
        """How many requests would be denied."""
        return sum(each.requests for each in self.denied)

    @property
    def permissions(self) -> int:
        """How many would newly be allowed."""
        return sum(each.requests for each in self.allowed)


def replay(records: Iterable[AccessRecord], old: Intent | None, new: Intent | None) -> Replay:
    """Judge each recorded call by both.

    A call counts once, where it arrives; one to a host outside where it leaves.  What was decided by another intent
    than ``old`` is judged anew by ``old``, so that only what changes now is told.
    """
    result = Replay()
    denied: dict[tuple[str, str, str, str | None], Group] = {}
    allowed: dict[tuple[str, str, str, str | None], Group] = {}
    engines = [_Engines(intent) for intent in (old, new)]
    for record in records:
        if (call := _call(record)) is None:
            continue
        speaking = [each.of(record) for each in engines]
        if not any(speaking):
            # Gateways take plain text, too, and have no rules.
            result.elsewhere += not record.plaintext
            continue
        result.requests += 1
        before, after = (_DENIED if each is None else each.decide(call) for each in speaking)
        if before.allowed is after.allowed:
            continue
        gone = before.allowed
        groups, decision, engine = (denied, before, speaking[0]) if gone else (allowed, after, speaking[1])
        rules = () if engine is None else (*engine.policy.deny, *engine.policy.allow)
        _group(groups, record, call, old if gone else new, decision, rules).add(record)
    result.denied = sorted(denied.values(), key=lambda each: -each.requests)
    result.allowed = sorted(allowed.values(), key=lambda each: -each.requests)
    return result


def judged(records: Iterable[AccessRecord], intent: Intent) -> Iterator[Decision]:
    """What an intent decides about each recorded call to something that it has."""
    engines = _Engines(intent)
    for record in records:
        if (call := _call(record)) is not None and (engine := engines.of(record)) is not None:
            yield engine.decide(call)


def _group(
    groups: dict[tuple[str, str, str, str | None], Group],
    record: AccessRecord,
    call: Call,
    intent: Intent | None,
    decision: Decision,
    rules: Iterable[Rule],
) -> Group:
    caller = _name(intent, call.caller)
    target = _target(record)
    key = (caller, target, call.method or "", decision.rule)
    if key not in groups and len(groups) >= MOST_GROUPS:
        key = ("others", "others", "", None)
    if key not in groups:
        where = next((each.where for each in rules if each.name == decision.rule), None)
        groups[key] = Group(caller=key[0], target=key[1], method=key[2], rule=key[3], where=where)
    return groups[key]


def read(files: Iterable[Path]) -> Iterator[AccessRecord]:
    """The records of access logs, in the order of the files.  Raises: VST8200."""
    return chain.from_iterable(map(read_file, files))


def _call(record: AccessRecord) -> Call | None:
    """The call that a record tells of; None for what is no call, or the other side's record of one."""
    arrives = record.direction is Direction.INBOUND or _leads_outside(record)
    if not arrives or record.layer is Layer.LISTENER or record.verdict is Verdict.REFUSED:
        return None
    caller = record.reporter_spiffe_id if _leads_outside(record) else record.source_spiffe_id
    if record.plaintext:
        caller = str(plaintext.ANYBODY)
    try:
        spiffe_id = SpiffeId.parse(caller)
    except VestibuleError:
        return None
    http = record.layer is Layer.HTTP
    method, path = (record.method, record.path) if http else (None, None)
    return Call(caller=spiffe_id, port=record.destination_port, method=method, path=path, time=record.time)


def _leads_outside(record: AccessRecord) -> bool:
    return record.direction is Direction.OUTBOUND and _OUTSIDE.match(_written(record)) is not None


def _written(record: AccessRecord) -> str:
    """A destination outside is named by its route, whichever part of it stands in which field."""
    return record.destination_service if ":" in record.destination_service else record.route


def _target(record: AccessRecord) -> str:
    if _leads_outside(record):
        return _outside(record)
    return f"{record.destination_service}/{record.destination_port}"


def _outside(record: AccessRecord) -> str:
    return _OUTSIDE.sub("", _written(record)).partition("/")[0]


class _Engines:
    """What decides by one intent about what records tell of, each made once."""

    def __init__(self, intent: Intent | None) -> None:
        self._intent = intent
        self._made: dict[tuple[str, str, bool, bool], Engine | None] = {}

    def of(self, record: AccessRecord) -> Engine | None:
        """None where the intent has nothing of that name."""
        outside = _leads_outside(record)
        name = _outside(record) if outside else record.destination_service
        key = (name, record.destination_port, record.plaintext, outside)
        if key not in self._made:
            policy = None if self._intent is None else _policy(self._intent, *key)
            self._made[key] = None if policy is None else Engine(policy)
        return self._made[key]


def _policy(intent: Intent, name: str, port: str, plain: bool, outside: bool) -> PortPolicy | None:
    if outside:
        external = intent.externals.get(name)
        return None if external is None else PortPolicy(service=name, port=port, allow=external.allow)
    service = intent.services.get(name)
    if service is None or port not in service.ports:
        return None
    if plain:
        return PortPolicy(service=name, port=port, allow=plaintext.plaintext_rules(service, port))
    return port_policy(intent, service, service.ports[port])


def _name(intent: Intent | None, caller: SpiffeId) -> str:
    if caller == plaintext.ANYBODY:
        return plaintext.SHOWN
    named = (each.name for each in (intent.services.values() if intent else ()) if each.spiffe_id == caller)
    return next(named, str(caller))
