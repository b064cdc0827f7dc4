"""Who is called over mutual TLS, who in plain text, and who can be reached around its proxy: now, and before."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from vestibule.observe.access_record import AccessRecord, Direction, Layer, Verdict
from vestibule.observe.codes import COVERAGE_UNREADABLE

SCHEMA: Final = "vestibule.coverage/v1"
MOST_ADDRESSES: Final = 20
"""Callers in plain text that are named for one service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One service, as it was called.

    ``mtls`` and ``plaintext`` are calls, ``callers`` who made those over mutual TLS, ``plain_callers`` the addresses
    that the others came from, most calls first.  ``around``: where its app can be reached without its proxy.
    """

    service: str
    mtls: int = 0
    plaintext: int = 0
    callers: tuple[str, ...] = ()
    plain_callers: tuple[str, ...] = ()
    around: tuple[str, ...] = ()

    @property
    def share(self) -> float | None:
        """The share of calls over mutual TLS; None of a service that nobody called."""
        calls = self.mtls + self.plaintext
        return self.mtls / calls if calls else None

    @property
    def covered(self) -> bool:
        """Whether every call came over mutual TLS, and no other way in was seen."""
        return not self.plaintext and not self.around


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """All services, by name, at one time."""

    made: datetime
    services: tuple[Served, ...]

    @property
    def share(self) -> float | None:
        """Of all calls."""
        mtls = sum(each.mtls for each in self.services)
        calls = mtls + sum(each.plaintext for each in self.services)
        return mtls / calls if calls else None

    @property
    def covered(self) -> int:
        """How many services are."""
        return sum(each.covered for each in self.services)


@dataclass(slots=True)
class _Calls:
    callers: Counter[str]
    addresses: Counter[str]


def coverage(
    records: Iterable[AccessRecord],
    made: datetime,
    *,
    since: datetime | None = None,
    around: Mapping[str, Sequence[str]] | None = None,
) -> Coverage:
    """From what the callees' proxies recorded; ``around`` says of services where else their apps can be reached.

    Connections that were refused were no calls.
    """
    calls: defaultdict[str, _Calls] = defaultdict(lambda: _Calls(Counter(), Counter()))
    for record in records:
        if record.direction is not Direction.INBOUND or record.layer is Layer.LISTENER:
            continue
        if record.verdict is Verdict.REFUSED or (since is not None and record.time < since):
            continue
        seen = calls[record.reporter_service]
        if record.plaintext:
            seen.addresses[record.source_address.rpartition(":")[0] or "unknown"] += 1
        else:
            seen.callers[record.source_spiffe_id or "unknown"] += 1
    open_ways = around or {}
    names = sorted(calls.keys() | {name for name, found in open_ways.items() if found})
    return Coverage(
        made=made, services=tuple(_served(name, calls.get(name), open_ways.get(name, ())) for name in names)
    )


def _served(name: str, calls: _Calls | None, around: Sequence[str]) -> Served:
    if calls is None:
        return Served(service=name, around=tuple(sorted(around)))
    return Served(
        service=name,
        mtls=calls.callers.total(),
        plaintext=calls.addresses.total(),
        callers=tuple(sorted(calls.callers)),
        plain_callers=tuple(each for each, _ in calls.addresses.most_common(MOST_ADDRESSES)),
        around=tuple(sorted(around)),
    )


def as_document(found: Coverage) -> dict[str, Any]:
    """As it is kept, to compare with later."""
    services = [asdict(each) | {"covered": each.covered} for each in found.services]
    return {"schema": SCHEMA, "made": found.made.astimezone(UTC).isoformat(), "services": services}


def read_coverage(text: str, name: str) -> Coverage:
    """What was kept in the file of this name.  Raises: VST8202."""
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError("another schema")
        return Coverage(
            made=datetime.fromisoformat(document["made"]),
            services=tuple(map(_read_served, document["services"])),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise COVERAGE_UNREADABLE.error(f"{name} is not of {SCHEMA}: {error}") from error


def _read_served(values: Mapping[str, Any]) -> Served:
    return Served(
        service=str(values["service"]),
        mtls=int(values["mtls"]),
        plaintext=int(values["plaintext"]),
        callers=tuple(map(str, values["callers"])),
        plain_callers=tuple(map(str, values["plain_callers"])),
        around=tuple(map(str, values["around"])),
    )


def markdown(after: Coverage, before: Coverage | None) -> str:
    """The file for the ticket."""
    lines = ["# Mutual TLS: who is called how", "", *_summary(after, before), ""]
    lines += [
        "| service | over mutual TLS | in plain text from | around its proxy at | before |",
        "|---|---|---|---|---|",
    ]
    earlier = {each.service: each for each in before.services} if before else {}
    lines += [_row(each, earlier.get(each.service)) for each in after.services]
    gone = sorted(earlier.keys() - {each.service for each in after.services})
    lines += [
        f"| {_cell(name)} | not called any more | – | – | {percent(earlier[name].share)} |" for name in gone
    ]
    left = [each for each in after.services if not each.covered]
    lines += ["", "## What is left: the follow-up", "", *(_to_do(left) if left else ["Nothing."]), ""]
    return "\n".join(lines)


def _summary(after: Coverage, before: Coverage | None) -> Iterator[str]:
    now = f"{percent(after.share)} of calls over mutual TLS; {after.covered} of {len(after.services)} services covered"
    yield f"- {_day(after.made)}: {now}"
    if before is not None:
        then = (
            f"{percent(before.share)} of calls; {before.covered} of {len(before.services)} services covered"
        )
        yield f"- {_day(before.made)}: {then}"


def _row(served: Served, earlier: Served | None) -> str:
    cells = (
        served.service,
        percent(served.share),
        ", ".join(served.plain_callers) or "–",
        ", ".join(served.around) or "–",
        percent(earlier.share) if earlier else "not called",
    )
    return f"| {' | '.join(map(_cell, cells))} |"


def _to_do(left: Sequence[Served]) -> Iterator[str]:
    for each in left:
        if each.plaintext:
            callers = ", ".join(map(_cell, each.plain_callers))
            yield f"- [ ] {_cell(each.service)}: {each.plaintext} calls in plain text, from {callers}"
            yield "  Give these callers identities; then set the service to `mtls: strict`."
        if each.around:
            yield f"- [ ] {_cell(each.service)}: its app answers at {', '.join(each.around)}"
            yield "  Have it listen on loopback only."


def percent(share: float | None) -> str:
    """Never rounded up to all of it."""
    if share is None:
        return "no calls"
    return "100%" if share == 1 else f"{min(99.9, share * 100):.1f}%"


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")
