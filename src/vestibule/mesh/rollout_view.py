"""A rollout as operators see it: how far, who is behind and why, and what they should know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vestibule.mesh.error_rates import Count, Side
from vestibule.mesh.rolling import Rolling
from vestibule.mesh.rollout import Phase, State
from vestibule.records import Instance, KeptIntent
from vestibule.xds.ledger import ProxyState

NAMED: Final = 3
PATIENCE: Final = timedelta(seconds=5)
"""For so long a proxy that has been told something new is busy, not behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A proxy that has not what it is to have."""

    instance_id: str
    service: str
    wanted: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceErrors:
    """How a service's requests went before what is tried, and with it."""

    service: str
    side: Side
    before: Count
    since: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutView:
    """All of it at one instant.  Of the ``proxies``, ``wave`` are to have the newest, which ``acknowledged`` have."""

    state: State
    place: str
    newest: KeptIntent | None
    watched_until: datetime | None
    proxies: int
    wave: int
    acknowledged: int
    behind: tuple[Behind, ...]
    errors: tuple[ServiceErrors, ...]
    warnings: tuple[str, ...]


def view_of(rolling: Rolling, now: datetime) -> RolloutView:
    """The view."""
    state = rolling.state
    newest = state.trial or state.good
    standing = list(rolling.judging.standing())
    behind = tuple(_behind(standing, now))
    wave = [each for each in standing if each[1] == newest]
    return RolloutView(
        state=state,
        place=rolling.source.place,
        newest=rolling.history[0] if rolling.history else None,
        watched_until=rolling.watched_until(),
        proxies=len(standing),
        wave=len(wave),
        acknowledged=sum(proxy is not None and proxy.has(newest or "") for _, _, proxy in wave),
        behind=behind,
        errors=tuple(_errors(rolling)) if state.trial is not None else (),
        warnings=(*_state_warnings(rolling), *_behind_warnings(behind, now)),
    )


def _behind(
    standing: list[tuple[Instance, str | None, ProxyState | None]], now: datetime
) -> Iterator[Behind]:
    for instance, wanted, proxy in standing:
        if wanted is not None and (why := _why_behind(proxy, wanted, now)):
            yield Behind(instance_id=instance.id, service=instance.service, wanted=wanted, why=why)


def _why_behind(proxy: ProxyState | None, wanted: str, now: datetime) -> str:
    if proxy is None:
        return "has not connected since the server started"
    if not proxy.connected:
        return f"not connected for {_for(now - proxy.since)}"
    refused = [f"refused {_short(row.type_url)}: {row.error}" for row in proxy.rows if row.error]
    if refused:
        return "; ".join(refused)
    if proxy.has(wanted):
        return ""
    slow = [row for row in proxy.rows if row.settled != wanted]
    since = max((row.updated_at for row in slow), default=proxy.since)
    names = ", ".join(_short(row.type_url) for row in slow)
    return f"no answer yet for {names}, last heard of {_for(now - since)} ago"


def _errors(rolling: Rolling) -> Iterator[ServiceErrors]:
    before, since = rolling.judging.rates.before(), rolling.judging.rates.since()
    for service, side in sorted(since, key=lambda key: (key[0], key[1].value)):
        key = (service, side)
        yield ServiceErrors(service=service, side=side, before=before.get(key, Count()), since=since[key])


def _state_warnings(rolling: Rolling) -> Iterator[str]:
    state, source = rolling.state, rolling.source
    if state.phase is Phase.REFUSED:
        yield (
            f"intent {state.failed} was taken back ({state.reason}); {state.good} is in force until the source changes"
            " (vestibule rollout resume tries it again)"
        )
    if state.phase is Phase.PINNED:
        reason = f": {state.reason}" if state.reason else ""
        yield (
            f"{state.actor} rolled {state.failed} back{reason}; {state.good} is in force until the source changes"
            " (vestibule rollout resume goes on with it)"
        )
    if state.paused:
        held = f"; {state.head} waits" if state.head not in (state.good, state.trial) else ""
        yield f"the rollout is paused by {state.paused}{held} (vestibule rollout resume)"
    if source.reading.intent is None and state.good is not None:
        yield (
            f"the intent cannot be read from {source.place} since the server started; {state.good} of the history is in"
            " force"
        )


def _behind_warnings(behind: tuple[Behind, ...], now: datetime) -> Iterator[str]:
    del now
    late = [each for each in behind if not each.why.startswith("no answer yet")]
    if late:
        named = "; ".join(f"{each.instance_id} {each.why}" for each in late[:NAMED])
        more = f"; and {len(late) - NAMED} more" if len(late) > NAMED else ""
        have = "proxy has" if len(late) == 1 else "proxies have"
        yield f"{len(late)} {have} not what the intent says (vestibule rollout): {named}{more}"


def _short(type_url: str) -> str:
    return type_url.rpartition(".")[2]


def _for(duration: timedelta) -> str:
    seconds = max(0, int(duration.total_seconds()))
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
