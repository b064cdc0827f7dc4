"""Who tries a new intent first, and whether a wave has been watched for long enough."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vestibule.records import Instance

DEADLINE: Final = timedelta(seconds=30)
"""After the time of watching, how long proxies that had the intent before are waited for.  As long as a lease: who is
gone for good is forgotten by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A proxy of a wave.

    ``was_well``: it was connected and had the intent before, when its wave began.  ``has_it``: it has answered for all
    of the new one, be it with refusals.
    """

    instance_id: str
    service: str
    was_well: bool
    has_it: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a look at a wave says: go on, go back for this reason, or look again at ``again`` at the latest."""

    watched: bool = False
    failure: str = ""
    again: datetime | None = None


def first_wave(instances: Iterable[Instance], percent: int) -> frozenset[str] | None:
    """The IDs of the instances that try an intent first: of each service so many per cent, and one at least.

    The choice follows from the IDs alone, so it is the same on every server.  None: that is all of them, at once.
    """
    by_service: defaultdict[str, list[str]] = defaultdict(list)
    for each in instances:
        by_service[each.service].append(each.id)
    wave = frozenset(chosen for ids in by_service.values() for chosen in _some(ids, percent))
    return None if len(wave) == sum(map(len, by_service.values())) else wave


def _some(ids: list[str], percent: int) -> list[str]:
    count = max(1, -(-len(ids) * percent // 100))
    return sorted(ids, key=lambda each: hashlib.sha256(each.encode()).digest())[:count]


def look(members: Iterable[Member], since: datetime, watch: timedelta, now: datetime) -> Verdict:
    """Whether a wave that began at ``since`` has been watched for long enough.

    Proxies that were well and have not answered yet are waited for until ``DEADLINE`` after the watch; then those who
    are silent stay behind, unless all that were well of a service are: what an intent does to them may be that they
    can not speak any more.  Proxies that were not well before are waited for by nobody.
    """
    over, last = since + watch, since + watch + DEADLINE
    if now < over:
        return Verdict(again=over)
    well = [each for each in members if each.was_well]
    if all(each.has_it for each in well):
        return Verdict(watched=True)
    if now < last:
        return Verdict(again=min(last, now + timedelta(seconds=0.5)))
    spoke = {each.service for each in well if each.has_it}
    silent = sorted({each.service for each in well} - spoke)
    if silent:
        return Verdict(failure=f"no proxy of {_listed(silent)} has answered within {_seconds(last - since)}")
    return Verdict(watched=True)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} other services" if len(names) > 3 else shown


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"
