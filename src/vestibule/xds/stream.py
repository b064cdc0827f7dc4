"""What the two variants of the protocol have in common."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from vestibule.xds.codes import NODE_CHANGED, NODE_MISSING, TOO_MUCH, TYPE_MISSING, TYPE_NOT_SERVED
from vestibule.xds.messages import Accepted, Event, Refused, Sent, Settled
from vestibule.xds.order import Gate, Step, gate, steps_for
from vestibule.xds.resources import CLUSTER, ENDPOINTS, Resource, Snapshot, short_hash
from vestibule.xds.subscription import NOTHING, Delivery, Subscription

MAX_NAMES: Final = 10_000
MAX_NAME_BYTES: Final = 2_048
MAX_TYPES: Final = 32
MAX_ERROR_CHARACTERS: Final = 2_000


class XdsStream:
    """One stream of one client: fed with requests and snapshots, it says what to send next.

    ``types`` are the types that may be asked for.  With several (ADS) a request must name its type, and unknown
    types are answered as empty; with one, the type may be left out and no other is served.  A client that is a relay
    keeps apart what is wanted and what it serves: with ``restates`` it hears that what it refused is wanted no longer.
    """

    def __init__(self, types: Collection[str], *, node_required: bool = True, restates: bool = False) -> None:
        self._served = tuple(types)
        self._restates = restates
        self._node_required = node_required
        self._node: str | None = None
        self._first = True
        self._snapshot: Snapshot | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._steps: tuple[Step, ...] = ()
        self._may_break = False
        self._nonces = itertools.count(1)
        self._events: list[Event] = []
        self._endpoints = _Endpoints()
        self._idle: bool | None = True
        self._unasked = {url: Subscription(url) for url in types}

    @property
    def node(self) -> str | None:
        """The node id that the client gave, frozen with its first request."""
        return self._node

    def update(self, snapshot: Snapshot) -> None:
        """A newer snapshot; one that was not sent yet is skipped."""
        self._snapshot = snapshot
        for subscription in self._subscriptions.values():
            self._feed(subscription, snapshot)
        self._settle()

    def allow_breaking(self) -> None:
        """From now on what is no longer needed may be taken away.

        Called once the client had time to say all that it wants: before, a cluster that is not needed looks the
        same as one whose routes have not been asked for yet.  Likewise only from now on a type that was not
        asked for counts as settled.
        """
        self._may_break = True
        self._settle()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to send, whatever may be sent now."""
        if self._idle is None:
            self._idle = self._lacks_nothing()
        return self._idle

    def _lacks_nothing(self) -> bool:
        for subscription in self._subscriptions.values():  # noqa: SIM110 - of all that is here this is done most
            if not subscription.is_idle:
                return False
        return True

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events

    # ------------------------------------------------------------------------------------ for the variants

    def _admit(self, type_url: str, node_id: str | None, names: Collection[str]) -> tuple[Subscription, bool]:
        """The subscription that a request is about, and whether this is the first request of its type."""
        self._check_node(node_id)
        type_url = self._check_type(type_url)
        if len(names) > MAX_NAMES or any(len(name) > MAX_NAME_BYTES for name in names):
            raise TOO_MUCH.error(f"a request names more than {MAX_NAMES} resources, or one too long")
        subscription = self._subscriptions.get(type_url)
        if subscription is not None:
            return subscription, False
        if len(self._subscriptions) >= MAX_TYPES:
            raise TOO_MUCH.error(f"more than {MAX_TYPES} types on one stream")
        subscription = self._subscriptions[type_url] = Subscription(type_url, restates=self._restates)
        self._steps = steps_for(self._subscriptions)
        return subscription, True

    def _check_node(self, node_id: str | None) -> None:
        if self._first:
            self._first = False
            if self._node_required and not node_id:
                raise NODE_MISSING.error("the first request has no node with an id")
            self._node = node_id
        elif node_id is not None and node_id != self._node:
            raise NODE_CHANGED.error("the node changed within the stream")

    def _check_type(self, type_url: str) -> str:
        if type_url in self._served:
            return type_url
        if len(self._served) > 1:
            if not type_url or len(type_url) > MAX_NAME_BYTES:
                raise TYPE_MISSING.error("a request has no type_url")
            return type_url
        if type_url:
            raise TYPE_NOT_SERVED.error(f"{type_url[:200]!r} is not served here")
        return self._served[0]

    def _knows(self, url: str) -> bool:
        return self._snapshot is not None and (self._snapshot.knows(url) or url not in self._served)

    def _limit(self, subscription: Subscription) -> None:
        if len(subscription.names) > MAX_NAMES:
            raise TOO_MUCH.error(f"more than {MAX_NAMES} names of one type on one stream")

    def _feed(self, subscription: Subscription, snapshot: Snapshot) -> None:
        url = subscription.type_url
        if url == ENDPOINTS:
            subscription.desire(self._endpoints.of(snapshot, subscription.names))
        else:
            subscription.desire(snapshot.of_type(url))

    def _feed_again(self, subscription: Subscription) -> None:
        if self._snapshot is not None:
            self._feed(subscription, self._snapshot)

    def _gate(self, step: Step) -> Gate:
        if step.breaks and not self._may_break:
            return Gate.SHUT
        return gate(step, self._subscriptions)

    def _hand_out(
        self, subscription: Subscription, delivery: Delivery, sent: Iterable[Resource] | None = None
    ) -> str:
        self._idle = None
        nonce = str(next(self._nonces))
        subscription.deliver(nonce, delivery, sent=sent)
        if subscription.type_url == CLUSTER and (endpoints := self._subscriptions.get(ENDPOINTS)) is not None:
            # A cluster that is sent, perhaps once more, gets warm only with endpoints that come after it.
            endpoints.owe(delivery.resources)
        if subscription.type_url in self._served:
            self._events.append(Sent(type_url=subscription.type_url, version=delivery.version, nonce=nonce))
        return nonce

    def _answered(self, subscription: Subscription, nonce: str, error: str | None) -> None:
        """Take an ACK or NACK; which of them it is, the presence of an error decides alone."""
        url = subscription.type_url
        if error is None:
            delivery = subscription.accept(nonce)
            if delivery is not None and url in self._served:
                self._events.append(Accepted(type_url=url, version=delivery.version, nonce=nonce))
            return
        error = error[:MAX_ERROR_CHARACTERS]
        delivery = subscription.refuse(nonce, error)
        if delivery is not None and url in self._served:
            self._events.append(Refused(type_url=url, version=delivery.version, nonce=nonce, error=error))

    def _settle(self) -> None:
        """Tell, once for each snapshot and outcome, which types need nothing more."""
        self._idle = None
        snapshot = self._snapshot
        if snapshot is None:
            return
        for url in self._served:
            asked = self._subscriptions.get(url)
            subscription = self._unasked[url] if asked is None else asked
            refusals = subscription.refusals
            announced = subscription.announced
            if announced is not None and announced[0] is snapshot and announced[1] == refusals:
                continue
            done = self._may_break if asked is None else self._is_settled(asked)
            if done and snapshot.knows(url):
                subscription.announced = snapshot, refusals
                event = Settled(
                    type_url=url, snapshot=snapshot, refused=refusals, asked=subscription is asked
                )
                self._events.append(event)

    def _is_settled(self, subscription: Subscription) -> bool:
        return not (
            subscription.unacknowledged
            or subscription.on_trial
            or subscription.must_answer
            or (subscription.plan is not NOTHING and subscription.plan)
        )


class _Endpoints:
    """The endpoints of a snapshot, with an empty answer for each cluster that has none.

    Without an answer a cluster warms until Envoy gives up waiting.
    """

    def __init__(self) -> None:
        self._made: Mapping[str, Resource] = {}
        self._made_from: tuple[Mapping[str, Resource], Mapping[str, Resource], frozenset[str]] | None = None

    def of(self, snapshot: Snapshot, asked: Collection[str]) -> Mapping[str, Resource]:
        endpoints, clusters = snapshot.of_type(ENDPOINTS), snapshot.of_type(CLUSTER)
        if not asked:
            return endpoints
        empty = frozenset(name for name in asked if name not in endpoints and name in clusters)
        if not empty:
            return endpoints
        made = self._made_from
        if made is None or made[0] is not endpoints or made[1] is not clusters or made[2] != empty:
            self._made_from = (endpoints, clusters, empty)
            self._made = {**endpoints, **{name: no_endpoints(name, clusters[name].version) for name in empty}}
        return self._made


def no_endpoints(cluster: str, version: str = "") -> Resource:
    """The answer for a cluster that has no endpoints; ``version`` is the cluster's."""
    body = ClusterLoadAssignment(cluster_name=cluster).SerializeToString(deterministic=True)
    return Resource(ENDPOINTS, cluster, body, short_hash("no endpoints", version))
