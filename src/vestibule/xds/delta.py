"""The server's half of incremental xDS, for one stream (xds_protocol.rst, "Incremental xDS")."""

from __future__ import annotations

from typing import Final

from vestibule.xds.messages import WILDCARD, DeltaRequest, DeltaResponse
from vestibule.xds.order import Action, Gate, Step
from vestibule.xds.resources import Resource
from vestibule.xds.stream import XdsStream
from vestibule.xds.subscription import Delivery, Subscription

MAX_UNACKNOWLEDGED: Final = 8
"""Responses of one type that may wait for their ACK.  More than one, because Envoy holds back the ACK of clusters
that warm, and a newer snapshot may be what ends the wait."""

RESPONSE_BYTES: Final = 1 << 20
"""Responses are cut at this size, well below the 4 MiB that gRPC clients take by default."""


class DeltaStream(XdsStream):
    """Feed it with ``receive`` and ``update``; send what ``next_response`` returns until it returns None."""

    def receive(self, request: DeltaRequest) -> None:
        """Take one request.  Raises: VST3100, VST3101, VST3102, VST3103, VST3104.

        A subscription counts whether or not the nonce is stale; the nonce only says which response is answered.
        """
        names = (*request.subscribe, *request.unsubscribe)
        subscription, first = self._admit(request.type_url, request.node_id, names)
        if request.nonce:
            self._answered(subscription, request.nonce, request.error)
        if first:
            self._begin(subscription, request)
        elif names:
            subscription.unsubscribe(request.unsubscribe)
            subscription.subscribe(request.subscribe, resend=True)
        if first or names:
            self._limit(subscription)
            self._feed_again(subscription)
        self._settle()

    def _begin(self, subscription: Subscription, request: DeltaRequest) -> None:
        """The first request of a type: only here an empty subscription means everything, and versions count."""
        subscription.subscribe(request.subscribe, resend=False)
        if not request.subscribe and not request.unsubscribe:
            subscription.subscribe((WILDCARD,), resend=False)
        subscription.claim(request.initial_versions)
        subscription.must_answer = subscription.wildcard and not request.initial_versions

    def next_response(self) -> DeltaResponse | None:
        """What to send now, if anything; the caller sends it before it asks again."""
        if self.is_idle:
            return None
        for step in self._steps:
            subscription = self._subscriptions[step.type_url]
            if subscription.is_idle or not self._knows(step.type_url):
                continue
            if len(subscription.unacknowledged) >= MAX_UNACKNOWLEDGED:
                continue
            response = self._take(step, subscription, self._gate(step))
            if response is not None:
                return response
        return None

    def _take(self, step: Step, subscription: Subscription, gate: Gate) -> DeltaResponse | None:
        resources: list[Resource] = []
        removed: list[str] = []
        answer = False
        if Action.UPSERT in step.action:
            removed += subscription.plan.absences
            if gate is not Gate.SHUT:
                answer = subscription.must_answer
                resources = _fitting(_upserts(subscription, gate))
        if Action.REMOVE in step.action and gate is Gate.OPEN:
            removed += subscription.plan.removals
        if not (resources or removed or answer):
            return None
        return self._respond(subscription, resources, removed)

    def _respond(
        self, subscription: Subscription, resources: list[Resource], removed: list[str]
    ) -> DeltaResponse:
        assert self._snapshot is not None
        version = self._snapshot.version
        delivery = Delivery(version, {resource.name: resource for resource in resources}, tuple(removed))
        return DeltaResponse(
            type_url=subscription.type_url,
            version=version,
            nonce=self._hand_out(subscription, delivery),
            resources=tuple(resources),
            removed=tuple(removed),
        )


def _upserts(subscription: Subscription, gate: Gate) -> list[Resource]:
    """Parts of a refused response go alone, so that the blame falls where it belongs."""
    if gate is Gate.NEW_ONLY:
        return [resource for resource in subscription.plan.upserts if not subscription.has(resource.name)]
    return subscription.next_suspects() or list(subscription.plan.upserts)


def _fitting(resources: list[Resource]) -> list[Resource]:
    """As many as one response holds; at least one."""
    size = 0
    for count, resource in enumerate(resources):
        size += len(resource.body) + len(resource.name)
        if size > RESPONSE_BYTES and count:
            return resources[:count]
    return resources
