"""Conversations over incremental xDS; the server's half is ours."""

from __future__ import annotations

import pytest
from tests.unit.xds.conversation import TYPES, DeltaTalk, world

from vestibule.errors import VestibuleError
from vestibule.xds.delta import MAX_UNACKNOWLEDGED, RESPONSE_BYTES, DeltaStream
from vestibule.xds.messages import Accepted, DeltaRequest, Refused, Sent, Settled
from vestibule.xds.resources import CLUSTER, ENDPOINTS, SECRET, Resource, Snapshot

FULL = world("1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac")


def versions(snapshot: Snapshot, short: str) -> dict[str, str]:
    return {name: r.version for name, r in snapshot.of_type(TYPES[short]).items()}


def in_sync(snapshot: Snapshot = FULL) -> DeltaTalk:
    """An Envoy that has everything: clusters, then their endpoints, then listeners and what they name."""
    talk = DeltaTalk(snapshot)
    talk.say("cds")
    for short in ("eds", "lds", "rds", "ecds"):
        names = " ".join(snapshot.of_type(TYPES[short])) if short != "lds" else ""
        talk.say(short, names)
        talk.ack_all()
    assert talk.hear() == []
    return talk


# T1, T2, T3 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subscribe", ["", "*"])
def test_a_wildcard_is_answered_once_with_everything(subscribe: str) -> None:
    talk = DeltaTalk(FULL)
    assert talk.say("cds", subscribe) == ["cds +a +b"]
    assert talk.ack("cds") == []


def test_a_wildcard_waits_for_the_first_snapshot() -> None:
    talk = DeltaTalk()
    assert talk.say("cds") == []
    assert talk.update(FULL) == ["cds +a +b"]


def test_a_wildcard_of_nothing_is_answered_so_that_the_client_need_not_wait() -> None:
    talk = DeltaTalk(world("1"))
    assert talk.say("cds") == ["cds"]


def test_a_type_whose_set_is_not_known_yet_is_not_answered() -> None:
    partial = Snapshot("1", FULL.resources, known=frozenset({TYPES["cds"]}))
    talk = DeltaTalk(partial)
    assert talk.say("ecds", "*") == []
    assert talk.update(FULL) == ["ecds +rbac"]


def test_an_update_carries_only_what_changed() -> None:
    talk = in_sync()
    assert talk.update(world("2", cds="a b", eds="a=2 b", lds="in", rds="out", ecds="rbac")) == ["eds +a=2"]


def test_named_resources_come_without_the_others() -> None:
    talk = DeltaTalk(FULL)
    assert talk.say("eds", "b") == ["eds +b"]


# T4, T5, T6, T7, T8, T9 ------------------------------------------------------------------------------------


def test_a_name_that_does_not_exist_is_said_to_be_absent_once_and_sent_when_it_appears() -> None:
    talk = DeltaTalk(world("1"))
    assert talk.say("rds", "out") == ["rds -out"]
    assert talk.ack("rds") == []
    assert talk.update(world("2")) == []
    assert talk.update(world("3", rds="out")) == ["rds +out"]


def test_an_unsubscribed_name_is_not_sent_any_more() -> None:
    talk = DeltaTalk(FULL)
    talk.say("eds", "a b")
    talk.ack("eds")
    assert talk.say("eds", unsubscribe="a") == []
    assert talk.update(world("2", cds="a b", eds="a=2 b=2")) == ["eds +b=2"]
    talk.ack("eds")
    assert talk.say("eds", unsubscribe="b phantom") == []
    assert talk.update(world("3", cds="a b", eds="a=3 b=3")) == []


def test_a_name_subscribed_again_is_sent_again_though_nothing_changed() -> None:
    talk = DeltaTalk(FULL)
    talk.say("eds", "a")
    talk.ack("eds")
    assert talk.say("eds", "a") == ["eds +a"]
    talk.ack("eds")
    assert talk.say("eds", "missing") == ["eds -missing"]
    talk.ack("eds")
    assert talk.say("eds", "missing") == ["eds -missing"]


def test_a_wildcard_subscribed_again_is_sent_again() -> None:
    talk = DeltaTalk(FULL)
    talk.say("cds", "*")
    talk.ack("cds")
    assert talk.say("cds", "*") == ["cds +a +b"]


def test_a_deleted_resource_is_removed() -> None:
    talk = DeltaTalk(world("1", lds="x y"))
    talk.say("lds")
    talk.ack("lds")
    assert talk.update(world("2", lds="x")) == ["lds -y"]
    assert talk.ack("lds") == []


def test_leaving_a_name_under_a_wildcard_is_answered_either_way() -> None:
    talk = DeltaTalk(FULL)
    talk.say("cds", "* a other")
    talk.ack_all()
    assert talk.say("cds", unsubscribe="a") == ["cds +a"]
    talk.ack_all()
    assert talk.say("cds", unsubscribe="other") == ["cds -other"]


def test_the_legacy_wildcard_stays_until_it_is_unsubscribed_by_name() -> None:
    talk = DeltaTalk(world("1", cds="a b"))
    assert talk.say("cds") == ["cds +a +b"]
    talk.ack("cds")
    assert talk.say("cds", "a") == ["cds +a"]
    talk.ack("cds")
    assert talk.update(world("2", cds="a b=2")) == ["cds +b=2"]
    talk.ack("cds")
    assert talk.say("cds", unsubscribe="*") == []
    assert talk.update(world("3", cds="a=3 b=3")) == ["cds +a=3"]
    talk.ack("cds")
    assert talk.say("cds", unsubscribe="a") == []
    assert talk.say("cds") == []
    assert talk.update(world("4", cds="a=4 b=4")) == []


# T10, T11, T12 ---------------------------------------------------------------------------------------------


def test_a_subscription_counts_even_if_the_nonce_is_stale() -> None:
    talk = DeltaTalk(FULL)
    talk.say("eds", "a")
    assert talk.say("eds", "b", nonce="long ago") == ["eds +b"]


def test_a_refused_resource_is_not_sent_again_until_it_changes() -> None:
    talk = in_sync()
    bad = world("2", cds="a=bad b", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(bad) == ["cds +a=bad", "eds +a"]
    assert talk.nack("cds", "no such thing") == []
    assert talk.ack("eds") == []
    assert talk.settled()["cds"] == {"a": "no such thing"}
    assert (
        talk.update(world("3", cds="a=bad b=3", eds="a b", lds="in", rds="out", ecds="rbac"))[0] == "cds +b=3"
    )
    assert talk.ack_all() == []
    good = world("4", cds="a=4 b=3", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(good) == ["cds +a=4", "eds +a"]
    talk.ack_all()
    assert talk.settled()["cds"] == {}


def test_going_back_to_what_was_good_needs_nothing_sent() -> None:
    talk = in_sync()
    talk.update(world("2", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=bad"))
    talk.nack("ecds")
    assert talk.update(FULL) == []
    assert talk.settled()["ecds"] == {}


def test_what_was_refused_is_offered_again_once_it_was_not_wanted_meanwhile() -> None:
    talk = in_sync()
    bad = world("2", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=bad")
    talk.update(bad)
    talk.nack("ecds")
    assert talk.update(FULL) == []
    assert talk.update(bad) == ["ecds +rbac=bad"]
    talk.ack("ecds")
    assert talk.settled()["ecds"] == {}


def test_a_relay_hears_that_what_it_refused_is_wanted_no_longer() -> None:
    talk = DeltaTalk(world("1", ecds="rbac other"), restates=True)
    talk.say("ecds", "*")
    talk.ack("ecds")
    assert talk.update(world("2", ecds="rbac=bad other new=bad")) == ["ecds +new=bad +rbac=bad"]
    assert talk.nack("ecds") == ["ecds +rbac=bad", "ecds +new=bad"]
    talk.nack("ecds")
    talk.nack("ecds")
    assert talk.update(world("3", ecds="rbac other")) == ["ecds +rbac", "ecds -new"]
    talk.ack("ecds", "ecds")
    assert talk.update(world("3", ecds="rbac other")) == []


def test_a_refused_response_of_many_is_halved_until_the_culprit_is_alone() -> None:
    talk = DeltaTalk(world("1", ecds="a b c d"))
    assert talk.say("ecds", "*") == ["ecds +a +b +c +d"]
    assert talk.nack("ecds", "c is wrong") == ["ecds +a +b", "ecds +c +d"]
    assert talk.ack("ecds") == []
    assert talk.nack("ecds", "c is wrong") == ["ecds +c", "ecds +d"]
    assert talk.nack("ecds", "c is wrong") == []
    assert talk.ack("ecds") == []
    assert talk.settled()["ecds"] == {"c": "c is wrong"}


def test_a_client_may_refuse_later_what_it_had_accepted() -> None:
    talk = in_sync()
    talk.update(world("2", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac=2"))
    nonce = talk.nonces["ecds"][0]
    talk.ack("ecds")
    assert talk.say("ecds", nonce=nonce, error="on second thought") == []
    assert talk.settled()["ecds"] == {"rbac": "on second thought"}
    assert talk.say("ecds", nonce=nonce, error="and again") == []


def test_nothing_is_sent_twice() -> None:
    talk = in_sync()
    same = world("1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(same) == []
    for short in TYPES:
        assert talk.say(short) == []


# T13, T14, T15, T16 ----------------------------------------------------------------------------------------


def test_types_are_independent_of_each_other() -> None:
    talk = DeltaTalk(world("1", cds="same", ecds="same"))
    assert talk.say("cds") == ["cds +same"]
    assert talk.say("ecds", "same") == ["ecds +same"]
    assert talk.nack("ecds") == []
    assert talk.ack("cds") == []
    assert talk.settled()["cds"] == {}
    assert talk.settled()["ecds"] == {"same": "bad"}


def test_the_node_is_needed_once_and_never_changes() -> None:
    with pytest.raises(VestibuleError, match="no node"):
        DeltaStream([CLUSTER, ENDPOINTS]).receive(DeltaRequest(type_url=CLUSTER))
    stream = DeltaStream([CLUSTER, ENDPOINTS])
    stream.receive(DeltaRequest(type_url=CLUSTER, node_id="one"))
    stream.receive(DeltaRequest(type_url=ENDPOINTS))
    stream.receive(DeltaRequest(type_url=ENDPOINTS, node_id="one"))
    with pytest.raises(VestibuleError, match="node changed"):
        stream.receive(DeltaRequest(type_url=ENDPOINTS, node_id="two"))


def test_a_type_nobody_serves_is_answered_as_empty() -> None:
    talk = DeltaTalk(FULL)
    other = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
    assert talk.say(other, "layer") == [f"{other} -layer"]
    assert talk.events == [event for event in talk.events if event.type_url != other]


def test_an_aggregated_request_must_name_its_type() -> None:
    with pytest.raises(VestibuleError, match="no type_url"):
        DeltaTalk(FULL).say("")


def test_a_service_of_one_type_needs_no_type_and_serves_no_other() -> None:
    stream = DeltaStream([SECRET], node_required=False)
    stream.update(Snapshot.of("1", [Resource.of(SECRET, "default", b"key")]))
    stream.receive(DeltaRequest(type_url="", subscribe=("default",)))
    response = stream.next_response()
    assert response is not None
    assert response.type_url == SECRET
    with pytest.raises(VestibuleError, match="not served here"):
        stream.receive(DeltaRequest(type_url=CLUSTER))


def test_a_client_cannot_ask_for_endlessly_much() -> None:
    talk = DeltaTalk(FULL)
    for n in range(2):
        talk.say("eds", " ".join(f"{n}-{i}" for i in range(5_000)))
    with pytest.raises(VestibuleError, match="more than 10000 names"):
        talk.say("eds", "one-more")
    with pytest.raises(VestibuleError, match="too long"):
        talk.say("eds", "x" * 3_000)
    for n in range(31):
        talk.say(f"type-{n}", "x")
    with pytest.raises(VestibuleError, match="types on one stream"):
        talk.say("one type more", "x")


def test_a_name_twice_in_a_snapshot_is_an_error_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="occurs twice"):
        world("1", cds="a a")


# Order: T18, T19, T20 --------------------------------------------------------------------------------------


def test_routes_follow_only_when_their_clusters_are_warm() -> None:
    talk = in_sync()
    both = world("2", cds="a b c", eds="a b c", lds="in", rds="out=c", ecds="rbac")
    assert talk.update(both) == ["cds +c"]
    # Envoy asks for the endpoints while it holds back the ACK of the cluster that warms.
    assert talk.say("eds", "c") == ["eds +c"]
    assert talk.ack("eds") == []
    assert talk.ack("cds") == ["rds +out=c"]


def test_a_cluster_goes_only_when_no_route_leads_to_it() -> None:
    talk = in_sync(world("1", cds="a b", eds="a b", lds="in", rds="out=b"))
    assert talk.update(world("2", cds="a", eds="a", lds="in", rds="out=a")) == ["rds +out=a"]
    assert talk.ack("rds") == ["cds -b"]
    assert talk.ack("cds") == ["eds -b"]
    assert talk.ack("eds") == []


def test_a_refused_route_keeps_the_old_cluster() -> None:
    talk = in_sync(world("1", cds="a b", eds="a b", lds="in", rds="out=b"))
    talk.update(world("2", cds="a", eds="a", lds="in", rds="out=bad"))
    assert talk.nack("rds") == []
    assert talk.update(world("3", cds="a", eds="a", lds="in", rds="out=a")) == ["rds +out=a"]
    assert talk.ack("rds") == ["cds -b"]


def test_a_refused_cluster_holds_back_changes_of_what_is_served_but_not_what_is_new() -> None:
    talk = in_sync()
    talk.update(world("2", cds="a b=bad", eds="a b", lds="in=2 more", rds="out=2", ecds="rbac=2"))
    talk.ack("eds", "ecds")
    assert talk.nack("cds") == ["lds +more"]
    talk.ack("lds")
    fixed = world("3", cds="a b=3", eds="a b", lds="in=2 more", rds="out=2", ecds="rbac=2")
    assert talk.update(fixed) == ["cds +b=3", "eds +b"]
    assert sorted(talk.ack_all()) == ["lds +in=2", "rds +out=2"]


def test_a_verdict_does_not_wait_for_a_cluster_that_warms() -> None:
    talk = in_sync()
    assert talk.update(world("2", cds="a b c", eds="a b", lds="in", rds="out", ecds="rbac=2")) == [
        "ecds +rbac=2",
        "cds +c",
    ]


def test_a_changed_cluster_gets_its_endpoints_anew() -> None:
    talk = in_sync()
    changed = world("2", cds="a=2 b", eds="a b", lds="in", rds="out", ecds="rbac")
    assert talk.update(changed) == ["cds +a=2", "eds +a"]


def test_a_cluster_without_endpoints_is_answered_with_none_and_again_when_it_changes() -> None:
    talk = DeltaTalk(world("1", cds="a"))
    talk.say("cds")
    (heard,) = talk.say("eds", "a")
    assert heard.startswith("eds +")
    assert talk.responses[-1].resources[0].body == b"\x0a\x01a"
    talk.ack("cds", "eds")
    assert len(talk.update(world("2", cds="a=2"))) == 2
    talk.ack("cds", "eds")
    assert talk.update(world("3", cds="a=2", eds="a=full")) == ["eds +a=full"]


def test_nothing_is_taken_away_from_a_client_that_has_not_said_what_it_wants() -> None:
    before = world("1", cds="a b", eds="a b", lds="in", rds="out=b")
    talk = DeltaTalk(world("2", cds="a", eds="a", lds="in", rds="out=a"), may_break=False)
    assert talk.say("cds", has=versions(before, "cds")) == []
    talk.machine.allow_breaking()
    assert talk.hear() == ["cds -b"]


# T21, T22: a client that comes back ------------------------------------------------------------------------


def test_a_client_that_comes_back_with_the_same_gets_nothing() -> None:
    again = world("1", cds="a b", eds="a b", lds="in", rds="out", ecds="rbac")
    talk = DeltaTalk(again)
    assert talk.say("cds", "*", has=versions(FULL, "cds")) == []
    assert talk.say("eds", "a b", has=versions(FULL, "eds")) == []
    assert talk.say("lds", has=versions(FULL, "lds")) == []
    assert talk.settled() == {"cds": {}, "eds": {}, "lds": {}, "rds": {}, "ecds": {}}


def test_what_was_deleted_while_a_client_was_away_is_removed_in_order() -> None:
    before = world("1", cds="a b", eds="a b", lds="in", rds="out=b")
    now = world("2", cds="a", eds="a", lds="in", rds="out=a")
    talk = DeltaTalk(now, may_break=False)
    talk.say("cds", has=versions(before, "cds"))
    talk.say("eds", "a b", has=versions(before, "eds"))
    talk.say("lds", has=versions(before, "lds"))
    assert talk.say("rds", "out", has=versions(before, "rds")) == ["rds +out=a"]
    talk.machine.allow_breaking()
    assert talk.ack("rds") == ["cds -b"]
    assert talk.ack("cds") == ["eds -b"]


def test_versions_count_only_in_the_first_request_of_a_type() -> None:
    talk = DeltaTalk(FULL)
    talk.say("eds", "a")
    assert talk.say("eds", "b", has=versions(FULL, "eds")) == ["eds +b"]


# T17, T23 and sizes ----------------------------------------------------------------------------------------


def test_pending_changes_are_merged_while_nothing_can_be_sent() -> None:
    talk = DeltaTalk(world("1", ecds="a"))
    talk.say("ecds", "a")
    talk.ack("ecds")
    for n in range(2, 5):
        talk.machine.update(world(str(n), ecds=f"a={n}"))
    assert talk.hear() == ["ecds +a=4"]


def test_a_client_that_never_acknowledges_is_left_in_peace() -> None:
    talk = DeltaTalk(world("0", ecds="a"))
    talk.say("ecds", "a")
    for n in range(1, 50):
        talk.update(world(str(n), ecds=f"a={n}"))
    assert len(talk.nonces["ecds"]) == MAX_UNACKNOWLEDGED
    assert talk.ack("ecds") == ["ecds +a=49"]


def test_a_large_answer_comes_in_parts() -> None:
    half = RESPONSE_BYTES // 2 + 1
    resources = [Resource.of(CLUSTER, name, name.encode() * half) for name in "abc"]
    talk = DeltaTalk(Snapshot.of("1", resources))
    assert len(talk.say("cds")) == 3
    assert [len(response.resources) for response in talk.responses] == [1, 1, 1]


# What the stream tells about itself ------------------------------------------------------------------------


def test_events_tell_the_whole_story() -> None:
    talk = DeltaTalk(world("7", ecds="a"))
    talk.say("ecds", "a")
    talk.nack("ecds", "no")
    url, snapshot = TYPES["ecds"], talk.machine._snapshot
    assert snapshot is not None
    told = [event for event in talk.events if event.type_url == url]
    # Before it was asked for, there was nothing to do.
    assert told == [
        Settled(type_url=url, snapshot=snapshot, refused={}, asked=False),
        Sent(type_url=url, version="7", nonce="1"),
        Refused(type_url=url, version="7", nonce="1", error="no"),
        Settled(type_url=url, snapshot=snapshot, refused={"a": "no"}),
    ]
    talk.update(world("8", ecds="a=8"))
    talk.ack("ecds")
    assert Accepted(type_url=url, version="8", nonce="2") in talk.events
