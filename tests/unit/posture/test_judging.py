"""What is to be said about endpoints."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from tests.unit.posture.endpoints import (
    AWAY,
    GOOD,
    NOW,
    PLAIN,
    SERVED,
    STRICT,
    SVID,
    clients,
    found,
    leaf,
    tls,
)

from vestibule.posture import (
    Accepted,
    Answer,
    Facts,
    Mutual,
    Outcome,
    Plain,
    Plaintext,
    Profile,
    Severity,
    Trust,
    count,
    coverage,
    judge,
)

FORBIDDEN = Answer(outcome=Outcome.REFUSED_ABOVE, detail="HTTP/1.1 400 Bad Request")
NOT_ASKED = tls(clients=replace(STRICT, requested=False, without=SERVED, foreign=None))
WEBSITE = tls(
    clients=replace(STRICT, requested=False, without=SERVED, foreign=None),
    chain=(replace(SVID, spiffe_id="", uris=(), dns_names=("web.internal",)),),
    host_name_fits=True,
)


def mutual(facts: Facts) -> Mutual:
    return judge(facts, Profile.SERVICE, NOW).mutual


def test_nothing_is_to_be_said_about_a_good_endpoint() -> None:
    assert found(GOOD) == []
    assert mutual(GOOD) is Mutual.ENFORCED


def test_a_good_website_is_no_good_service() -> None:
    assert found(WEBSITE, Profile.PUBLIC) == []
    assert found(WEBSITE) == [("VST2484", "high"), ("VST2483", "medium")]


def test_plaintext_is_the_worst_alone_and_bad_beside_tls() -> None:
    assert found(PLAIN) == [("VST2473", "critical")]
    beside = replace(GOOD, plaintext=PLAIN.plaintext)
    assert found(beside) == [("VST2474", "high")]
    assert mutual(PLAIN) is mutual(beside) is Mutual.PLAINTEXT


def test_a_website_may_send_callers_without_tls_elsewhere() -> None:
    away = Plaintext(kind=Plain.REDIRECT, detail="HTTP/1.1 301 Moved Permanently")
    assert found(replace(WEBSITE, plaintext=away), Profile.PUBLIC) == []
    assert found(replace(PLAIN, plaintext=away)) == [("VST2473", "critical")]


def test_nothing_is_known_of_what_does_not_answer() -> None:
    assert found(AWAY) == [("VST2472", "medium")]
    assert mutual(AWAY) is Mutual.UNKNOWN


def test_troubles_are_told() -> None:
    assert found(replace(GOOD, troubles=("it spoke nonsense",))) == [("VST2488", "medium")]


@pytest.mark.parametrize(
    ("facts", "codes", "state"),
    [
        (NOT_ASKED, [("VST2484", "high")], Mutual.NOT_ASKED),
        (clients(without=SERVED), [("VST2485", "high")], Mutual.NOT_ENFORCED),
        (clients(foreign=SERVED), [("VST2489", "critical")], Mutual.NOT_ENFORCED),
        (clients(without=FORBIDDEN, foreign=FORBIDDEN), [("VST2485", "info")], Mutual.ABOVE_TLS),
        (clients(without=FORBIDDEN, foreign=SERVED), [("VST2489", "critical"), ("VST2485", "info")], None),
        (clients(own=SERVED), [], Mutual.ENFORCED),
        (clients(own=FORBIDDEN, own_id="spiffe://example.org/me"), [("VST2486", "info")], Mutual.ENFORCED),
        (clients(without=Answer(outcome=Outcome.UNKNOWN), foreign=None), [], Mutual.UNKNOWN),
        (clients(without=Answer(outcome=Outcome.CLOSED)), [], Mutual.ENFORCED),
    ],
)
def test_what_callers_meet_decides(facts: Facts, codes: list[tuple[str, str]], state: Mutual | None) -> None:
    assert found(facts) == codes
    assert mutual(facts) is (state or Mutual.NOT_ENFORCED)


def test_a_certificate_that_anybody_could_have_made_is_told_once_where_none_is_needed() -> None:
    assert found(clients(without=SERVED, foreign=SERVED)) == [("VST2485", "high")]


@pytest.mark.parametrize(
    ("versions", "codes"),
    [
        (("TLSv1.3", "TLSv1.2"), []),
        (("TLSv1.2",), [("VST2477", "low")]),
        (("TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1"), [("VST2475", "high")]),
        (("TLSv1",), [("VST2475", "high"), ("VST2477", "low")]),
    ],
)
def test_old_versions_are_told(versions: tuple[str, ...], codes: list[tuple[str, str]]) -> None:
    assert found(tls(accepted=tuple(Accepted(version=each, cipher="c") for each in versions))) == codes


def test_broken_ciphers_are_worse_than_weak_ones_and_anonymous_ones_worst() -> None:
    broken, weak = "TLS_RSA_WITH_3DES_EDE_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"
    assert found(tls(weak_ciphers=(weak, broken))) == [("VST2476", "high"), ("VST2476", "low")]
    anonymous = tls(weak_ciphers=("TLS_DH_anon_WITH_AES_128_GCM_SHA256",))
    assert found(anonymous) == [("VST2476", "critical")]
    assert mutual(anonymous) is Mutual.NOT_ENFORCED


@pytest.mark.parametrize(
    ("begins", "ends", "codes"),
    [
        (-30, 30, []),
        (-55, 5, [("VST2478", "medium")]),
        (-70, -10, [("VST2478", "high")]),
        (1, 61, [("VST2478", "high")]),
    ],
)
def test_svids_end_and_are_renewed_in_time(begins: int, ends: int, codes: list[tuple[str, str]]) -> None:
    at = {"not_before": NOW + timedelta(minutes=begins), "not_after": NOW + timedelta(minutes=ends)}
    assert found(leaf(**at)) == codes


@pytest.mark.parametrize(
    ("days", "service", "svid", "public"),
    [
        (1, [], [], []),
        (7, [("VST2482", "low")], [("VST2482", "low")], []),
        (90, [("VST2482", "low")], [("VST2482", "medium")], []),
        (365, [("VST2482", "medium")], [("VST2482", "medium")], []),
        (500, [("VST2482", "medium")], [("VST2482", "medium")], [("VST2482", "medium")]),
    ],
)
def test_long_lives_are_told(
    days: int, service: list[object], svid: list[object], public: list[object]
) -> None:
    life = {"not_before": NOW - timedelta(days=days / 3), "not_after": NOW + timedelta(days=days * 2 / 3)}

    def told(facts: Facts, profile: Profile) -> list[tuple[str, str]]:
        return [each for each in found(facts, profile) if each[0] == "VST2482"]

    assert told(leaf(**life), Profile.SERVICE) == svid
    assert told(leaf(spiffe_id="", uris=(), **life), Profile.SERVICE) == service
    assert told(leaf(spiffe_id="", uris=(), **life), Profile.PUBLIC) == public


def test_a_chain_that_does_not_hold_is_told_and_one_that_nobody_judged_is_not() -> None:
    assert found(tls(trust=Trust(by="the bundle of example.org", problem="VST1007"))) == [("VST2479", "high")]
    assert found(tls(trust=Trust(by="the public authorities", problem="self-signed"))) == [
        ("VST2479", "medium")
    ]
    assert found(tls(trust=Trust())) == []


def test_a_host_name_matters_where_no_spiffe_id_says_who_it_is() -> None:
    nameless = leaf(spiffe_id="", uris=(), dns_names=("other.internal",))
    assert ("VST2480", "medium") in found(nameless)
    assert ("VST2480", "high") in found(nameless, Profile.PUBLIC)


def test_two_uris_are_no_identity() -> None:
    two = leaf(spiffe_id="", uris=("spiffe://a/b", "spiffe://c/d"), problem="there are 2 URIs")
    assert found(two)[0] == ("VST2483", "high")


def test_short_keys_and_old_hashes_are_told_but_not_of_roots() -> None:
    assert found(leaf(key="RSA", key_bits=1024)) == [("VST2481", "high")]
    assert found(leaf(signature_hash="sha1")) == [("VST2481", "high")]
    root = replace(SVID, subject="CN=root", issuer="CN=root", signature_hash="sha1")
    assert found(tls(chain=(SVID, root))) == []


def test_resumed_sessions_matter_where_callers_are_known_by_certificates() -> None:
    assert found(tls(resumes=True)) == [("VST2487", "low")]
    assert found(replace(WEBSITE, tls=replace(WEBSITE.tls, resumes=True)), Profile.PUBLIC) == []  # type: ignore[type-var]


def test_the_worst_comes_first() -> None:
    bad = tls(resumes=True, weak_ciphers=("TLS_RSA_WITH_RC4_128_SHA",), trust=Trust(by="x", problem="y"))
    ranks = [each.severity.rank for each in judge(bad, Profile.SERVICE, NOW).findings]
    assert ranks == sorted(ranks, reverse=True)
    assert len(ranks) == 3


def test_all_of_them_are_counted() -> None:
    judged = [judge(each, Profile.SERVICE, NOW) for each in (GOOD, PLAIN, AWAY)]
    assert coverage(judged) == (1, 2)
    assert count(judged) == {
        Severity.CRITICAL: 1,
        Severity.HIGH: 0,
        Severity.MEDIUM: 1,
        Severity.LOW: 0,
        Severity.INFO: 0,
    }
