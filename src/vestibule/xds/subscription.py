"""What one client wants, has and refused of one type of resource, within one stream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from vestibule.xds.messages import WILDCARD
from vestibule.xds.resources import Resource, short_hash

REMEMBERED: Final = 16
"""How many accepted responses are remembered, for clients that find out later that they must refuse one."""

_UNSURE: Final = ""
"""The version of a resource that a client has in an unknown state."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One response on its way: what it changes at the client."""

    version: str
    resources: Mapping[str, Resource]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What the client lacks: resources, removals of what it has, and word that a name does not exist."""

    upserts: tuple[Resource, ...] = ()
    removals: tuple[str, ...] = ()
    absences: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.upserts or self.removals or self.absences)


NOTHING: Final = Plan()
_NO_REFUSALS: Final[Mapping[str, str]] = MappingProxyType({})


class Subscription:
    """The bookkeeping of one type on one stream.

    A refused response of one resource condemns that resource for as long as it is wanted.  A refused response of
    several is halved and tried again, so that what is wrong is found and what is right gets through; the same
    bytes are not sent twice, unless something else was wanted in between.  With ``restates`` the client is told once
    more what it has when that is wanted again in the place of what it refused.
    """

    def __init__(self, type_url: str, *, restates: bool = False) -> None:
        self.type_url = type_url
        self._restates = restates
        self.names: set[str] = set()
        self.wildcard = False
        self.must_answer = False
        self.unacknowledged: dict[str, Delivery] = {}
        self.announced: tuple[object, object] | None = None
        self._accepted: dict[str, Delivery] = {}
        self._desired: Mapping[str, Resource] = {}
        self._has: dict[str, str] = {}
        self._bodies: dict[str, Resource] = {}
        self._good: dict[str, Resource] = {}
        self._told_absent: set[str] = set()
        self._owed: set[str] = set()
        self._refused: dict[str, tuple[str, str]] = {}
        self._pardoned: set[tuple[str, str]] = set()
        self._suspects: deque[dict[str, Resource]] = deque()
        self._plan: Plan | None = None

    # ------------------------------------------------------------------------------------- what is wanted

    def covers(self, name: str) -> bool:
        """Whether the client is subscribed to this name."""
        return self.wildcard or name in self.names

    def subscribe(self, names: Iterable[str], *, resend: bool) -> None:
        """Add names; with ``resend`` they are owed even if the client should have them already."""
        for name in names:
            if name == WILDCARD:
                if resend and self.wildcard:
                    self._owed.update(self._desired)
                self.wildcard = True
                continue
            self.names.add(name)
            self._told_absent.discard(name)
            if resend:
                self._owed.add(name)
        self._plan = None

    def unsubscribe(self, names: Iterable[str], *, answer: bool = True) -> None:
        """Take names away; the client forgets them.  Names that were never subscribed to are ignored.

        With ``answer`` (delta) a client that keeps a wildcard is told about each name, one way or the other,
        since it cannot know whether the name is part of the wildcard.
        """
        for name in sorted(names, key=lambda name: name != WILDCARD):
            if name == WILDCARD:
                self.wildcard = False
                for other in [name for name in self._has if name not in self.names]:
                    self._forget(other)
                self._owed &= self.names
            elif name in self.names:
                self.names.discard(name)
                self._owed.discard(name)
                if answer or not self.wildcard:
                    self._forget(name)
                if self.wildcard and answer:
                    self._owed.add(name)
        self._plan = None

    def claim(self, versions: Mapping[str, str]) -> None:
        """The client says what it has from before (``initial_resource_versions``)."""
        self._has.update({name: version for name, version in versions.items() if self.covers(name)})
        self._plan = None

    def claim_all(self) -> None:
        """The client has exactly what is wanted now (SotW: it presented the version of just that)."""
        for resource in self._covered():
            self._has[resource.name] = resource.version
            self._bodies[resource.name] = self._good[resource.name] = resource
        self.must_answer = False
        self._plan = None

    def owe(self, names: Iterable[str]) -> None:
        """What the client has under these names must be sent again."""
        self._owed.update(name for name in names if self.covers(name) and name in self._has)
        self._plan = None

    def doubt(self, names: Iterable[str]) -> None:
        """It is unknown which version the client has of these."""
        for name in names:
            if name in self._has and name not in self._refused:
                self._has[name] = _UNSURE
        self._plan = None

    def desire(self, desired: Mapping[str, Resource]) -> None:
        """What exists now."""
        if desired is not self._desired:
            self._desired = desired
            self._plan = None
            if self._refused:
                self._pardon()

    def _pardon(self) -> None:
        """What was refused and is no longer wanted is tried again when it is wanted again: its cause may be gone."""
        for name, (version, _) in list(self._refused.items()):
            wanted = self._desired.get(name)
            if wanted is None or wanted.version != version:
                del self._refused[name]
                self._pardoned.add((name, version))
                if self._restates and wanted is not None and self._has.get(name) == wanted.version:
                    self._owed.add(name)

    def take_pardoned(self) -> set[tuple[str, str]]:
        """Names and versions that were refused, and may be tried again by now."""
        pardoned, self._pardoned = self._pardoned, set()
        return pardoned

    # -------------------------------------------------------------------------------------- what is lacking

    @property
    def plan(self) -> Plan:
        """What the client lacks and has not refused; suspects aside."""
        if self._plan is None:
            self._plan = self._make_plan()
        return self._plan

    def _make_plan(self) -> Plan:
        if self.wildcard and not (self.names or self._suspects or self._owed or self._refused):
            return self._plan_for_everything()
        on_trial = {(r.name, r.version) for group in self._suspects for r in group.values()}
        upserts = tuple(
            resource
            for resource in self._covered()
            if self._lacks(resource) and (resource.name, resource.version) not in on_trial
        )
        # What is owed though it is about to go: until its time has come, the client gets what it had.
        held = [
            self._bodies[name] for name in sorted(self._owed - self._desired.keys()) if name in self._bodies
        ]
        gone = [name for name in self._has if name not in self._desired and self.covers(name)]
        unknown = {name for name in self.names if name not in self._told_absent} | self._owed
        absent = [name for name in unknown if name not in self._desired and name not in self._has]
        return Plan((*upserts, *held), tuple(sorted(gone)), tuple(sorted(absent)))

    def _plan_for_everything(self) -> Plan:
        """The same for the most common of clients: it wants all there is, and took all that it was sent."""
        has, desired = self._has, self._desired
        upserts = tuple([each for each in desired.values() if has.get(each.name) != each.version])
        gone = sorted([name for name in has if name not in desired])
        return Plan(upserts, tuple(gone)) if upserts or gone else NOTHING

    def _covered(self) -> Iterable[Resource]:
        if self.wildcard:
            return self._desired.values()
        return [self._desired[name] for name in sorted(self.names) if name in self._desired]

    def _lacks(self, resource: Resource) -> bool:
        if resource.name in self._owed:
            return True
        if self._is_refused(resource):
            return False
        return self._has.get(resource.name) != resource.version

    def _is_refused(self, resource: Resource) -> bool:
        return self._refused.get(resource.name, (None, ""))[0] == resource.version

    def next_suspects(self) -> list[Resource]:
        """The next part of a refused response to try by itself; empty when there is none."""
        while self._suspects:
            group = self._suspects.popleft()
            self._plan = None
            again = [r for r in group.values() if self._is_wanted(r) and self._has.get(r.name) != r.version]
            if again:
                return again
        return []

    def _is_wanted(self, resource: Resource) -> bool:
        wanted = self._desired.get(resource.name) if self.covers(resource.name) else None
        return wanted is not None and wanted.version == resource.version

    @property
    def on_trial(self) -> bool:
        """Whether parts of a refused response wait to be tried by themselves."""
        return bool(self._suspects)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to send, whatever the order allows."""
        plan = self._plan
        if plan is None:
            plan = self.plan
        if plan is NOTHING:
            return not (self.must_answer or self._suspects)
        return not (plan.upserts or plan.removals or plan.absences or self.must_answer or self._suspects)

    @property
    def upserts_done(self) -> bool:
        """Whether the client has, or has refused, every resource that exists."""
        in_flight = any(delivery.resources for delivery in self.unacknowledged.values())
        return not (in_flight or self.on_trial or self.must_answer or self.plan.upserts)

    @property
    def removals_done(self) -> bool:
        """Whether the client has confirmed every removal."""
        return not (self.plan.removals or any(d.removed for d in self.unacknowledged.values()))

    @property
    def refusals(self) -> Mapping[str, str]:
        """What is wanted and was refused, with the client's words."""
        if not self._refused:
            return _NO_REFUSALS
        return {
            name: error
            for name, (version, error) in self._refused.items()
            if (wanted := self._desired.get(name)) is not None and wanted.version == version
        }

    def has(self, name: str) -> bool:
        """Whether the client has some version of this resource."""
        return name in self._has

    # ----------------------------------------------------------------------------------- what was delivered

    def deliver(self, nonce: str, delivery: Delivery, *, sent: Iterable[Resource] | None = None) -> None:
        """A response with this nonce is handed out; ``sent`` is all that it carries, if that is more."""
        for resource in delivery.resources.values() if sent is None else sent:
            name = resource.name
            self._has[name] = resource.version
            self._bodies[name] = resource
            self._told_absent.discard(name)
            self._owed.discard(name)
            if self._is_refused(resource):
                del self._refused[name]
        for name in delivery.removed:
            self._forget(name)
            self._owed.discard(name)
            self._told_absent.add(name)
        if self._told_absent:
            self._told_absent &= self.names
        self.must_answer = False
        self.unacknowledged[nonce] = delivery
        self._plan = None

    def accept(self, nonce: str) -> Delivery | None:
        """The client took it.  None for a nonce that is unknown or was answered before."""
        delivery = self.unacknowledged.pop(nonce, None)
        if delivery is None:
            return None
        for name, resource in delivery.resources.items():
            has = self._has.get(name)
            if has is not None:
                # Good even if a newer one is under way already: it is what stays if that is refused.
                self._good[name] = resource
            if has == _UNSURE and not self._in_flight(name):
                self._has[name] = resource.version
                self._bodies[name] = resource
                self._plan = None
        for name in delivery.removed:
            self._good.pop(name, None)
        self._accepted[nonce] = delivery
        while len(self._accepted) > REMEMBERED:
            del self._accepted[next(iter(self._accepted))]
        return delivery

    def refuse(self, nonce: str, error: str) -> Delivery | None:
        """The client refused it, perhaps after it had accepted it.  None for an unknown nonce."""
        delivery = self.unacknowledged.pop(nonce, None) or self._accepted.pop(nonce, None)
        if delivery is None:
            return None
        disputed = {n: r for n, r in delivery.resources.items() if self._has.get(n) == r.version}
        for name, resource in disputed.items():
            if self._good.get(name) is resource:
                del self._good[name]
        if len(delivery.resources) == 1 and disputed:
            self._condemn(next(iter(disputed.values())), error)
        else:
            self._divide(disputed)
        self._plan = None
        return delivery

    def _condemn(self, resource: Resource, error: str) -> None:
        name = resource.name
        self._refused[name] = (resource.version, error)
        good = self._good.get(name)
        if good is not None and not self._in_flight(name):
            self._has[name] = good.version
            self._bodies[name] = good
        elif good is not None:
            # It may have taken one that was sent in between, and not have said so yet.
            self._has[name] = _UNSURE
            self._bodies[name] = good
        else:
            self._has[name] = _UNSURE
            self._bodies.pop(name, None)

    def _in_flight(self, name: str) -> bool:
        return any(name in delivery.resources for delivery in self.unacknowledged.values())

    def _divide(self, disputed: dict[str, Resource]) -> None:
        for name in disputed:
            self._has[name] = _UNSURE
            if name in self._good:
                self._bodies[name] = self._good[name]
            else:
                self._bodies.pop(name, None)
        items = list(disputed.items())
        half = (len(items) + 1) // 2
        self._suspects.extend(dict(part) for part in (items[:half], items[half:]) if part)

    def supersede(self) -> list[Resource]:
        """Take back what is under way, since a newer whole state replaces it (SotW); returns what is still wanted."""
        under_way = [r for delivery in self.unacknowledged.values() for r in delivery.resources.values()]
        self.unacknowledged.clear()
        return [resource for resource in under_way if self._is_wanted(resource)]

    def unproven(self, resources: Iterable[Resource]) -> dict[str, Resource]:
        """Those that the client has not accepted yet, so that a refusal may be about any of them."""
        return {each.name: each for each in resources if self._good.get(each.name) != each}

    def drop(self, names: Iterable[str]) -> None:
        """Names are gone without word to the client (SotW, where removals are not said)."""
        for name in names:
            self._forget(name)
            self._told_absent.add(name)
        self._told_absent &= self.names
        self._plan = None

    def note_absent(self, names: Iterable[str]) -> None:
        """Names are known not to exist without word to the client (SotW)."""
        self._told_absent.update(name for name in names if name in self.names)
        self._owed.difference_update(names)
        self._plan = None

    def _forget(self, name: str) -> None:
        for of_name in (self._has, self._bodies, self._good, self._refused):
            of_name.pop(name, None)

    # ---------------------------------------------------------------------------------- whole states (SotW)

    def whole(self, changes: Mapping[str, Resource], *, without: Iterable[str] = ()) -> tuple[Resource, ...]:
        """The state of the world that ``changes`` leads to: what the client has, changed, less ``without``."""
        state = {name: body for name, body in self._bodies.items() if self.covers(name)} | dict(changes)
        for name in without:
            state.pop(name, None)
        return tuple(state[name] for name in sorted(state))

    def state_version(self) -> str:
        """Names the state that the client has, for SotW's ``version_info``."""
        return _name_state(self._has, self.names)

    def wanted_version(self) -> str:
        """Names the state that the client should have."""
        return _name_state({r.name: r.version for r in self._covered()}, self.names)


def _name_state(versions: Mapping[str, str], names: Iterable[str]) -> str:
    parts: list[str] = []
    for name in sorted({*versions, *names}):
        parts += (name, versions.get(name, "-"))
    return short_hash(*parts)
