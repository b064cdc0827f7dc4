"""What an agent knows of the apps of its instances: it asks them, as their services say."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from vestibule.records import Address, CheckView, Health, Keeper

AT_ONCE: Final = 32
"""Apps that an agent asks at the same time."""
EAGER: Final = 0.1
"""Seconds after which a new app that is not well yet is asked again; doubled each time, up to what its service says."""

Ask: TypeAlias = Callable[[CheckView, Address, str, Keeper], Awaitable[str | None]]
"""``calls.app_checks.ask``: what is wrong with an app, by its check, address, protocol and keeper."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Verdict:
    """Counts what one app answered; a table of thresholds and nothing else."""

    health: Health = Health.UNKNOWN
    passed: int = 0
    failed: int = 0

    def take(self, well: bool, check: CheckView) -> bool:
        """Count one answer; whether it changed what is known.

        An app that is new is well with its first good answer.
        """
        before = self.health
        if well:
            self.passed, self.failed = self.passed + 1, 0
            if self.passed >= check.healthy or before is Health.STARTING:
                self.health = Health.HEALTHY
        else:
            self.passed, self.failed = 0, self.failed + 1
            if self.failed >= check.unhealthy:
                self.health = Health.UNHEALTHY
        return self.health is not before


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and how."""

    check: CheckView
    address: Address
    protocol: str


class Checks:
    """What all instances of a node have in common: how they are asked, and how many of them at a time.

    ``enters_networks`` is whether an app in a network namespace of its own can be asked there.
    """

    def __init__(self, ask: Ask, at_once: int = AT_ONCE, *, enters_networks: bool = False) -> None:
        self.enters_networks = enters_networks
        self.ask = ask
        self.slots = asyncio.Semaphore(at_once)
        self.observe: Callable[[str, bool], None] = lambda _kind, _well: None
        """Told of every answer: the kind of check, and whether the app is well."""


class AppHealth:
    """One instance's app.  ``run`` asks it; ``changed`` is called whenever ``health`` is another."""

    def __init__(self, name: str, keeper: Keeper, checks: Checks, changed: Callable[[], None]) -> None:
        self._name = name
        self._keeper = keeper
        self._checks = checks
        self._changed = changed
        self._verdict = Verdict()
        self._reachable = False
        self._target: Target | None = None
        self._moved = asyncio.Event()
        self._again = EAGER

    @property
    def health(self) -> Health:
        return self._verdict.health

    def expect(self, target: Target | None, *, reachable: bool) -> None:
        """Whom to ask from now on, if anybody; ``reachable`` is whether others reach the instance at all.

        Who just became reachable has to pass a check before it is called.  Who was called before its service asked
        for a check goes on being called until it fails.
        """
        before, was_reachable = self._target, self._reachable
        self._target, self._reachable = target, reachable
        if target is None:
            self._verdict = Verdict()
        elif not was_reachable:
            self._verdict, self._again = Verdict(Health.STARTING), EAGER
        elif before != target:
            self._verdict = Verdict(self._verdict.health)
        if before != target or was_reachable is not reachable:
            self._moved.set()

    async def run(self) -> None:
        """Ask, again and again, until cancelled."""
        while True:
            self._moved.clear()
            if (target := self._target) is None:
                await self._moved.wait()
                continue
            async with self._checks.slots:
                problem = await self._checks.ask(target.check, target.address, target.protocol, self._keeper)
            self._checks.observe(target.check.kind, problem is None)
            if self._target == target and not self._moved.is_set():
                self._take(problem, target.check)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause(target.check)):
                        await self._moved.wait()

    def _take(self, problem: str | None, check: CheckView) -> None:
        if self._verdict.take(problem is None, check):
            if problem is None:
                _log.info("the app of %s is well", self._name)
            else:
                _log.warning("the app of %s is not well and is left out: %s", self._name, problem)
            self._changed()

    def _pause(self, check: CheckView) -> float:
        if self.health is Health.STARTING:
            pause, self._again = min(self._again, check.every), self._again * 2
            return pause
        # What was started together is not asked together for ever.
        return check.every * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load only
