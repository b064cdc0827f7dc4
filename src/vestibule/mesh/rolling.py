"""Rollouts at work: follows the source and the proxies, moves the state machine, and keeps what it decides.

What goes on (trying, widening, accepting) is on record and kept before it is done, by the server that leads.  What goes
back is done first, by any server that sees the need, whether or not there is room to write it down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.audit import EmergencyAudit
from vestibule.audit.ports import Audit
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.intent import Intent, load_files
from vestibule.mesh.book import Book, record_of
from vestibule.mesh.codes import NOT_LEADING, UNKNOWN_INTENT
from vestibule.mesh.error_rates import Report
from vestibule.mesh.judging import Judging, judges_of_lockdown
from vestibule.mesh.kept_intents import Load, changed_rows, read
from vestibule.mesh.revision import Revision, first_change
from vestibule.mesh.rollout import Event, Happening, Move, Phase, State, Step, step, version_for
from vestibule.mesh.source import Source
from vestibule.mesh.waves import first_wave
from vestibule.records import Instance, KeptIntent
from vestibule.spiffe import SpiffeId
from vestibule.store import IntentHistory
from vestibule.xds.ledger import ProxyState
from vestibule.xds.messages import Event as XdsEvent
from vestibule.xds.resources import ProxyKey, Snapshot

RETRY: Final = timedelta(seconds=2)
"""After which what could not be kept, or cannot be done by this server yet, is tried again."""

_BACKWARDS: Final = frozenset({Move.GO_BACK, Move.DROP, Move.PIN})

_log = logging.getLogger(__name__)


class AuditLog(Audit, EmergencyAudit, Protocol):
    """Where decisions are put on record."""


class Rolling:
    """Decides which intent each proxy is to have (``mesh.intents.Intents``)."""

    def __init__(
        self,
        source: Source,
        history: IntentHistory,
        audit: AuditLog,
        clock: Clock,
        *,
        instances: Callable[[], tuple[Instance, ...]],
        proxy: Callable[[ProxyKey], ProxyState | None],
        leads: Callable[[], bool] = lambda: True,
        load: Load = load_files,
    ) -> None:
        """``instances`` are those that are registered, ``proxy`` tells how one stands (``xds.ledger``)."""
        self.revision = Revision()
        self.judging = Judging(instances, proxy, self.version_for)
        self.judging.refusals.only_loses = self._only_loses
        self._source = source
        self._book = Book(history)
        self._audit = audit
        self._clock = clock
        self._leads = leads
        self._load = load
        self._state = State()
        self._intents: dict[str, Intent] = {}
        self._known: frozenset[SpiffeId] = frozenset()
        self._lock = asyncio.Lock()
        self._went_back: Event | None = None
        self._lockdown: tuple[Intent, Intent, frozenset[SpiffeId] | None] | None = None
        self._news = Revision()

    # ----------------------------------------------------------------------------------------- who has which

    @property
    def state(self) -> State:
        """How far the rollout is."""
        return self._state

    @property
    def history(self) -> tuple[KeptIntent, ...]:
        """The intents that were taken up, the newest first, without their files."""
        return tuple(self._book.rows)

    @property
    def source(self) -> Source:
        """Where intents come from."""
        return self._source

    def in_force(self) -> tuple[Intent, ...]:
        """What proxies are to have: the intent of most of them, then that of the first wave."""
        state = self._state
        having = {Phase.FIRST: (state.good, state.trial), Phase.REST: (state.trial,)}
        return tuple(
            self._intents[each] for each in having.get(state.phase, (state.good,)) if each is not None
        )

    def version_for(self, proxy: ProxyKey) -> str | None:
        """The version that this proxy is to have."""
        return version_for(self._state, proxy.instance_id, is_known=proxy.spiffe_id in self._known)

    # ------------------------------------------------------------------------------------------ what is heard

    def heard(self, proxy: ProxyKey, event: XdsEvent) -> None:
        """Something happened on a proxy's stream (``xds.ledger``)."""
        if self.judging.refusals.note(proxy, event, self._state.trial):
            self._news.bump()

    def cannot_have(self, proxy: ProxyKey, version: str, why: str) -> None:
        """Nothing that the proxy could take follows from this intent."""
        if version == self._state.trial and self.judging.refusals.blame(
            version, f"{proxy.instance_id} cannot have it: {why}"
        ):
            self._news.bump()

    def compares_with(self, compiled: Callable[[ProxyKey, Intent], Snapshot | None]) -> None:
        """Tell by this what a proxy would have by another intent."""

        def by_the_good(proxy: ProxyKey) -> Snapshot | None:
            good = self._intents.get(self._state.good) if self._state.good is not None else None
            return compiled(proxy, good) if good is not None else None

        self.judging.refusals.would_have = by_the_good

    def _only_loses(self, proxy: ProxyKey) -> bool:
        state = self._state
        good, trial = self._intents.get(state.good or ""), self._intents.get(state.trial or "")
        if good is None or trial is None:
            return False
        if self._lockdown is None or self._lockdown[0] is not good or self._lockdown[1] is not trial:
            self._lockdown = (good, trial, judges_of_lockdown(good, trial))
        judges = self._lockdown[2]
        return judges is not None and proxy.spiffe_id not in judges

    def take_report(self, proxy: ProxyKey, report: Report) -> None:
        """What a proxy counted."""
        self.judging.take_report(proxy, report, self._state.trial, self._clock.now())

    def watched_until(self) -> datetime | None:
        """When the wave under way has been watched for long enough, if nothing is in the way."""
        state = self._state
        if state.trial is None or state.since is None:
            return None
        return state.since + self._intents[state.trial].mesh.rollout.watch

    # -------------------------------------------------------------------------------------------- at work

    async def load(self) -> None:
        """Take up where the servers left off, and what the source has."""
        await self._reload(everybody=True)
        with suppress(VestibuleError):
            # What cannot be done now is tried again, and then complained of, by ``run``.
            await self._advance()

    async def run(self) -> None:
        """Go on, whenever there is something to go on with."""
        while True:
            seen = [(each, each.value) for each in (self._source.revision, self._news)]
            again = await self._advance()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience(again)):
                    await first_change(*seen)

    async def follow(self) -> None:
        """Another server of the database changed the state: it is ours, too."""
        async with self._lock:
            if not self._book.owes and await self._book.is_behind():
                await self._reload(everybody=False)
        self._news.bump()

    def _patience(self, again: datetime | None) -> float | None:
        if again is None:
            return None
        return max(0.05, (again - self._clock.now()).total_seconds())

    async def _advance(self) -> datetime | None:
        """Do what is due; when to look again, at the latest."""
        while True:
            now = self._clock.now()
            await self._settle()
            event, again = self._due(now)
            if event is None:
                return now + RETRY if self._book.owes else again
            if not await self._happen(event):
                return now + RETRY

    def _due(self, now: datetime) -> tuple[Event | None, datetime | None]:
        state, leads = self._state, self._leads()
        intent = self._source.reading.intent
        is_news = intent is not None and intent.version != state.head
        if intent is not None and is_news and leads:
            return self._offer(intent, now), None
        event, again = self._due_of_trial(state, now, leads=leads)
        # Who does not lead may do so in a moment.
        return event, again if again is not None or not is_news else now + RETRY

    def _due_of_trial(
        self, state: State, now: datetime, *, leads: bool
    ) -> tuple[Event | None, datetime | None]:
        if state.trial is None:
            return None, None
        verdict = self.judging.verdict(state, self._intents, now)
        if verdict.failure:
            failed = Event(what=Happening.FAILED, now=now, version=state.trial, reason=verdict.failure)
            return failed, None
        if not verdict.watched:
            return None, verdict.again
        if leads and not state.paused:
            return Event(what=Happening.WATCHED, now=now, version=state.trial), None
        return None, now + RETRY

    def _offer(self, intent: Intent, now: datetime) -> Event:
        if intent.version == self._state.good:
            return Event(what=Happening.REVERTED, now=now, version=intent.version)
        return Event(what=Happening.OFFERED, now=now, version=intent.version, wave=self._wave(intent))

    def _wave(self, intent: Intent) -> frozenset[str] | None:
        return first_wave(self.judging.instances(), intent.mesh.rollout.first)

    # ------------------------------------------------------------------------------------ what operators ask

    async def roll_back(self, actor: str, version: str, reason: str) -> None:
        """All proxies are to have this version, or (empty) the good one before, until the source changes.

        Raises: VST3240, VST3241, VST3242, VST3243.
        """
        wanted = version or self._one_before()
        if all(each.version != wanted for each in self._book.rows):
            raise UNKNOWN_INTENT.error(f"the history has no version {wanted!r}")
        await self._ask(Happening.ROLL_BACK, actor, reason, version=wanted)

    async def pause(self, actor: str, reason: str) -> None:
        """No new intent is tried and no wave follows, until ``resume``."""
        await self._ask(Happening.PAUSE, actor, reason)

    async def resume(self, actor: str, reason: str) -> None:
        """Go on: after a pause, a rollback, or with an intent that was refused.  Raises: VST3240."""
        await self._ask(Happening.RESUME, actor, reason)

    async def promote(self, actor: str, reason: str) -> None:
        """All proxies are to have the newest intent, and it counts as good, whatever is said of it.

        Raises: VST3240.
        """
        await self._ask(Happening.PROMOTE, actor, reason)

    async def _ask(self, what: Happening, actor: str, reason: str, version: str | None = None) -> None:
        wave = None
        if what is Happening.RESUME and self._state.head not in (None, self._state.good):
            wave = self._wave(await self._intent(self._state.head))
        event = Event(
            what=what, now=self._clock.now(), version=version, wave=wave, reason=reason, actor=actor
        )
        if not await self._happen(event):
            raise NOT_LEADING.error("the rollout was changed at the same moment")
        self._news.bump()

    def _one_before(self) -> str:
        """What a rollback without a version goes to."""
        if self._state.trial is not None and self._state.good is not None:
            return self._state.good
        if (found := self._book.one_before(self._state.good)) is not None:
            return found
        raise UNKNOWN_INTENT.error("the history has no good version before the one in force")

    # ---------------------------------------------------------------------------------------- what is done

    async def _happen(self, event: Event) -> bool:
        """Move on.  False where another server was faster; what it did is known then."""
        async with self._lock:
            result = step(self._state, event)
            if result.state == self._state:
                return True
            intents = {each: await self._intent(each) for each in _wanted(result.state)}
            rows = tuple(changed_rows(self._book.rows, self._state, result, event, self._source))
            known = {each.version: each for each in (*reversed(self._book.rows), *rows)}
            records = [record_of(self._state, result, event, known)]
            if result.move in _BACKWARDS:
                await self._audit.record_or_defer(records)
                self._become(result, intents)
                self._book.owe(rows)
                self._went_back = event
                await self._settle()
                return True
            if result.move is not Move.NOTHING:
                await self._audit.record(records)
            if result.move is Move.TRY:
                self.judging.rates.begin(event.now)
            if not await self._book.write(result.state, self.judging.rates.before(), rows):
                await self._reload(everybody=False)
                return False
            self._become(result, intents)
            return True

    async def _settle(self) -> None:
        """Keep what was done before it could be kept; tried again, if that does not work."""
        try:
            while self._book.owes:
                if await self._book.settle(self._state, self.judging.rates.before()):
                    self._went_back = None
                    return
                await self._reload(everybody=False)
                await self._go_back_again()
        except VestibuleError as error:
            _log.warning("the rollout is not kept yet: %s", error)

    async def _go_back_again(self) -> None:
        """Another server was faster, which has not heard what this one had: it goes back from there, if it can."""
        event, self._went_back = self._went_back, None
        if event is None:
            return
        result = step(self._state, event)
        if result.move in _BACKWARDS and result.state != self._state:
            rows = tuple(changed_rows(self._book.rows, self._state, result, event, self._source))
            self._become(result, {each: await self._intent(each) for each in _wanted(result.state)})
            self._book.owe(rows)
            self._went_back = event

    def _become(self, result: Step, intents: dict[str, Intent]) -> None:
        before = self._state
        self._set(result.state, intents)
        if result.move in (Move.TRY, Move.WIDEN):
            self.judging.wave_begins(before.good, before.trial, result.state.trial)
        if result.move is Move.TRY:
            self.judging.refusals.begin()
        self.revision.bump()

    def _set(self, state: State, intents: dict[str, Intent]) -> None:
        self._state, self._intents = state, intents
        good = intents.get(state.good) if state.good is not None else None
        self._known = _callers_in(good) if good else frozenset()

    async def _intent(self, version: str | None) -> Intent:
        """Raises: VST3241, VST3242."""
        if version in self._intents:
            return self._intents[version]
        reading = self._source.reading
        if reading.intent is not None and reading.intent.version == version:
            return reading.intent
        row = await self._book.latest(version) if version is not None else None
        if row is None:
            raise UNKNOWN_INTENT.error(f"the history has no version {version!r}")
        return await asyncio.to_thread(read, row, self._load)

    async def _reload(self, *, everybody: bool) -> None:
        """Take over what is kept.  ``everybody``: who is well is not known, so all registered proxies count as it."""
        if (found := await self._book.read()) is None:
            return
        state, before = found
        intents = {}
        for version in _wanted(state):
            try:
                intents[version] = await self._intent(version)
            except VestibuleError as error:
                _log.error("version %s is lost: %s", version, error)
        self._set(_without_lost(state, intents, self._clock.now()), intents)
        if everybody:
            self.judging.begins_unseen()
        else:
            self.judging.wave_begins(state.good, state.trial)
        self.judging.refusals.begin()
        self.judging.rates.resume(before)
        self.revision.bump()


def _wanted(state: State) -> tuple[str, ...]:
    return tuple(each for each in (state.trial, state.good) if each is not None)


def _without_lost(state: State, intents: Mapping[str, Intent], now: datetime) -> State:
    """The trial begins anew; what cannot be read any more cannot be had."""
    if state.good is not None and state.good not in intents:
        return State(head=None, since=now, paused=state.paused)
    if state.trial is not None and state.trial not in intents:
        return State(good=state.good, head=state.good, since=now, paused=state.paused)
    return state if state.trial is None else replace(state, since=now)


def _callers_in(intent: Intent) -> frozenset[SpiffeId]:
    services = frozenset(each.spiffe_id for each in intent.services.values())
    return services | {each.spiffe_id for each in intent.gateways.values()}
