"""The life of a signing authority, for every kind of key that signs.

==========  ==========  ========  ===================================================================
from        step        to        what it means
==========  ==========  ========  ===================================================================
            prepare     prepared  it is in the bundle, so that everybody has it before it signs
prepared    activate    active    it signs; the one before is retired in the same step
active      retire      old       its private key is gone; it stays in the bundle until it expires,
                                  for what it signed
prepared    retire      old       another one was prepared in its place, or its key was lost
old         taint       tainted   it is about to be revoked: whoever holds what it signed asks anew
tainted     revoke      revoked   it is no longer in the bundle, and nothing that it signed is valid
==========  ==========  ========  ===================================================================

There are no other steps: what signs can be neither tainted nor revoked, nor anything that might sign next.  An
expired authority is forgotten, whatever its state; one that signs is replaced long before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import ErrorCode
from vestibule.identity.codes import (
    AUTHORITY_IN_USE,
    AUTHORITY_NOT_OLD,
    AUTHORITY_NOT_PREPARED,
    AUTHORITY_NOT_TAINTED,
    MISSING_PARAMETER,
    UNKNOWN_AUTHORITY,
)
from vestibule.keys import KeyManager
from vestibule.records import AuthorityState

ACTOR: Final = "server"
"""Who acts when it is nobody in particular: the rotation, in time."""


class Step(Enum):
    """What may happen to an authority."""

    ACTIVATE = "activate"
    RETIRE = "retire"
    TAINT = "taint"
    REVOKE = "revoke"


_PREPARED, _ACTIVE, _OLD = AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD
_TAINTED, _REVOKED = AuthorityState.TAINTED, AuthorityState.REVOKED

STEPS: Final[Mapping[tuple[AuthorityState, Step], AuthorityState]] = {
    (_PREPARED, Step.ACTIVATE): _ACTIVE,
    (_ACTIVE, Step.RETIRE): _OLD,
    (_PREPARED, Step.RETIRE): _OLD,
    (_OLD, Step.TAINT): _TAINTED,
    (_TAINTED, Step.REVOKE): _REVOKED,
}
"""All steps that there are."""

# The refusals and their kinds are those of SPIRE's LocalAuthority.
_REFUSALS: Final[Mapping[Step, tuple[ErrorCode, str]]] = {
    Step.ACTIVATE: (AUTHORITY_NOT_PREPARED, "only prepared authorities can be activated"),
    Step.TAINT: (AUTHORITY_NOT_OLD, "only old authorities can be tainted"),
    Step.REVOKE: (AUTHORITY_NOT_TAINTED, "only tainted authorities can be revoked"),
}


def after(authority_id: str, state: AuthorityState, step: Step) -> AuthorityState:
    """The state that a step leads to.  Raises: VST1305, VST1306, VST1307, VST1308 where there is no such step."""
    if (found := STEPS.get((state, step))) is not None:
        return found
    if state is _ACTIVE:
        raise AUTHORITY_IN_USE.error(f"authority {authority_id} signs: it cannot be {_PAST[step]}")
    code, rule = _REFUSALS.get(step, (AUTHORITY_NOT_PREPARED, "it has been retired already"))
    raise code.error(f"authority {authority_id} is {state.value}: {rule}")


_PAST: Final = {
    Step.ACTIVATE: "activated again",
    Step.RETIRE: "retired",
    Step.TAINT: "tainted",
    Step.REVOKE: "revoked",
}


class Lived(Protocol):
    """A record with such a life.  ``key_id`` names its private key in the key manager."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def id(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def state(self) -> AuthorityState: ...
    @property
    def not_before(self) -> datetime: ...
    @property
    def not_after(self) -> datetime: ...
    @property
    def owner(self) -> str: ...


R = TypeVar("R", bound=Lived)


class Kept(Protocol[R]):
    """Where the records of one kind are kept (``store.ports``)."""

    async def all(self) -> list[R]: ...

    async def put(self, *records: R) -> None: ...

    async def delete(self, record_id: str, /) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Which server this is among those of a database, and whether it is the one that tidies up for all."""

    owner: str
    leads: Callable[[], bool]


ALONE: Final = Ownership(owner="", leads=lambda: True)
"""The only server of its database."""
TIDY_UP_AFTER: Final = timedelta(hours=1)
"""Another server forgets its own expired authorities by itself; after this long it is taken for gone."""


class Lifecycle(Generic[R]):
    """The authorities of one kind: held in memory as they are kept, moved by the steps above and by nothing else.

    Every step is on record before it is done.  Who uses this lets one change be over before the next begins.

    Where several servers share a database, each signs with keys of its own, which it owns: the others know its
    authorities, since all of them make up one bundle, but do not move them on.
    """

    def __init__(
        self,
        kept: Kept[R],
        keys: KeyManager,
        audit: Audit,
        clock: Clock,
        *,
        kind: str,
        key_prefix: str,
        ownership: Ownership = ALONE,
    ) -> None:
        """``kind`` begins the names of audited actions, ``key_prefix`` those of the private keys."""
        self._kept = kept
        self._keys = keys
        self._audit = audit
        self._clock = clock
        self._kind = kind
        self._ownership = ownership
        self._key_prefix = f"{key_prefix}{ownership.owner}-" if ownership.owner else key_prefix
        self._known: dict[str, R] = {}

    async def start(self) -> None:
        """Read what is kept.  Raises: errors of store, keys, audit."""
        await self.reload()
        await self._retire_keyless()

    async def reload(self) -> None:
        """Read what is kept again: another server may have changed it.  Raises: errors of the store."""
        self._known = {record.id: record for record in await self._kept.all()}

    def all(self) -> list[R]:
        """All of them, oldest first."""
        return sorted(self._known.values(), key=lambda record: record.not_before)

    def all_in(self, *states: AuthorityState) -> list[R]:
        """Those in one of the states, oldest first."""
        return [record for record in self.all() if record.state in states]

    def own(self, *states: AuthorityState) -> list[R]:
        """Those of them that this server has the keys of."""
        return [record for record in self.all_in(*states) if record.owner == self._ownership.owner]

    def others_sign(self) -> bool:
        """Whether other servers sign, too."""
        now = self._clock.now()
        active = (record for record in self.all_in(_ACTIVE) if record.not_after > now)
        return any(record.owner != self._ownership.owner for record in active)

    def in_state(self, state: AuthorityState) -> R | None:
        """The newest one of this server in a state."""
        return next(reversed(self.own(state)), None)

    @property
    def active(self) -> R | None:
        """The one that signs."""
        return self.in_state(_ACTIVE)

    @property
    def prepared(self) -> R | None:
        """The one that signs next."""
        return self.in_state(_PREPARED)

    @property
    def old(self) -> R | None:
        """The one that signed last, before the active one, tainted or not."""
        return next(reversed(self.all_in(_OLD, _TAINTED)), None)

    def knows(self, authority_id: str) -> bool:
        """Whether there is such an authority, in any state."""
        return authority_id in self._known

    def get(self, authority_id: str) -> R:
        """One of them.  Raises: VST1202 without an ID, VST1304."""
        if not authority_id:
            raise MISSING_PARAMETER.error("no authority ID provided")
        try:
            return self._known[authority_id]
        except KeyError:
            raise UNKNOWN_AUTHORITY.error(f"unexpected authority ID {authority_id[:80]!r}") from None

    def can_sign(self) -> bool:
        """Whether an authority is active, and not expired."""
        return self.active is not None and self.active.not_after > self._clock.now()

    def new_key_id(self, token: str) -> str:
        """The name of a new private key."""
        return self._key_prefix + token

    async def prepare(self, record: R, actor: str = ACTOR) -> None:
        """Keep a new authority; one that was prepared before makes way for it."""
        record = replace(record, owner=self._ownership.owner)
        replaced = self.own(_PREPARED)
        await self._record("prepare", record, actor)
        for each in replaced:
            await self._record("discard", each, actor)
        await self._keep(record, *(self._moved(each, Step.RETIRE) for each in replaced))

    async def activate(self, authority_id: str, actor: str = ACTOR) -> R:
        """Let a prepared one sign from now on.  Raises: VST1202, VST1304, VST1305, VST1307."""
        found = self.get(authority_id)
        if found.owner != self._ownership.owner:
            raise AUTHORITY_NOT_PREPARED.error(f"authority {authority_id} is another server's")
        active = self._moved(found, Step.ACTIVATE)
        retired = [self._moved(each, Step.RETIRE) for each in self.own(_ACTIVE)]
        await self._record("activate", active, actor)
        await self._keep(active, *retired)
        return active

    async def taint(self, authority_id: str, actor: str = ACTOR) -> R:
        """Announce that an old one will be revoked.  Raises: VST1202, VST1304, VST1305, VST1306."""
        return await self._take(Step.TAINT, authority_id, actor)

    async def revoke(self, authority_id: str, actor: str = ACTOR) -> R:
        """Take a tainted one out of the bundle.  Raises: VST1202, VST1304, VST1305, VST1308."""
        return await self._take(Step.REVOKE, authority_id, actor)

    async def forget_expired(self) -> None:
        """Forget what is over, but for the one that signs: better an expired one than none."""
        now = self._clock.now()
        for record in self.all():
            if self._is_over(record, now):
                await self._record("expire", record, ACTOR)
                await self._kept.delete(record.id)
                del self._known[record.id]

    def _is_over(self, record: R, now: datetime) -> bool:
        if record.owner == self._ownership.owner:
            return record.not_after <= now and record.state is not _ACTIVE
        return record.not_after + TIDY_UP_AFTER <= now and self._ownership.leads()

    async def forget_spare_keys(self) -> None:
        """Remove private keys that will not sign again, also those that a crash left between two steps."""
        used = {record.key_id for record in self.own(_ACTIVE, _PREPARED)}
        for key_id in await self._keys.key_ids():
            if key_id.startswith(self._key_prefix) and key_id not in used:
                await self._keys.delete(key_id)

    def ends(self) -> Iterable[datetime]:
        """When something is to be forgotten."""
        return (record.not_after for record in self.own(*AuthorityState) if record.state is not _ACTIVE)

    async def _retire_keyless(self) -> None:
        """An authority whose key is lost (kept in memory only, say) still vouches for what it signed."""
        usable = await self._keys.key_ids()
        for record in self.own(_ACTIVE, _PREPARED):
            if record.key_id not in usable:
                await self._record("retire-keyless", record, ACTOR)
                await self._keep(self._moved(record, Step.RETIRE))

    async def _take(self, step: Step, authority_id: str, actor: str) -> R:
        moved = self._moved(self.get(authority_id), step)
        await self._record(step.value, moved, actor)
        await self._keep(moved)
        return moved

    def _moved(self, record: R, step: Step) -> R:
        return replace(record, state=after(record.id, record.state, step))

    async def _keep(self, *records: R) -> None:
        await self._kept.put(*records)
        self._known.update({record.id: record for record in records})

    async def _record(self, action: str, record: R, actor: str) -> None:
        details: dict[str, Detail] = {"not_after": record.not_after.isoformat(), "key_id": record.key_id}
        if upstream := getattr(record, "upstream_authority_id", ""):
            details["upstream_authority_id"] = upstream
        event = AuditEvent(actor=actor, action=f"{self._kind}.{action}", subject=record.id, details=details)
        await self._audit.record([event])
