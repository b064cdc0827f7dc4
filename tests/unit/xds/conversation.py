"""A client that talks to a machine in a test, in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from vestibule.xds.delta import DeltaStream
from vestibule.xds.messages import DeltaRequest, DeltaResponse, Event, Settled, SotwRequest, SotwResponse
from vestibule.xds.resources import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    ROUTES,
    Resource,
    Snapshot,
)
from vestibule.xds.sotw import SotwStream

TYPES: Final = {"cds": CLUSTER, "eds": ENDPOINTS, "lds": LISTENER, "rds": ROUTES, "ecds": EXTENSION}
SHORT: Final = {url: short for short, url in TYPES.items()}


def world(version: str, **named: str) -> Snapshot:
    """``world("1", cds="a b=2")`` is cluster a, and cluster b with the content "2"."""
    resources: list[Resource] = []
    for short, names in named.items():
        for item in names.split():
            name, _, content = item.partition("=")
            resources.append(Resource.of(TYPES[short], name, f"{name}={content}".encode()))
    return Snapshot.of(version, resources)


def contents(resources: Iterable[Resource]) -> str:
    return " ".join(sorted(r.body.decode().removesuffix("=") for r in resources))


class DeltaTalk:
    """``say`` sends a request; ``hear`` is all that the server sends now, as short texts.

    A response reads "cds +a=1 +b -c"; each is remembered under its type for ``ack`` and ``nack``.
    """

    def __init__(
        self, snapshot: Snapshot | None = None, *, may_break: bool = True, restates: bool = False
    ) -> None:
        self.machine = DeltaStream(tuple(TYPES.values()), restates=restates)
        self.nonces: dict[str, list[str]] = {}
        self.responses: list[DeltaResponse] = []
        self.events: list[Event] = []
        self._first = True
        if may_break:
            self.machine.allow_breaking()
        if snapshot is not None:
            self.update(snapshot)

    def update(self, snapshot: Snapshot) -> list[str]:
        self.machine.update(snapshot)
        return self.hear()

    def say(
        self,
        short: str,
        subscribe: str = "",
        unsubscribe: str = "",
        *,
        has: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str | None = None,
    ) -> list[str]:
        node, self._first = ("proxy" if self._first else None), False
        self.machine.receive(
            DeltaRequest(
                type_url=TYPES.get(short, short),
                node_id=node,
                subscribe=tuple(subscribe.split()),
                unsubscribe=tuple(unsubscribe.split()),
                initial_versions=has or {},
                nonce=nonce,
                error=error,
            )
        )
        return self.hear()

    def hear(self) -> list[str]:
        heard = []
        while (response := self.machine.next_response()) is not None:
            short = SHORT.get(response.type_url, response.type_url)
            self.nonces.setdefault(short, []).append(response.nonce)
            self.responses.append(response)
            parts = [short]
            parts += sorted(f"+{contents([r])}" for r in response.resources)
            parts += sorted(f"-{name}" for name in response.removed)
            heard.append(" ".join(parts))
        self.events += self.machine.take_events()
        return heard

    def ack(self, *shorts: str) -> list[str]:
        """Acknowledge the oldest unanswered response of each type."""
        heard: list[str] = []
        for short in shorts:
            heard += self.say(short, nonce=self.nonces[short].pop(0))
        return heard

    def nack(self, short: str, error: str = "bad") -> list[str]:
        return self.say(short, nonce=self.nonces[short].pop(0), error=error)

    def ack_all(self) -> list[str]:
        """Acknowledge whatever comes until nothing does; returns what came after."""
        heard: list[str] = []
        while short := next((short for short, nonces in self.nonces.items() if nonces), None):
            heard += self.ack(short)
        return heard

    def settled(self) -> dict[str, dict[str, str]]:
        """The last outcome of each type."""
        events = [event for event in self.events if isinstance(event, Settled)]
        return {SHORT[event.type_url]: dict(event.refused) for event in events}


class SotwTalk:
    """The same for state-of-the-world streams; the subscription is said in full each time."""

    def __init__(self, snapshot: Snapshot | None = None, *, may_break: bool = True) -> None:
        self.machine = SotwStream(tuple(TYPES.values()))
        self.last: dict[str, SotwResponse] = {}
        self.names: dict[str, str] = {}
        self.accepted: dict[str, str] = {}
        self.events: list[Event] = []
        self._first = True
        if may_break:
            self.machine.allow_breaking()
        if snapshot is not None:
            self.update(snapshot)

    def update(self, snapshot: Snapshot) -> list[str]:
        self.machine.update(snapshot)
        return self.hear()

    def say(
        self,
        short: str,
        names: str | None = None,
        *,
        nonce: str | None = None,
        version: str | None = None,
        error: str | None = None,
    ) -> list[str]:
        if names is not None:
            self.names[short] = names
        last = self.last.get(short)
        node, self._first = ("proxy" if self._first else None), False
        self.machine.receive(
            SotwRequest(
                type_url=TYPES.get(short, short),
                node_id=node,
                names=tuple(self.names.get(short, "").split()),
                version=self.accepted.get(short, "") if version is None else version,
                nonce=(last.nonce if last else "") if nonce is None else nonce,
                error=error,
            )
        )
        return self.hear()

    def hear(self) -> list[str]:
        heard = []
        while (response := self.machine.next_response()) is not None:
            short = SHORT.get(response.type_url, response.type_url)
            self.last[short] = response
            heard.append(f"{short} {contents(response.resources)}".strip())
        self.events += self.machine.take_events()
        return heard

    def ack(self, *shorts: str) -> list[str]:
        heard: list[str] = []
        for short in shorts:
            self.accepted[short] = self.last[short].version
            heard += self.say(short)
        return heard

    def nack(self, short: str, error: str = "bad") -> list[str]:
        return self.say(short, error=error)

    def settled(self) -> dict[str, dict[str, str]]:
        """The last outcome of each type."""
        events = [event for event in self.events if isinstance(event, Settled)]
        return {SHORT[event.type_url]: dict(event.refused) for event in events}
