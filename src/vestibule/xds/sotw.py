"""The server's half of state-of-the-world xDS, for one stream (xds_protocol.rst, "Basic Protocol Overview")."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from vestibule.xds.messages import WILDCARD, SotwRequest, SotwResponse
from vestibule.xds.order import Action, Gate, Step
from vestibule.xds.resources import CLUSTER, ENDPOINTS, LISTENER, Resource, Snapshot, short_hash
from vestibule.xds.stream import MAX_ERROR_CHARACTERS, XdsStream, no_endpoints
from vestibule.xds.subscription import Delivery, Subscription

FULL_STATE: Final = frozenset({CLUSTER, LISTENER})
"""Types whose responses carry everything, since absence means deletion.  Others carry what changed."""

REMEMBERED: Final = 64
"""Whole states of one stream that are remembered: those under way, and those that were refused."""


Absent = Callable[[Sequence[str]], Exception]
"""Makes an error of names that were asked for and do not exist."""


class SotwStream(XdsStream):
    """Feed it with ``receive`` and ``update``; send what ``next_response`` returns until it returns None.

    This variant has no word for what does not exist.  With ``absent`` such a name (of a type whose responses carry
    what changed) is an error, which ``next_response`` raises before anything else is sent; without, it is silence.
    """

    def __init__(
        self, types: Collection[str], *, node_required: bool = True, absent: Absent | None = None
    ) -> None:
        super().__init__(types, node_required=node_required)
        self._absent = absent
        self._last_nonce: dict[str, str] = {}
        self._states: dict[tuple[str, str], tuple[Resource, ...]] = {}
        self._refused_states: dict[tuple[str, str], tuple[str, tuple[Resource, ...]]] = {}
        self._accepted: dict[str, tuple[Resource, ...]] = {}
        self._named: set[str] = set()
        self._presented: dict[str, str] = {}
        self._sent_for: dict[str, Snapshot | None] = {}

    def receive(self, request: SotwRequest) -> None:
        """Take one request.  Raises: VST3100, VST3101, VST3102, VST3103, VST3104.

        A request with a stale nonce is ignored: the client answers the newer response as well, with its
        whole subscription.
        """
        subscription, first = self._admit(request.type_url, request.node_id, request.names)
        url = subscription.type_url
        if first:
            subscription.must_answer = url in FULL_STATE
            if url in FULL_STATE:
                self._presented[url] = request.version
        elif request.nonce != self._last_nonce.get(url, ""):
            self._learn(url, request)
            return
        else:
            self._answered(subscription, request.nonce, request.error)
            self._learn(url, request)
        self._resubscribe(subscription, request.names, first)
        self._limit(subscription)
        self._feed_again(subscription)
        self._settle_claims()
        self._settle()

    def _learn(self, url: str, request: SotwRequest) -> None:
        """What an answer says of a whole state, also of one that a newer response has overtaken."""
        state = self._states.pop((url, request.nonce), None)
        if state is None:
            return
        if request.error is None:
            self._accepted[url] = state
            return
        self._refused_states[url, _identity(state)] = request.error[:MAX_ERROR_CHARACTERS], state
        _trim(self._refused_states)
        # It refused with that also what we sent to undo something it may have taken meanwhile.
        sure = () if self._under_way(url) else self._accepted.get(url, ())
        self._subscriptions[url].doubt(each.name for each in state if each not in sure)

    def _under_way(self, url: str) -> list[tuple[Resource, ...]]:
        return [state for (of_type, _), state in self._states.items() if of_type == url]

    def update(self, snapshot: Snapshot) -> None:
        """A newer snapshot; one that was not sent yet is skipped."""
        super().update(snapshot)
        self._pardon()
        self._settle_claims()
        self._settle()

    def _pardon(self) -> None:
        """States with something that was refused, and was not wanted meanwhile, may be tried again."""
        for url, subscription in self._subscriptions.items():
            if pardoned := subscription.take_pardoned():
                for key, (_, state) in list(self._refused_states.items()):
                    if key[0] == url and any((each.name, each.version) in pardoned for each in state):
                        del self._refused_states[key]

    def _resubscribe(self, subscription: Subscription, names: tuple[str, ...], first: bool) -> None:
        """Nothing named, ever, means everything; once something was named, nothing means nothing."""
        url = subscription.type_url
        if names:
            self._named.add(url)
        wanted = set(names) if url in self._named else {WILDCARD}
        present = subscription.names | ({WILDCARD} if subscription.wildcard else set())
        subscription.unsubscribe(present - wanted, answer=False)
        subscription.subscribe(sorted(wanted - present), resend=not first)

    def _settle_claims(self) -> None:
        """Believe a client that presents the version of just what it should have; then nothing is sent.

        Only where it wants everything: it may have forgotten a name, which does not show in the version.
        """
        for url in list(self._presented):
            if self._knows(url):
                subscription = self._subscriptions[url]
                presented = self._presented.pop(url)
                if subscription.wildcard and presented == subscription.wanted_version():
                    subscription.claim_all()
                    self._accepted[url] = subscription.whole({})

    def next_response(self) -> SotwResponse | None:
        """What to send now, if anything; the caller sends it before it asks again."""
        for step in self._steps:
            subscription = self._subscriptions[step.type_url]
            if self._knows(step.type_url):
                full = step.type_url in FULL_STATE
                take = self._take_whole if full else self._take_changes
                response = take(step, subscription, self._gate(step))
                if response is not None:
                    return response
        return None

    def _take_whole(self, step: Step, subscription: Subscription, gate: Gate) -> SotwResponse | None:
        """Changes, with all else that the client has.  Removals are left out only when their step has come.

        A newer snapshot overtakes a response that is not acknowledged: it may take away what never gets warm.
        """
        url = subscription.type_url
        if subscription.unacknowledged and self._sent_for.get(url) is self._snapshot:
            return None
        while True:
            changes: list[Resource] = []
            answer = False
            if Action.UPSERT in step.action and gate is not Gate.SHUT:
                changes = _upserts(subscription, gate)
                answer = subscription.must_answer
            removals = subscription.plan.removals if self._may_remove(url) else ()
            subscription.note_absent(subscription.plan.absences)
            if not (changes or removals or answer):
                return None
            if subscription.unacknowledged:
                changes += subscription.supersede()
            resources = subscription.whole({each.name: each for each in changes}, without=removals)
            unproven = subscription.unproven(resources)
            error, _ = self._refused_states.get((url, _identity(resources)), (None, ()))
            if error is None:
                self._sent_for[url] = self._snapshot
                return self._respond(subscription, unproven, removals, resources)
            if not unproven:
                return None
            # What is on trial makes up, with what was accepted, just a state that was refused.
            subscription.deliver("", Delivery("", unproven), sent=resources)
            subscription.refuse("", error)
            self._settle()

    def _may_remove(self, url: str) -> bool:
        steps = [step for step in self._steps if step.type_url == url and Action.REMOVE in step.action]
        return all(self._gate(step) is Gate.OPEN for step in steps)

    def _take_changes(self, step: Step, subscription: Subscription, gate: Gate) -> SotwResponse | None:
        """What changed, and nothing while a response waits for its ACK: a newer nonce would lose the answer."""
        if self._absent is not None:
            gone = [name for name in subscription.plan.removals if name in subscription.names]
            if names := (*subscription.plan.absences, *gone):
                raise self._absent(names)
        if subscription.unacknowledged:
            return None
        if Action.REMOVE in step.action and gate is Gate.OPEN and subscription.plan.removals:
            subscription.drop(subscription.plan.removals)
            self._settle()
        # Silence would let a cluster that is about to go, and keep back its ACK, warm for ever.
        unknown: list[Resource] = []
        if subscription.type_url == ENDPOINTS:
            unknown = [no_endpoints(name) for name in subscription.plan.absences]
        subscription.note_absent(subscription.plan.absences)
        if Action.UPSERT not in step.action or gate is Gate.SHUT:
            return None
        changes = {resource.name: resource for resource in _upserts(subscription, gate)}
        changes |= {resource.name: resource for resource in unknown}
        return self._respond(subscription, changes, (), tuple(changes.values())) if changes else None

    def _respond(
        self,
        subscription: Subscription,
        changes: dict[str, Resource],
        removed: tuple[str, ...],
        resources: tuple[Resource, ...],
    ) -> SotwResponse:
        assert self._snapshot is not None
        nonce = self._hand_out(
            subscription, Delivery(self._snapshot.version, changes, removed), sent=resources
        )
        self._last_nonce[subscription.type_url] = nonce
        if subscription.type_url in FULL_STATE:
            self._warm(subscription.type_url, resources)
            self._states[subscription.type_url, nonce] = resources
            _trim(self._states)
        return SotwResponse(
            type_url=subscription.type_url,
            version=subscription.state_version(),
            nonce=nonce,
            resources=resources,
        )

    def _warm(self, url: str, resources: tuple[Resource, ...]) -> None:
        """Endpoints go out again for each cluster that this may change, if only back to what was good."""
        endpoints = self._subscriptions.get(ENDPOINTS)
        if url != CLUSTER or endpoints is None:
            return
        states = (self._accepted.get(url, ()), *self._under_way(url))
        possible = {(each.name, each.version) for state in states for each in state}
        sent = {(each.name, each.version) for each in resources}
        changed = {name for name, _ in possible ^ sent}
        endpoints.owe(each.name for each in resources if each.name in changed)


def _trim(memory: dict[tuple[str, str], Any]) -> None:
    while len(memory) > REMEMBERED:
        del memory[next(iter(memory))]


def _identity(resources: tuple[Resource, ...]) -> str:
    return short_hash(*(part for resource in resources for part in (resource.name, resource.version)))


def _upserts(subscription: Subscription, gate: Gate) -> list[Resource]:
    if gate is Gate.NEW_ONLY:
        return [resource for resource in subscription.plan.upserts if not subscription.has(resource.name)]
    return subscription.next_suspects() or list(subscription.plan.upserts)
