"""What speaks for and against an intent that is tried: proxies' answers, their silence, and requests that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.intent import Intent
from vestibule.intent.access_changes import access_changes
from vestibule.intent.model import Service
from vestibule.mesh.error_rates import ErrorRates, Report
from vestibule.mesh.refusals import Refusals
from vestibule.mesh.rollout import State
from vestibule.mesh.waves import Member, Verdict, look
from vestibule.policy.rules import Rule
from vestibule.records import Instance
from vestibule.spiffe import SpiffeId
from vestibule.xds.ledger import ProxyState
from vestibule.xds.resources import ProxyKey

LOOK_EVERY: Final = timedelta(seconds=2)
"""As often as proxies report."""

MOST_KNOWN: Final = 1000
"""Of so many instances, and of twice as many as there are, reports are remembered."""

BUSY: Final = timedelta(seconds=1)
"""How long the server has other things to do when a wave begins."""


class Judging:
    """Knows every proxy of this server.  ``instances`` are registered ones, ``proxy`` tells how one stands."""

    def __init__(
        self,
        instances: Callable[[], tuple[Instance, ...]],
        proxy: Callable[[ProxyKey], ProxyState | None],
        version_for: Callable[[ProxyKey], str | None],
    ) -> None:
        self.rates = ErrorRates()
        self.refusals = Refusals()
        self.instances = instances
        self._proxy = proxy
        self._version_for = version_for
        self._well: frozenset[str] | None = frozenset()
        self._versions: tuple[str, ...] = ()
        self._crowded = MOST_KNOWN

    def standing(self) -> Iterator[tuple[Instance, str | None, ProxyState | None]]:
        """Every registered instance, the version that its proxy is to have, and how the proxy stands."""
        for each in self.instances():
            proxy = ProxyKey(each.spiffe_id, each.id)
            yield each, self._version_for(proxy), self._proxy(proxy)

    def take_report(self, proxy: ProxyKey, report: Report, trial: str | None, now: datetime) -> None:
        """What a proxy counted."""
        state, tries_for = self._proxy(proxy), None
        if trial is not None and state is not None and state.has(trial):
            tries_for = now - max(row.updated_at for row in state.rows)
        self.rates.take(report, now, tries_for=tries_for)
        if self.rates.size > self._crowded:
            # Every start of an instance has an id of its own; most that are known are gone.
            self.rates.retain({each.id: each.service for each in self.instances()})
            self._crowded = max(MOST_KNOWN, 2 * self.rates.size)

    def wave_begins(self, *versions: str | None) -> None:
        """Those will be well that are connected and have one of these versions, or connected since."""
        # Found out a little later: now there are proxies to be told something.
        self._well, self._versions = None, tuple(each for each in versions if each is not None)

    def _find_who_is_well(self, since: datetime) -> None:
        versions, self._versions = self._versions, ()
        # In the middle of a fan-out to thousands, where what is not needed is not asked.
        found = ((each.id, self._proxy(ProxyKey(each.spiffe_id, each.id))) for each in self.instances())
        self._well = frozenset(
            name
            for name, state in found
            if state is not None
            and state.connected
            and (state.since >= since or any(state.has(version) for version in versions))
        )

    def begins_unseen(self) -> None:
        """Nobody knows who was well, so all proxies count as it."""
        self._well, self._versions = None, ()

    def verdict(self, state: State, intents: Mapping[str, Intent], now: datetime) -> Verdict:
        """What to say now about the trial of ``state``."""
        assert state.trial is not None
        assert state.since is not None
        trial, good = intents[state.trial], intents.get(state.good or "")
        if failure := self.refusals.failure(state.trial) or self._spike(trial, good):
            return Verdict(failure=failure)
        over = state.since + trial.mesh.rollout.watch
        asked = min(over, state.since + BUSY)
        if self._versions and now >= asked:
            self._find_who_is_well(state.since)
        if now < over:
            return Verdict(again=min(over, now + LOOK_EVERY, asked if now < asked else over))
        return look(self._members(state.trial), state.since, trial.mesh.rollout.watch, now)

    def _spike(self, trial: Intent, good: Intent | None) -> str:
        if good is None or not (spike := self.rates.spike(trial.mesh.rollout.errors)):
            return ""
        return "" if differ_in_rules_alone(trial, good) else spike

    def _members(self, trial: str) -> Iterator[Member]:
        for instance, wanted, state in self.standing():
            if wanted == trial:
                yield Member(
                    instance_id=instance.id,
                    service=instance.service,
                    was_well=self._well is None or instance.id in self._well,
                    has_it=state is not None and state.has(trial),
                )


def differ_in_rules_alone(one: Intent, other: Intent) -> bool:
    """Whether two intents differ in who may call what, and in nothing else.

    Then error rates do not count: those whom a rule stops must not be able to take it back by failing.
    """
    return _but_rules(one) == _but_rules(other)


def judges_of_lockdown(good: Intent, trial: Intent) -> frozenset[SpiffeId] | None:
    """Whose refusals count, where a trial takes calls away and does nothing else: those who are to enforce it.

    Who only loses by it must not be able to keep what he has by refusing.  None: it is no such trial.
    """
    if not differ_in_rules_alone(trial, good):
        return None
    changes = access_changes(good, trial)
    if not changes or any(each.gains for each in changes):
        return None
    changed = [
        each.spiffe_id
        for name, each in trial.services.items()
        if name in good.services and _rules(each) != _rules(good.services[name])
    ]
    if trial.mesh.roles != good.mesh.roles:
        changed += [each.spiffe_id for each in trial.services.values()]
    return frozenset(changed)


def _rules(service: Service) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    return service.allow, service.deny


def _but_rules(intent: Intent) -> Intent:
    services = {name: replace(each, allow=(), deny=()) for name, each in intent.services.items()}
    outside = {name: replace(each, allow=()) for name, each in intent.externals.items()}
    mesh = replace(intent.mesh, roles={})
    return replace(intent, services=services, externals=outside, secrets={}, mesh=mesh, version="")
