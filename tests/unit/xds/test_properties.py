"""A model of Envoy against the server's half, in every order of events that Hypothesis can think of.

The model takes a response wholly or not at all, warms clusters until endpoints come, holds back the ACK of
clusters while one is warming, and asks for endpoints and routes as clusters and listeners name them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.xds.conversation import TYPES

from vestibule.xds.delta import DeltaStream
from vestibule.xds.messages import DeltaRequest, DeltaResponse, SotwRequest, SotwResponse
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, LISTENER, ROUTES, Resource, Snapshot
from vestibule.xds.sotw import FULL_STATE, SotwStream

BAD: Final = "bad"
NAMES: Final = ("a", "b", "c", "d")
contents = st.sampled_from(["1", "2", "3", BAD])
Kept = dict[str, dict[str, tuple[str, str]]]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, dict[str, str]]:
    """Contents by type and name; routes lead to clusters that exist and are good."""
    clusters = draw(st.dictionaries(st.sampled_from(NAMES), contents))
    good = sorted(name for name, content in clusters.items() if content != BAD)
    return {
        CLUSTER: clusters,
        ENDPOINTS: {name: draw(st.sampled_from("12")) for name in clusters if draw(st.booleans())},
        LISTENER: {"in": draw(st.sampled_from("12"))} if good else {},
        ROUTES: {"out": draw(st.sampled_from(good))} if good else {},
        EXTENSION: draw(st.dictionaries(st.sampled_from("rst"), contents)),
    }


class Envoy(RuleBasedStateMachine):
    """What both variants have in common; ``has`` is what the model applied: version and content by name."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[str, dict[str, str]] = {}
        self.snapshot = Snapshot.of("0", [])
        self.count = 0
        self.exempt = False
        self.interrupted = False
        self.has: Kept = {url: {} for url in TYPES.values()}
        self.warming: set[str] = set()
        self.inbox: deque[Any] = deque()
        self.withheld: list[Any] = []
        self.asked: dict[str, set[str]] = {}
        self.extensions: set[str] = set()
        self.offered: set[tuple[str, tuple[tuple[str, str], ...]]] = set()

    # ------------------------------------------------------------------------------------------ to be given

    machine: Any

    @property
    def may_ask_anew(self) -> bool:
        """Whether the server will heed a change of names now."""
        return True

    def new_machine(self) -> Any: ...

    def ask(self, url: str, *, first: bool = False) -> None:
        """Say which names of a type are wanted, ``self.asked[url]``, where they changed."""

    def answer(self, response: Any, error: str | None) -> None: ...

    def apply(self, response: Any) -> None: ...

    # ----------------------------------------------------------------------------------------------- rules

    @initialize(world=worlds())
    def begin(self, world: dict[str, dict[str, str]]) -> None:
        self.connect()
        self.publish(world)

    @rule(world=worlds())
    def publish(self, world: dict[str, dict[str, str]]) -> None:
        self.count += 1
        self.wanted = world
        resources = [
            Resource.of(url, name, f"{name}={content}".encode())
            for url, named in world.items()
            for name, content in named.items()
        ]
        self.snapshot = Snapshot.of(str(self.count), resources)
        # What was changed and changed back may be offered again.
        self.offered = {offer for offer in self.offered if self.is_wanted(*offer)}
        self.machine.update(self.snapshot)
        self.hear()

    @rule(steps=st.integers(1, 5))
    def go_on(self, steps: int) -> None:
        """Envoy takes the next responses."""
        for _ in range(min(steps, len(self.inbox))):
            self.take(self.inbox.popleft())

    @precondition(lambda self: self.may_ask_anew)
    @rule(names=st.sets(st.sampled_from("rstu")))
    def want_extensions(self, names: set[str]) -> None:
        self.extensions = names
        for name in self.has[EXTENSION].keys() - names:
            del self.has[EXTENSION][name]
        self.asked[EXTENSION] = set(names)
        self.ask(EXTENSION)
        self.hear()

    @rule()
    def reconnect(self) -> None:
        self.interrupted = self.interrupted or bool(self.warming)
        self.connect()
        self.machine.update(self.snapshot)
        self.hear()

    @rule()
    @precondition(lambda self: self.count > 0)
    def come_to_rest(self) -> None:
        self.run_dry()
        if self.interrupted:
            # A cluster that was warming when the stream broke and is about to go: nobody can answer for it, and
            # Envoy gives up waiting (initial_fetch_timeout).
            self.interrupted = False
            self.warming.clear()
            self.release()
            self.hear()
            self.run_dry()
        assert not self.inbox, "it never ends"
        assert not self.warming, "a cluster never gets warm"
        assert not self.withheld
        self.has_what_is_wanted()
        clusters = self.wanted.get(CLUSTER, {})
        self.exempt = self.exempt and BAD in clusters.values()

    def run_dry(self) -> None:
        for _ in range(500):
            if not self.inbox:
                break
            self.take(self.inbox.popleft())

    # -------------------------------------------------------------------------------------------- invariants

    @invariant()
    def no_route_leads_nowhere(self) -> None:
        if self.exempt:
            return
        for _, target in self.has[ROUTES].values():
            assert target in self.has[CLUSTER], "503 NC"

    def has_what_is_wanted(self) -> None:
        refused = {u for u, named in self.wanted.items() if BAD in named.values()}
        for url, named in self.wanted.items():
            asked = named.keys() if url in FULL_STATE else named.keys() & self.asked.get(url, set())
            held = CLUSTER in refused and url in (LISTENER, ROUTES)
            for name in asked:
                if named[name] != BAD and not held:
                    assert self.has[url].get(name, ("", ""))[1] == named[name], (url, name)
            gone = self.has[url].keys() - named.keys()
            if url in FULL_STATE and not refused:
                assert not gone, (url, gone)

    # ------------------------------------------------------------------------------------------------ inside

    def connect(self) -> None:
        self.machine = self.new_machine()
        self.inbox.clear()
        self.withheld.clear()
        self.offered.clear()
        self.asked = {
            ENDPOINTS: set(self.has[CLUSTER]) | self.warming,
            ROUTES: {"out"} if self.has[LISTENER] else set(),
            EXTENSION: set(self.extensions),
        }
        for url in (CLUSTER, ENDPOINTS, LISTENER, ROUTES, EXTENSION):
            self.ask(url, first=True)
        self.machine.allow_breaking()

    def hear(self) -> None:
        while (response := self.machine.next_response()) is not None:
            names = [resource.name for resource in response.resources]
            assert len(names) == len(set(names))
            # Asking anew for a name brings it anew, whatever became of it.
            assert response.type_url == EXTENSION or _offer(response) not in self.offered, "refused before"
            self.inbox.append(response)

    def take(self, response: Any) -> None:
        if any(resource.body.endswith(b"=bad") for resource in response.resources):
            if self.is_wanted(*_offer(response)):
                self.offered.add(_offer(response))
            self.answer(response, "no")
        else:
            before = {name: version for name, (version, _) in self.has[CLUSTER].items()}
            self.apply(response)
            if response.type_url == CLUSTER:
                now = {name: version for name, (version, _) in self.has[CLUSTER].items()}
                self.warming |= {name for name in now if now[name] != before.get(name)}
                self.warming &= now.keys()
                self.follow(ENDPOINTS, set(now))
            elif response.type_url == LISTENER:
                self.follow(ROUTES, {"out"} if self.has[LISTENER] else set())
            elif response.type_url == ENDPOINTS:
                named = {r.name for r in response.resources} | set(getattr(response, "removed", ()))
                self.warming -= named
            if response.type_url == CLUSTER and self.warming:
                self.withheld.append(response)
            else:
                self.answer(response, None)
            if not self.warming:
                self.release()
        self.hear()

    def release(self) -> None:
        for late in self.withheld:
            self.answer(late, None)
        self.withheld.clear()

    def is_wanted(self, url: str, versions: tuple[tuple[str, str], ...]) -> bool:
        now = self.snapshot.of_type(url)
        return all(name in now and now[name].version == version for name, version in versions)

    def follow(self, url: str, names: set[str]) -> None:
        if names != self.asked.get(url, set()):
            self.asked[url] = names
            for gone in self.has[url].keys() - names:
                del self.has[url][gone]
            self.ask(url)

    def store(self, url: str, resources: tuple[Resource, ...]) -> None:
        for resource in resources:
            content = resource.body.decode(errors="replace").partition("=")[2]
            self.has[url][resource.name] = (resource.version, content)


def _offer(response: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    return response.type_url, tuple(sorted((r.name, r.version) for r in response.resources))


class DeltaEnvoy(Envoy):
    def new_machine(self) -> DeltaStream:
        self.told: dict[str, set[str]] = {}
        return DeltaStream(tuple(TYPES.values()))

    def ask(self, url: str, *, first: bool = False) -> None:
        wanted = {"*"} if url in FULL_STATE else self.asked.get(url, set())
        told = self.told.get(url)
        if told is None and not wanted:
            return
        self.told[url] = set(wanted)
        versions: Mapping[str, str] = (
            {name: version for name, (version, _) in self.has[url].items()} if told is None else {}
        )
        self.machine.receive(
            DeltaRequest(
                type_url=url,
                node_id="envoy",
                subscribe=tuple(sorted(wanted - (told or set()))),
                unsubscribe=tuple(sorted((told or set()) - wanted)),
                initial_versions=versions,
            )
        )

    def answer(self, response: DeltaResponse, error: str | None) -> None:
        self.machine.receive(DeltaRequest(type_url=response.type_url, nonce=response.nonce, error=error))

    def apply(self, response: DeltaResponse) -> None:
        url = response.type_url
        wanted = {r.name for r in response.resources} if url in FULL_STATE else self.asked.get(url, set())
        self.store(url, tuple(r for r in response.resources if r.name in wanted))
        if url in FULL_STATE:
            for name in response.removed:
                self.has[url].pop(name, None)


class SotwEnvoy(Envoy):
    @property
    def may_ask_anew(self) -> bool:
        # Else the request would be stale; and of one that drops a name and one that wants it again, none counts.
        return not any(response.type_url == EXTENSION for response in self.inbox)

    def new_machine(self) -> SotwStream:
        # After an interruption the server cannot know which clusters the routes of before still need.
        self.exempt = self.count > 0
        self.nonces: dict[str, str] = {}
        self.first: set[str] = set()
        if not hasattr(self, "versions"):
            self.versions: dict[str, str] = {}
        return SotwStream(tuple(TYPES.values()))

    def ask(self, url: str, *, first: bool = False) -> None:
        names = () if url in FULL_STATE else tuple(sorted(self.asked.get(url, set())))
        if url not in self.first and not names and url not in FULL_STATE:
            return
        self.first.add(url)
        self.say(url, names)

    def say(self, url: str, names: tuple[str, ...], error: str | None = None) -> None:
        self.machine.receive(
            SotwRequest(
                type_url=url,
                node_id="envoy",
                names=names,
                version=self.versions.get(url, ""),
                nonce=self.nonces.get(url, ""),
                error=error,
            )
        )

    def answer(self, response: SotwResponse, error: str | None) -> None:
        url = response.type_url
        self.nonces[url] = response.nonce
        self.say(url, () if url in FULL_STATE else tuple(sorted(self.asked.get(url, set()))), error)

    def apply(self, response: SotwResponse) -> None:
        url = response.type_url
        self.versions[url] = response.version
        if url in FULL_STATE:
            self.has[url].clear()
            self.store(url, response.resources)
        else:
            asked = self.asked.get(url, set())
            self.store(url, tuple(r for r in response.resources if r.name in asked))


TestDelta = DeltaEnvoy.TestCase
TestSotw = SotwEnvoy.TestCase
TestDelta.settings = TestSotw.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
