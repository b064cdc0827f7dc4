"""What operators read about a proxy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.unit.xds.conversation import TYPES, DeltaTalk, world

from vestibule.spiffe import SpiffeId
from vestibule.xds import ledger as ledger_module
from vestibule.xds.ledger import Ledger, Row, Session, Status
from vestibule.xds.resources import ProxyKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PROXY = ProxyKey(SpiffeId.parse("spiffe://example.org/ns/prod/sa/web"), "web-1")


def told(session: Session, talk: DeltaTalk) -> None:
    for event in talk.events:
        session.note(event, NOW)
    talk.events.clear()


def row(ledger: Ledger, short: str) -> Row:
    return next(row for row in ledger.rows() if row.type_url == TYPES[short])


def test_a_type_is_not_sent_then_stale_then_synced() -> None:
    ledger = Ledger(TYPES.values())
    session = ledger.open(PROXY, NOW)
    talk = DeltaTalk(world("v7", ecds="rbac"))
    told(session, talk)
    assert row(ledger, "ecds").status is Status.NOT_SENT
    talk.say("ecds", "rbac")
    told(session, talk)
    assert (row(ledger, "ecds").status, row(ledger, "ecds").sent) == (Status.STALE, "v7")
    talk.ack("ecds")
    told(session, talk)
    assert (row(ledger, "ecds").status, row(ledger, "ecds").accepted) == (Status.SYNCED, "v7")
    assert ledger.proxies()[0].version == "v7"


def test_a_refusal_shows_the_proxys_words_until_it_is_mended() -> None:
    ledger = Ledger(TYPES.values())
    session = ledger.open(PROXY, NOW)
    talk = DeltaTalk(world("1", ecds="a b"))
    talk.say("ecds", "a b")
    talk.nack("ecds", "b: unknown field")
    told(session, talk)
    assert (row(ledger, "ecds").status, row(ledger, "ecds").error) == (Status.ERROR, "b: unknown field")
    talk.ack("ecds")
    told(session, talk)
    assert row(ledger, "ecds").status is Status.ERROR
    talk.nack("ecds", "unknown field")
    told(session, talk)
    assert (row(ledger, "ecds").status, row(ledger, "ecds").error) == (Status.ERROR, "b: unknown field")
    assert ledger.proxies()[0].version is None
    talk.update(world("2", ecds="a b=2"))
    talk.ack("ecds")
    told(session, talk)
    assert (row(ledger, "ecds").status, row(ledger, "ecds").error) == (Status.SYNCED, None)
    assert ledger.proxies()[0].version == "2"


def test_a_new_stream_of_a_proxy_replaces_the_old_one_even_if_that_ends_later() -> None:
    ledger = Ledger(TYPES.values())
    old = ledger.open(PROXY, NOW)
    ledger.open(PROXY, NOW + timedelta(seconds=1))
    old.close(NOW + timedelta(seconds=2))
    (state,) = ledger.proxies()
    assert (state.connected, state.since) == (True, NOW + timedelta(seconds=1))


def test_the_ledger_does_not_grow_for_ever() -> None:
    ledger = Ledger(TYPES.values())
    for n in range(ledger_module.KEPT + 5):
        session = ledger.open(ProxyKey(PROXY.spiffe_id, str(n)), NOW + timedelta(seconds=n))
        if n % 2:
            session.close(NOW + timedelta(seconds=n))
    kept = {state.proxy.instance_id for state in ledger.proxies()}
    assert len(kept) == ledger_module.KEPT
    assert kept.isdisjoint({"1", "3", "5", "7"})
    ledger.forget(ProxyKey(PROXY.spiffe_id, "0"))
    assert len(ledger.proxies()) == ledger_module.KEPT - 1
