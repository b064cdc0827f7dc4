"""A configuration on its way through a relay: what is served, what is kept, what upstream is told."""

from __future__ import annotations

import pytest
from tests.unit.xds.conversation import TYPES, contents, world

from vestibule.errors import VestibuleError
from vestibule.xds.client import Change, DeltaClient
from vestibule.xds.messages import DeltaResponse, Settled
from vestibule.xds.relayed import Relayed
from vestibule.xds.resources import Resource, Snapshot

URLS = tuple(TYPES.values())


class RelayTalk:
    """Upstream and the proxy in few words."""

    def __init__(self, kept: Snapshot | None = None) -> None:
        self.relayed = Relayed(URLS, kept)
        self._nonce = 0

    def upstream(self, short: str, items: str = "", removed: str = "") -> str:
        """Upstream sends a response; its nonce is returned."""
        self._nonce += 1
        resources = world("v", **{short: items}).of_type(TYPES[short])
        self.relayed.receive(
            Change(
                type_url=TYPES[short],
                version=f"v{self._nonce}",
                nonce=str(self._nonce),
                resources=resources,
                removed=frozenset(removed.split()),
            )
        )
        return str(self._nonce)

    def served(self, short: str) -> str | None:
        snapshot = self.relayed.snapshot
        if snapshot is None or not snapshot.knows(TYPES[short]):
            return None
        return contents(snapshot.of_type(TYPES[short]).values())

    def settles(self, short: str, **refused: str) -> None:
        """The proxy is done with what is served of a type."""
        snapshot = self.relayed.snapshot
        assert snapshot is not None
        self.relayed.note(Settled(type_url=TYPES[short], snapshot=snapshot, refused=refused))

    def answers(self) -> list[tuple[str, str | None]]:
        return [(answer.nonce, answer.error) for answer in self.relayed.take_answers()]

    def good(self, short: str) -> str:
        good = self.relayed.good
        return contents(good.of_type(TYPES[short]).values()) if good else ""


def test_types_are_served_as_they_become_known() -> None:
    talk = RelayTalk()
    assert talk.relayed.snapshot is None
    talk.upstream("cds", "a b")
    assert (talk.served("cds"), talk.served("lds")) == ("a b", None)
    talk.upstream("lds")
    assert talk.served("lds") == ""


def test_upstream_hears_only_what_the_proxy_said() -> None:
    talk = RelayTalk()
    nonce = talk.upstream("cds", "a")
    assert talk.answers() == []
    talk.settles("cds")
    assert talk.answers() == [(nonce, None)]
    assert talk.good("cds") == "a"


def test_an_empty_response_needs_no_judgement() -> None:
    talk = RelayTalk()
    assert [(talk.upstream("eds"), None)] == talk.answers()


def test_a_verdict_about_older_things_answers_nothing_newer() -> None:
    talk = RelayTalk()
    first = talk.upstream("cds", "a")
    old = talk.relayed.snapshot
    assert old is not None
    second = talk.upstream("cds", "a=2")
    talk.relayed.note(Settled(type_url=TYPES["cds"], snapshot=old, refused={}))
    assert talk.answers() == [(first, None)]
    talk.settles("cds")
    assert talk.answers() == [(second, None)]


def test_what_is_refused_is_replaced_by_what_was_taken_before() -> None:
    talk = RelayTalk()
    talk.upstream("cds", "a b")
    talk.settles("cds")
    talk.answers()
    nonce = talk.upstream("cds", "a=bad b=2 c=bad")
    talk.settles("cds", a="no", c="never")
    assert talk.answers() == [(nonce, "never; no")]
    assert talk.served("cds") == "a b=2"
    assert talk.good("cds") == "a b=2"
    mended = talk.upstream("cds", "a=3")
    assert talk.served("cds") == "a=3 b=2"
    talk.settles("cds")
    assert talk.answers() == [(mended, None)]


def test_a_known_refusal_is_given_again_for_parts_that_upstream_tries() -> None:
    talk = RelayTalk()
    talk.upstream("cds", "a=bad b")
    talk.settles("cds", a="no")
    talk.answers()
    bad, fine = talk.upstream("cds", "a=bad"), talk.upstream("cds", "b")
    talk.settles("cds")
    assert talk.answers() == [(bad, "no"), (fine, None)]


def test_what_is_refused_and_then_wanted_no_longer_may_be_asked_for_again() -> None:
    talk = RelayTalk()
    for items in ("a", "a=bad"):
        talk.upstream("cds", items)
        talk.settles("cds", **({"a": "no"} if "bad" in items else {}))
    talk.upstream("cds", "a")
    talk.upstream("cds", "a=bad")
    assert talk.served("cds") == "a=bad"


def test_what_one_process_refused_is_asked_of_the_next() -> None:
    talk = RelayTalk()
    talk.upstream("cds", "a b")
    talk.settles("cds")
    talk.upstream("cds", "a=bad new=bad")
    talk.settles("cds", a="no", new="never")
    talk.answers()
    late = talk.upstream("cds", "a=bad")
    assert talk.relayed.forgive()
    # Nothing says yes to what nobody has taken, and what is served stays.
    talk.settles("cds")
    assert (talk.answers(), talk.served("cds")) == ([], "a b")
    kept = talk.relayed.snapshot
    assert kept is not None
    assert talk.relayed.begin()[TYPES["cds"]] == {
        name: each.version for name, each in kept.of_type(TYPES["cds"]).items()
    }
    again = talk.upstream("cds", "a=bad new=bad")
    assert again != late
    assert talk.served("cds") == "a=bad b new=bad"
    talk.settles("cds")
    assert talk.answers() == [(again, None)]
    assert not talk.relayed.forgive()


def test_a_late_refusal_takes_back_what_was_said() -> None:
    talk = RelayTalk()
    nonce = talk.upstream("ecds", "rbac=bad")
    talk.settles("ecds")
    assert talk.answers() == [(nonce, None)]
    talk.settles("ecds", rbac="not at all")
    assert talk.answers() == [(nonce, "not at all")]
    assert talk.served("ecds") == ""


def test_a_new_stream_upstream_is_told_what_the_proxy_has_but_not_what_it_refused() -> None:
    kept = world("v1", cds="a b", lds="in")
    talk = RelayTalk(Snapshot(kept.version, kept.resources, known=frozenset({TYPES["cds"], TYPES["lds"]})))
    assert (talk.served("cds"), talk.served("rds")) == ("a b", None)
    talk.upstream("cds", "a=bad", removed="b")
    talk.settles("cds", a="no")
    has = talk.relayed.begin()
    assert has[TYPES["cds"]] == {}
    assert has[TYPES["lds"]] == {"in": kept.of_type(TYPES["lds"])["in"].version}
    assert talk.answers() == []
    assert talk.good("cds") == "a"


def test_the_client_refuses_what_breaks_the_protocol() -> None:
    client = DeltaClient(URLS, node_id="web-1")
    cds, a = TYPES["cds"], Resource.of(TYPES["cds"], "a", b"a")
    other = Resource.of(TYPES["eds"], "b", b"b")

    def response(url: str, *resources: Resource, removed: tuple[str, ...] = ()) -> DeltaResponse:
        return DeltaResponse(type_url=url, version="1", nonce="1", resources=resources, removed=removed)

    assert client.read(response(cds, a, removed=("b",))).resources == {"a": a}
    for bad in (
        response("type.googleapis.com/other"),
        response(cds, a, a),
        response(cds, a, removed=("a",)),
        response(cds, other),
    ):
        with pytest.raises(VestibuleError):
            client.read(bad)


def test_the_opening_names_the_node_once() -> None:
    opening = DeltaClient(URLS, node_id="web-1").opening({TYPES["cds"]: {"a": "1"}})
    assert [request.node_id for request in opening] == ["web-1", None, None, None, None]
    assert all(request.subscribe == ("*",) for request in opening)
    assert opening[0].initial_versions == {"a": "1"}
