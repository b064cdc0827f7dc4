"""The server's half of state-of-the-world xDS, for one stream (xds_protocol.rst, "Basic Protocol Overview")."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from vestibule.xds.messages import WILDCARD, SotwRequest, SotwResponse
from vestibule.xds.order import Action, Gate, Step
from vestibule.xds.resources import CLUSTER, LISTENER, Resource, Snapshot
from vestibule.xds.stream import XdsStream
from vestibule.xds.subscription import Delivery, Subscription

FULL_STATE: Final = frozenset({CLUSTER, LISTENER})
"""Types whose responses carry everything, since absence means deletion.  Others carry what changed."""


class SotwStream(XdsStream):
    """Feed it with ``receive`` and ``update``; send what ``next_response`` returns until it returns None."""

    def __init__(self, types: Collection[str], *, node_required: bool = True) -> None:
        super().__init__(types, node_required=node_required)
        self._last_nonce: dict[str, str] = {}
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
            self._presented[url] = request.version
        elif request.nonce != self._last_nonce.get(url, ""):
            return
        else:
            self._answered(subscription, request.nonce, request.error)
        self._resubscribe(subscription, request.names, first)
        self._limit(subscription)
        self._feed_again(subscription)
        self._settle_claims()
        self._settle()

    def update(self, snapshot: Snapshot) -> None:
        """A newer snapshot; one that was not sent yet is skipped."""
        super().update(snapshot)
        self._settle_claims()
        self._settle()

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
        """Believe a client that presents the version of just what it should have; then nothing is sent."""
        for url in list(self._presented):
            if self._knows(url):
                subscription = self._subscriptions[url]
                if self._presented.pop(url) == subscription.wanted_version():
                    subscription.claim_all()

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
        changes: list[Resource] = []
        answer = False
        if Action.UPSERT in step.action and gate is not Gate.SHUT:
            changes = _upserts(subscription, gate)
            answer = subscription.must_answer
        removals = subscription.plan.removals if self._may_remove(url) else ()
        subscription.note_absent(subscription.plan.absences)
        if not (changes or removals or answer):
            return None
        group = {resource.name: resource for resource in changes}
        if subscription.unacknowledged:
            group = subscription.supersede() | group
        self._sent_for[url] = self._snapshot
        return self._respond(subscription, group, removals, whole=True)

    def _may_remove(self, url: str) -> bool:
        steps = [step for step in self._steps if step.type_url == url and Action.REMOVE in step.action]
        return all(self._gate(step) is Gate.OPEN for step in steps)

    def _take_changes(self, step: Step, subscription: Subscription, gate: Gate) -> SotwResponse | None:
        """What changed, and nothing while a response waits for its ACK: a newer nonce would lose the answer."""
        if subscription.unacknowledged:
            return None
        if Action.REMOVE in step.action and gate is Gate.OPEN and subscription.plan.removals:
            subscription.drop(subscription.plan.removals)
            self._settle()
        subscription.note_absent(subscription.plan.absences)
        if Action.UPSERT not in step.action or gate is Gate.SHUT:
            return None
        changes = {resource.name: resource for resource in _upserts(subscription, gate)}
        return self._respond(subscription, changes, (), whole=False) if changes else None

    def _respond(
        self,
        subscription: Subscription,
        changes: dict[str, Resource],
        removed: tuple[str, ...],
        *,
        whole: bool,
    ) -> SotwResponse:
        assert self._snapshot is not None
        resources = subscription.whole(changes, without=removed) if whole else tuple(changes.values())
        nonce = self._hand_out(subscription, Delivery(self._snapshot.version, changes, removed))
        self._last_nonce[subscription.type_url] = nonce
        return SotwResponse(
            type_url=subscription.type_url,
            version=subscription.state_version(),
            nonce=nonce,
            resources=resources,
        )


def _upserts(subscription: Subscription, gate: Gate) -> list[Resource]:
    if gate is Gate.NEW_ONLY:
        return [resource for resource in subscription.plan.upserts if not subscription.has(resource.name)]
    return subscription.next_suspects() or list(subscription.plan.upserts)
