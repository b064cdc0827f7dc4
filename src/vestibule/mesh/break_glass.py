"""Break-glass: permissions that an emergency asks for, opened, ended, and every use of them on record.

No record, no action: what cannot be written to the audit log is not opened, and a report of uses that cannot is asked
for again.  A permission ends by the proxies' own clocks; that it is also taken out of their configuration, and that its
end is on record, is done here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.envoy.world import rule_of
from vestibule.errors import VestibuleError
from vestibule.intent import Intent
from vestibule.mesh.break_glass_orders import Order, emergency_of, warnings_of
from vestibule.mesh.codes import EMERGENCY_NOT_OPEN, NO_INTENT_YET, TOO_MANY_EMERGENCIES
from vestibule.mesh.revision import Revision, first_change
from vestibule.policy import Rule
from vestibule.records import LONGEST_TOLD, OTHERS, Emergency, EmergencyUse
from vestibule.spiffe import SpiffeId
from vestibule.store.changes import Changes
from vestibule.store.ports import Emergencies

MOST_OPEN: Final = 100
KEPT_FOR: Final = timedelta(days=90)
"""How long an ended permission is shown; the audit log has it for as long as that is kept."""
EXPIRY: Final = "expiry"
"""Who closed what ended by itself."""
RETRY_SECONDS: Final = 2.0
LOOK_EVERY: Final = timedelta(seconds=10)
CLOCKS_APART: Final = timedelta(minutes=1)
"""How far those of proxies may be from ours before a use counts as one at the wrong time."""
_BATCHES: Final = 10_000

_log = logging.getLogger(__name__)


class KeptEmergencies(Protocol):
    """The parts of the store that are needed (``store.Store``)."""

    @property
    def emergencies(self) -> Emergencies: ...
    @property
    def changes(self) -> Changes: ...
    @property
    def leads(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A new permission, and what whoever opened it should know."""

    emergency: Emergency
    warnings: tuple[str, ...]


class BreakGlass:
    """The permissions of one database, in the memory of each of its servers."""

    def __init__(
        self,
        store: KeptEmergencies,
        audit: Audit,
        clock: Clock,
        *,
        intents: Callable[[], Sequence[Intent]],
        entitled: Callable[[SpiffeId, SpiffeId], bool],
        recorded: Callable[[], Iterable[tuple[str, str]]] = lambda: (),
    ) -> None:
        """``intents`` are in force, that of most proxies first.  ``entitled``: an agent, to an identity.

        ``recorded`` reads which agent's reports of uses this server put on record last, by their names.
        """
        self._recorded = recorded
        self._entitled = entitled
        self._store = store
        self._audit = audit
        self._clock = clock
        self._intents = intents
        self._known: dict[str, Emergency] = {}
        self._batches: OrderedDict[tuple[SpiffeId, str], None] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()
        self._changes = store.changes.subscribe("emergencies")
        self._revision = Revision()
        self.observe: Callable[[str, int], None] = lambda _service, _count: None
        """Told of uses: of which service, and how many."""

    async def load(self) -> None:
        """Read what is kept.  Raises: errors of the store."""
        self._known = {each.id: each for each in await self._store.emergencies.all()}

    async def take_up(self) -> None:
        """At the start, before agents report: what they reported to a former run of this server counts once.

        Raises: VST8100.
        """
        for agent, batch in await asyncio.to_thread(lambda: list(self._recorded())):
            self._batches[SpiffeId.parse(agent), batch] = None

    async def run(self) -> None:
        """Follow what other servers do, and put on record what ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(), name="break-glass-follow")
            tasks.create_task(self._end(), name="break-glass-end")

    # ------------------------------------------------------------------------------------ what holds

    @property
    def revision(self) -> Revision:
        """Grows whenever a permission is opened or ends."""
        return self._revision

    def holding(self) -> tuple[Emergency, ...]:
        """What holds now, in the order in which it was opened."""
        now = self._clock.now()
        return tuple(each for each in self._known.values() if each.holds(now))

    def ended(self) -> tuple[Emergency, ...]:
        """What has ended in the last 90 days."""
        now = self._clock.now()
        return tuple(each for each in self._known.values() if not each.holds(now))

    def next_end(self, now: datetime) -> datetime | None:
        """When the next of them ends by itself."""
        return min((each.expires_at for each in self._known.values() if each.holds(now)), default=None)

    async def all(self) -> list[Emergency]:
        """All that are kept, oldest first, with the uses that are on record."""
        return await self._store.emergencies.all()

    # ---------------------------------------------------------------------------------- what is done

    async def open(self, order: Order) -> Opened:
        """Permit something; in force, and on its way to the proxies, when this returns.

        Raises: VST3203 (no intent), VST4090 to VST4092, VST4094, errors of the audit log and of the store.
        """
        async with self._one_at_a_time:
            intents = self._intents()
            if not intents:
                raise NO_INTENT_YET.error("no valid intent has been read yet")
            emergency = emergency_of(order, intents[0], self._clock.now())
            if len(self.holding()) >= MOST_OPEN:
                raise TOO_MANY_EMERGENCIES.error(f"{MOST_OPEN} permissions are open")
            await self._audit.record([_event("open", order.opener, emergency)])
            await self._store.emergencies.add(emergency)
            self._known[emergency.id] = emergency
            self.revision.bump()
        _log.warning("%s is open: %s", emergency.rule, sentence(emergency))
        return Opened(emergency=emergency, warnings=tuple(warnings_of(emergency, intents[0])))

    async def close(self, emergency_id: str, actor: str) -> Emergency:
        """End a permission before its time.  Raises: VST4093, errors of the audit log and of the store."""
        async with self._one_at_a_time:
            known = self._known.get(emergency_id)
            if known is None or not known.holds(self._clock.now()):
                raise EMERGENCY_NOT_OPEN.error(f"{emergency_id[:80]!r} is not open")
            return await self._close(known, actor, self._clock.now())

    async def _close(self, known: Emergency, actor: str, at: datetime) -> Emergency:
        await self._audit.record([_event("expire" if actor == EXPIRY else "close", actor, known)])
        closed = await self._store.emergencies.close(known.id, at, actor)
        if closed is None:
            # Another server of the database was first.
            await self.load()
            closed = self._known.get(known.id, known)
        self._known[known.id] = closed
        self.revision.bump()
        _log.warning("%s has ended: %s, %d uses", known.rule, actor, closed.uses)
        return closed

    async def used(self, agent_id: SpiffeId, batch: str, uses: Sequence[EmergencyUse]) -> None:
        """Put on record what an agent's proxies let through.

        ``batch`` is the agent's name for the report, so that one that was not answered in time counts once.  What
        cannot be so, such as the use of a permission that nobody knows, is on record as that.
        Raises: errors of the audit log; then the agent asks again.
        """
        if (agent_id, batch) in self._batches or not uses:
            return
        if any(each.rule not in self._rules() for each in uses):
            await self.load()
        await self._audit.record([self._use(agent_id, batch, each) for each in uses])
        self._batches[agent_id, batch] = None
        while len(self._batches) > _BATCHES:
            self._batches.popitem(last=False)
        for each in uses:
            _log.warning(
                "%s was used %d times, last at %s: %s called %s/%s %s %s",
                each.rule,
                each.count,
                each.last.isoformat(timespec="seconds"),
                each.caller or "unknown",
                each.service,
                each.port,
                each.method,
                each.path,
            )
            self.observe(each.service, each.count)
            if (known := self._rules().get(each.rule)) is not None:
                await self._count(known, each.count)

    async def _count(self, known: Emergency, count: int) -> None:
        try:
            await self._store.emergencies.used(known.id, count)
        except VestibuleError as error:
            # It is in the audit log; only the number beside the permission is too small.
            _log.error("uses of %s are not counted: %s", known.rule, error)

    def _rules(self) -> dict[str, Emergency]:
        return {each.rule: each for each in self._known.values()}

    def _use(self, agent_id: SpiffeId, batch: str, use: EmergencyUse) -> AuditEvent:
        known = self._rules().get(use.rule)
        details: dict[str, Detail] = {
            "agent": str(agent_id),
            "service": use.service,
            "port": use.port,
            "reporter": use.spiffe_id,
            "instance": use.instance_id,
            "method": use.method,
            "path": use.path,
            "count": use.count,
            "first": use.first.isoformat(),
            "last": use.last.isoformat(),
            "request_ids": use.request_ids,
            "batch": batch,
        }
        if known is not None:
            details |= {"ticket": known.ticket, "approver": known.approver, "opener": known.opener}
        return AuditEvent(
            actor=use.caller or "unknown",
            action="break-glass.use",
            subject=use.rule,
            outcome=self._outcome(agent_id, known, use),
            details=details,
        )

    def _outcome(self, agent_id: SpiffeId, known: Emergency | None, use: EmergencyUse) -> str:
        """Whether it can be so.  An entry that was deleted since the use must not make the use unknown."""
        try:
            reporter = SpiffeId.parse(use.spiffe_id)
        except VestibuleError:
            return "not an identity"
        if not self._entitled(agent_id, reporter):
            return "not an identity of this agent"
        if known is None:
            return "unknown permission"
        services = [intent.services.get(known.service) for intent in self._intents()]
        if known.service != use.service or all(
            each is None or str(each.spiffe_id) != use.spiffe_id for each in services
        ):
            return "not the callee of this permission"
        return "ok" if _permits(known, use) else "not what this permission allows"

    # ------------------------------------------------------------------------------------ what goes on

    async def _follow(self) -> None:
        async for _ in self._changes:
            before = {each.id: each.closed_at for each in self._known.values()}
            await self.load()
            if {each.id: each.closed_at for each in self._known.values()} != before:
                self.revision.bump()

    async def _end(self) -> None:
        """Put on record what has ended by itself, and forget what ended long ago."""
        while True:
            now = self._clock.now()
            try:
                if self._store.leads:
                    await self._expire(now)
            except VestibuleError as error:
                _log.error("the end of break-glass is not on record yet: %s", error)
                await self._clock.sleep_until(now + timedelta(seconds=RETRY_SECONDS))
                continue
            await self._next_end(now)

    async def _expire(self, now: datetime) -> None:
        for each in [
            each for each in self._known.values() if each.closed_at is None and each.expires_at <= now
        ]:
            async with self._one_at_a_time:
                await self._close(each, EXPIRY, each.expires_at)
        if await self._store.emergencies.prune(now - KEPT_FOR):
            await self.load()

    async def _next_end(self, now: datetime) -> None:
        """Until something is opened or closed, or ends by itself."""
        ends = self.next_end(now)
        if any(each.closed_at is None and each.expires_at <= now for each in self._known.values()):
            # The server that leads puts it on record; should it stop, somebody else does.
            ends = now + LOOK_EVERY
        changed = asyncio.ensure_future(first_change((self.revision, self.revision.value)))
        waiting = [changed]
        if ends is not None:
            waiting.append(asyncio.ensure_future(self._clock.sleep_until(ends)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()


def _permits(known: Emergency, use: EmergencyUse) -> bool:
    """Whether the permission can have let such a call through, as far as the report says what it was."""
    rule = rule_of(known)
    # Of what came in a flood, method and path are not told, or not even callers; long paths are cut.
    said = use.path != OTHERS and len(use.path) < LONGEST_TOLD
    return (
        (use.caller == OTHERS or _is_among(rule, use.caller))
        and (rule.port in (None, use.port) or use.port == OTHERS)
        and (not (said and rule.methods) or use.method in rule.methods)
        and (not (said and rule.paths) or any(each.matches(use.path) for each in rule.paths))
        and use.first >= known.opened_at - CLOCKS_APART
        and use.last < known.expires_at + CLOCKS_APART
    )


def _is_among(rule: Rule, caller: str) -> bool:
    try:
        return rule.calls_from(SpiffeId.parse(caller))
    except VestibuleError:
        return False


def sentence(emergency: Emergency) -> str:
    """A permission as people read it."""
    what = " ".join(filter(None, (emergency.method, emergency.path))) or "anything"
    target = f"{emergency.service}/{emergency.port}" if emergency.port else emergency.service
    return (
        f"{', '.join(emergency.callers)} may call {what} of {target} until "
        f"{emergency.expires_at.isoformat(timespec='seconds')} ({emergency.ticket}: {emergency.reason}; "
        f"opened by {emergency.opener}, approved by {emergency.approver})"
    )


def _event(action: str, actor: str, emergency: Emergency) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        action=f"break-glass.{action}",
        subject=emergency.rule,
        details={
            "callers": emergency.callers,
            "service": emergency.service,
            "port": emergency.port,
            "method": emergency.method,
            "path": emergency.path,
            "reason": emergency.reason,
            "ticket": emergency.ticket,
            "approver": emergency.approver,
            "opener": emergency.opener,
            "opened_at": emergency.opened_at.isoformat(),
            "expires_at": emergency.expires_at.isoformat(),
        },
    )
