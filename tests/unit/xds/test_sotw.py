"""Conversations over state-of-the-world xDS."""

from __future__ import annotations

import pytest
from tests.unit.xds.conversation import TYPES, SotwTalk, world

from vestibule.errors import VestibuleError
from vestibule.xds.messages import SotwRequest
from vestibule.xds.resources import CLUSTER, SECRET, Resource, Snapshot
from vestibule.xds.sotw import SotwStream

FULL = world("1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac")


def in_sync(snapshot: Snapshot = FULL) -> SotwTalk:
    talk = SotwTalk(snapshot)
    for short in ("cds", "eds", "lds", "rds", "ecds"):
        names = " ".join(snapshot.of_type(TYPES[short])) if short not in ("cds", "lds") else ""
        if short in ("cds", "lds") or names:
            talk.say(short, names)
    while waiting := [s for s in talk.last if talk.accepted.get(s) != talk.last[s].version]:
        talk.ack(*waiting)
    assert talk.hear() == []
    return talk


# T1, T2, T3, T4, T5, T6 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["", "*"])
def test_a_wildcard_is_answered_once_with_everything(names: str) -> None:
    talk = SotwTalk(FULL)
    assert talk.say("cds", names) == ["cds a b"]
    assert talk.ack("cds") == []


def test_no_clusters_at_all_is_said_since_it_deletes_all() -> None:
    talk = SotwTalk(world("1"))
    assert talk.say("cds") == ["cds"]
    assert talk.ack("cds") == []


def test_clusters_and_listeners_come_whole() -> None:
    talk = in_sync()
    assert talk.update(world("2", cds="a=2 b", eds="a b", lds="in", rds="out", ecds="rbac"))[0] == "cds a=2 b"


def test_endpoints_and_routes_come_in_changes() -> None:
    talk = in_sync()
    assert talk.update(world("2", cds="a b", eds="a=2 b", lds="in", rds="out", ecds="rbac")) == ["eds a=2"]


def test_named_resources_come_without_the_others() -> None:
    assert SotwTalk(FULL).say("eds", "b") == ["eds b"]
    assert SotwTalk(FULL).say("cds", "b") == ["cds b"]


def test_a_name_that_does_not_exist_is_answered_by_silence_and_sent_when_it_appears() -> None:
    talk = SotwTalk(world("1"))
    assert talk.say("rds", "out") == []
    assert talk.update(world("2", rds="out")) == ["rds out"]


def test_an_unsubscribed_name_is_not_sent_any_more() -> None:
    talk = in_sync()
    assert talk.say("eds", "b") == []
    assert talk.update(world("2", cds="a b", eds="a=2 b=2", lds="in", rds="out", ecds="rbac")) == ["eds b=2"]
    talk.ack("eds")
    assert talk.say("eds", "") == []
    assert talk.update(world("3", cds="a b", eds="a=3 b=3", lds="in", rds="out", ecds="rbac")) == []


def test_a_name_subscribed_again_is_sent_again() -> None:
    talk = in_sync()
    assert talk.say("eds", "b") == []
    assert talk.say("eds", "a b") == ["eds a"]


# T8, T9 ----------------------------------------------------------------------------------------------------


def test_the_legacy_wildcard_ends_with_the_first_request_that_names_something_else() -> None:
    talk = SotwTalk(world("1", cds="a b"))
    assert talk.say("cds") == ["cds a b"]
    talk.ack("cds")
    assert talk.say("cds", "* a") == ["cds a b"]
    talk.ack("cds")
    assert talk.say("cds", "a") == []
    assert talk.update(world("2", cds="a b=2")) == []
    assert talk.update(world("3", cds="a=3 b=3")) == ["cds a=3"]
    talk.ack("cds")
    assert talk.say("cds", "") == []
    assert talk.update(world("4", cds="a=4 b=4")) == []


def test_leaving_a_name_under_a_wildcard_changes_nothing() -> None:
    talk = SotwTalk(world("1", cds="a b"))
    talk.say("cds", "* a")
    talk.ack("cds")
    assert talk.say("cds", "*") == []
    assert talk.update(world("2", cds="a b=2")) == ["cds a b=2"]


# T10, T11, T12, T13, T14, T15 ------------------------------------------------------------------------------


def test_a_stale_request_is_ignored() -> None:
    talk = SotwTalk(FULL)
    talk.say("eds", "a")
    assert talk.say("eds", "a b", nonce="old", error="stale") == []
    assert talk.say("eds", "a b") == ["eds b"]


def test_a_refused_state_is_not_sent_again_until_it_changes() -> None:
    talk = in_sync()
    bad = world("2", cds="a=bad b", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(bad) == ["cds a=bad b", "eds a"]
    assert talk.nack("cds", "no such thing") == []
    talk.ack("eds")
    # What was refused is left out; the client keeps what it had.
    assert talk.update(world("3", cds="a=bad b=3", eds="a b", lds="in", rds="out", ecds="rbac")) == [
        "cds a b=3",
        "eds b",
    ]
    talk.ack("cds", "eds")
    good = world("4", cds="a=4 b=3", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(good) == ["cds a=4 b=3", "eds a"]
    assert talk.ack("cds", "eds") == []


def test_a_refused_state_is_offered_again_once_it_was_not_wanted_meanwhile() -> None:
    talk = SotwTalk(world("1", lds="a b"))
    talk.say("lds", "")
    talk.ack("lds")
    bad = world("2", lds="a=bad b")
    assert talk.update(bad) == ["lds a=bad b"]
    assert talk.nack("lds") == []
    talk.update(world("1", lds="a b"))
    assert talk.update(bad) == ["lds a=bad b"]
    talk.ack("lds")
    assert talk.settled()["lds"] == {}


def test_a_refused_response_of_many_is_halved() -> None:
    talk = SotwTalk(world("1", cds="a b c"))
    assert talk.say("cds") == ["cds a b c"]
    assert talk.nack("cds", "c is wrong") == ["cds a b"]
    # With c it would be just the state that was refused, so that it must be c.
    assert talk.ack("cds") == []
    assert talk.settled()["cds"] == {"c": "c is wrong"}
    assert talk.update(world("2", cds="a b c=2")) == ["cds a b c=2"]


def test_nothing_is_sent_twice() -> None:
    talk = in_sync()
    assert talk.update(world("1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac")) == []
    for short in TYPES:
        assert talk.say(short) == []


def test_the_node_never_changes_and_the_type_is_needed() -> None:
    stream = SotwStream([CLUSTER, SECRET])
    with pytest.raises(VestibuleError, match="no node"):
        stream.receive(SotwRequest(type_url=CLUSTER))
    stream = SotwStream([CLUSTER, SECRET])
    stream.receive(SotwRequest(type_url=CLUSTER, node_id="one"))
    with pytest.raises(VestibuleError, match="node changed"):
        stream.receive(SotwRequest(type_url=CLUSTER, node_id="two"))
    with pytest.raises(VestibuleError, match="no type_url"):
        stream.receive(SotwRequest(type_url=""))


def test_a_type_nobody_serves_is_answered_by_silence() -> None:
    assert SotwTalk(FULL).say("type.googleapis.com/envoy.service.runtime.v3.Runtime", "layer") == []


def test_secrets_are_found_by_name() -> None:
    stream = SotwStream([SECRET], node_required=False)
    stream.update(Snapshot.of("1", [Resource.of(SECRET, n, b"x") for n in ("default", "ROOTCA")]))
    stream.receive(SotwRequest(type_url=SECRET, names=("default",)))
    response = stream.next_response()
    assert response is not None
    assert [resource.name for resource in response.resources] == ["default"]


# Order: T18, T19, T20 --------------------------------------------------------------------------------------


def test_routes_follow_only_when_their_clusters_are_warm() -> None:
    talk = in_sync()
    assert talk.update(world("2", cds="a b c", eds="a b c", lds="in", rds="out=c", ecds="rbac")) == [
        "cds a b c"
    ]
    assert talk.say("eds", "a b c") == ["eds c"]
    assert talk.ack("eds") == []
    assert talk.ack("cds") == ["rds out=c"]


def test_a_cluster_goes_only_when_no_route_leads_to_it() -> None:
    talk = in_sync(world("1", cds="a b", eds="a b", lds="in", rds="out=b"))
    assert talk.update(world("2", cds="a c", eds="a c", lds="in", rds="out=a")) == ["cds a b c"]
    assert talk.ack("cds") == ["rds out=a"]
    assert talk.ack("rds") == ["cds a c"]
    assert talk.ack("cds") == []


def test_a_changed_cluster_gets_its_endpoints_anew() -> None:
    talk = in_sync()
    changed = world("2", cds="a=2 b", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(changed) == ["cds a=2 b", "eds a"]


def test_a_newer_whole_state_overtakes_one_that_is_not_acknowledged() -> None:
    """A cluster that never gets warm must not keep its own removal from happening."""
    talk = in_sync()
    assert talk.update(world("2", cds="a b stuck", eds="a b", lds="in", rds="out", ecds="rbac")) == [
        "cds a b stuck"
    ]
    assert talk.update(world("3", cds="a b fine", eds="a b", lds="in", rds="out", ecds="rbac")) == [
        "cds a b fine"
    ]
    assert talk.ack("cds") == []


# T21, T22: a client that comes back ------------------------------------------------------------------------


def test_a_client_that_comes_back_with_the_same_gets_no_clusters_and_listeners() -> None:
    """Named resources come again: a version does not tell whether the client still has each of them."""
    before = in_sync()
    talk = SotwTalk(world("1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac"))
    talk.accepted = before.accepted
    assert talk.say("cds", "") == []
    assert talk.say("lds", "") == []
    assert talk.say("eds", "a b") == ["eds a b"]
    talk.ack("eds")
    assert talk.say("rds", "out") == ["rds out"]
    assert talk.update(world("2", cds="a=2 b", eds="a b", lds="in", rds="out", ecds="rbac")) == [
        "cds a=2 b",
        "eds a",
    ]


def test_a_client_that_comes_back_for_more_gets_it() -> None:
    before = in_sync(world("1", cds="a b", eds="a"))
    talk = SotwTalk(FULL)
    talk.accepted = before.accepted
    assert talk.say("eds", "a b") == ["eds a b"]


def test_a_client_that_comes_back_with_what_was_deleted_meanwhile_gets_the_rest() -> None:
    before = in_sync()
    talk = SotwTalk(world("2", cds="a", eds="a", lds="in", rds="out", ecds="rbac"))
    talk.accepted = before.accepted
    assert talk.say("cds", "") == ["cds a"]


def test_a_refused_resource_is_offered_again_to_a_client_that_comes_back() -> None:
    before = in_sync()
    bad = world("2", cds="a b", eds="a b=bad", lds="in", rds="out", ecds="rbac")
    before.update(bad)
    before.nack("eds")
    before.update(world("3", cds="a b", eds="a=3 b=bad", lds="in", rds="out", ecds="rbac"))
    before.ack("eds")
    talk = SotwTalk(world("3", cds="a b", eds="a=3 b=bad", lds="in", rds="out", ecds="rbac"))
    talk.accepted = before.accepted
    assert talk.say("eds", "a b") == ["eds a=3 b=bad"]
