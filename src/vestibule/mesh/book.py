"""The rollout as the store keeps it, and what could not be kept yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vestibule.audit import AuditEvent
from vestibule.audit.ports import Detail
from vestibule.mesh.codes import UNREADABLE_INTENT
from vestibule.mesh.kept_intents import Before, read_state, write_state
from vestibule.mesh.rollout import Event, Move, State, Step
from vestibule.records import IntentOutcome, KeptIntent
from vestibule.store import IntentHistory

KEPT: Final = 50
"""Intents that are remembered, besides those in force."""

_ACTIONS: Final = {
    Move.TRY: "intent.try",
    Move.WIDEN: "intent.widen",
    Move.ACCEPT: "intent.accept",
    Move.GO_BACK: "intent.refuse",
    Move.DROP: "intent.drop",
    Move.PIN: "intent.rollback",
    Move.PAUSE: "rollout.pause",
    Move.RESUME: "rollout.resume",
}


class Book:
    """``rows`` are the intents that were taken up, the newest first, without their files."""

    def __init__(self, history: IntentHistory) -> None:
        self.rows: list[KeptIntent] = []
        self._history = history
        self._revision = 0
        self._owed: tuple[KeptIntent, ...] | None = None

    @property
    def owes(self) -> bool:
        """Whether something was done that is not kept yet."""
        return self._owed is not None

    async def read(self) -> tuple[State, Before] | None:
        """What is kept.  Raises: VST3242 for what a newer version of ours wrote."""
        record = await self._history.state()
        self.rows = await self._history.all()
        if record is None:
            return None
        try:
            found = read_state(record)
        except ValueError as error:
            raise UNREADABLE_INTENT.error(f"the state of the rollout: {error}") from error
        self._revision = record.revision
        return found

    async def is_behind(self) -> bool:
        """Whether another server has changed it."""
        record = await self._history.state()
        return record is not None and record.revision != self._revision

    async def write(self, state: State, before: Before, rows: tuple[KeptIntent, ...]) -> bool:
        """False, and nothing is kept, where another server was faster."""
        record = write_state(state, before, self._revision + 1)
        if not await self._history.record(record, *rows):
            return False
        self._revision = record.revision
        if rows:
            needed = {each for each in (state.good, state.trial, state.head) if each is not None}
            await self._history.prune(KEPT, needed)
            self.rows = await self._history.all()
        return True

    def owe(self, rows: tuple[KeptIntent, ...]) -> None:
        """The state has changed, and with it these rows; ``settle`` keeps it."""
        self._owed = (*(self._owed or ()), *rows)

    async def settle(self, state: State, before: Before) -> bool:
        """Keep what is owed.  False where another server was faster: its word counts."""
        if self._owed is None:
            return True
        written = await self.write(state, before, self._owed)
        self._owed = None
        return written

    async def latest(self, version: str) -> KeptIntent | None:
        """The newest intent of this version, with its files."""
        return await self._history.latest(version)

    def one_before(self, good: str | None) -> str | None:
        """The newest good version that is not this one."""
        known = (each.version for each in self.rows if each.outcome is IntentOutcome.GOOD)
        return next((each for each in known if each != good), None)


def record_of(before: State, result: Step, event: Event, rows: Mapping[str, KeptIntent]) -> AuditEvent:
    """What the audit log has to say of a step."""
    after = result.state
    subject = after.trial or (before.trial if result.move is Move.GO_BACK else None) or after.good or ""
    details: dict[str, Detail] = {"phase": after.phase.value, "good": after.good}
    if event.reason:
        details["reason"] = event.reason
    row = rows.get(subject)
    if row is not None and row.commit:
        details |= {"commit": row.commit, "author": row.author, "signed_by": row.signed_by}
    action = _ACTIONS.get(result.move, "rollout.note")
    return AuditEvent(actor=event.actor, action=action, subject=f"intent:{subject}", details=details)
