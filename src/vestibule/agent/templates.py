"""Templates of this agent's entries: asking the server for what they give to the workloads that are there.

The server decides and keeps what it decided as an entry of this agent; from then on that is one like the others.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol, TypeVar

from vestibule.agent.changed import Changed
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.spiffe import Selector, covers
from vestibule.spiffe.templates import Variable

ASK_AGAIN: Final = timedelta(seconds=30)
"""A template that gave nothing is asked again for the same workload after this long."""
MOST_WANTED: Final = 4096
"""What so many different workloads wanted is remembered."""
V = TypeVar("V")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """An entry of the server's that gives a workload an identity made of its selectors."""

    entry_id: str
    revision: int
    selectors: frozenset[Selector]
    variables: frozenset[Variable]
    path_template: str

    def needed(self, selectors: frozenset[Selector]) -> frozenset[Selector]:
        """What the server has to know of a workload.  Raises: VST1405 if its variables are not filled."""
        return self.selectors | {each.selector(selectors) for each in self.variables}


@dataclass(frozen=True, slots=True)
class Lease:
    """A derived entry: since when it should be among the agent's entries, and when to ask for more time."""

    entry_id: str
    since: datetime
    renew_at: datetime


class TemplateUpstream(Protocol):
    """The server, as far as templates go.  Raises what ``agent.ports.Upstream`` does."""

    async def templates(self) -> Sequence[Template]:
        """Those that this agent is entitled to; none from a server that knows no templates."""
        ...

    async def derive(self, entry_id: str, selectors: frozenset[Selector]) -> tuple[str, datetime]:
        """The ID of the entry that a template gives for these selectors, and when it ends."""
        ...


Want = tuple[str, int, frozenset[Selector]]
"""A template's entry ID and revision, and what it needs to know of a workload."""


class Templates:
    """Notes what workloads want of templates, and works it off."""

    def __init__(self, upstream: TemplateUpstream, clock: Clock, changed: Changed) -> None:
        """``changed`` is told when a template gave something, or will give nothing."""
        self._upstream = upstream
        self._clock = clock
        self._changed = changed
        self._listed = False
        self.all: tuple[Template, ...] = ()
        self._pending: dict[Want, None] = {}
        self._leases: OrderedDict[Want, Lease] = OrderedDict()
        self._refused: OrderedDict[Want, tuple[datetime, VestibuleError]] = OrderedDict()
        self._outdated = True
        self._note = Changed()

    def refresh(self) -> None:
        """The server's entries may have changed, and so what it refused."""
        self._outdated = True
        self._refused.clear()
        self._note.notify()

    def want(self, selectors: frozenset[Selector], held: Mapping[str, object]) -> bool:
        """Note what a workload with these selectors would get; whether something of it is still to come.

        ``held`` are the entries that the agent has, by ID.
        """
        coming = not self._listed
        for template in self.all:
            if not covers(selectors, template.selectors):
                continue
            try:
                want = (template.entry_id, template.revision, template.needed(selectors))
            except VestibuleError:
                continue
            coming |= self._ask(want, held)
        return coming

    def _ask(self, want: Want, held: Mapping[str, object]) -> bool:
        now, lease = self._clock.now(), self._leases.get(want)
        there = lease is not None and lease.entry_id in held
        if want in self._pending:
            return not there
        # An entry that does not come, or went, was taken away by somebody: that is asked about, but not at once.
        if lease is not None and now < (lease.renew_at if there else lease.since + ASK_AGAIN):
            return not there
        refused = self._refused.get(want)
        if refused is not None and refused[0] > now:
            return False
        self._pending[want] = None
        self._note.notify()
        return not there

    def problem(self, template: Template, selectors: frozenset[Selector]) -> str:
        """Why the server gave nothing for a workload that fits; empty if it did, or has yet to be asked."""
        want = (template.entry_id, template.revision, template.needed(selectors))
        refused = self._refused.get(want)
        return "" if refused is None else str(refused[1])

    async def run(self) -> None:
        """Work off what is wanted; never ends."""
        while True:
            seen = self._note.version
            if self._outdated:
                await self._list()
            while self._pending:
                await self._derive(next(iter(self._pending)))
            await self._note.after(seen)

    async def _list(self) -> None:
        self._outdated = False
        try:
            found = tuple(await self._upstream.templates())
        except VestibuleError as error:
            # The next news from the server, at the latest when it is back, lets us ask again.
            _log.debug("no templates: %s", error)
            found = self.all
        news, self._listed = found != self.all or not self._listed, True
        self.all = found
        if news:
            self._changed.notify()

    async def _derive(self, want: Want) -> None:
        try:
            entry_id, ends = await self._upstream.derive(want[0], want[2])
        except VestibuleError as error:
            _log.log(
                logging.DEBUG if error.code.kind is Kind.UNAVAILABLE else logging.WARNING,
                "a template gave no identity (entry %s): %s",
                want[0],
                error,
            )
            _remember(self._refused, want, (self._clock.now() + ASK_AGAIN, error))
        else:
            now = self._clock.now()
            _remember(self._leases, want, Lease(entry_id, now, now + (ends - now) / 2))
            self._refused.pop(want, None)
        finally:
            self._pending.pop(want, None)
        self._changed.notify()


def _remember(kept: OrderedDict[Want, V], want: Want, value: V) -> None:
    kept[want] = value
    kept.move_to_end(want)
    while len(kept) > MOST_WANTED:
        kept.popitem(last=False)
