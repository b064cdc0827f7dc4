"""What was kept, with what was revoked since.  That Envoy reads it so is shown by tests/e2e/test_revoked_outage.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vestibule.envoy import clusters, revoked
from vestibule.envoy.overlay import overlaid
from vestibule.envoy.revoked import Refused
from vestibule.envoy.world import Destination
from vestibule.intent.model import Port, Protocol
from vestibule.spiffe import Revocation, Revocations, RevokedCertificate, RevokedIdentity, SpiffeId
from vestibule.spiffe.revocations import Target
from vestibule.xds.resources import CLUSTER, ENDPOINTS, EXTENSION, Snapshot

NOW = datetime(2026, 5, 1, tzinfo=UTC)
WEB, PAYMENTS = (SpiffeId.parse(f"spiffe://example.org/{name}") for name in ("web", "payments"))
SERIAL = RevokedCertificate(authority_id="ab" * 20, serial=0x1234)
ALL_OF_WEB = RevokedIdentity(spiffe_id=WEB)
OLD_ONES = RevokedIdentity(spiffe_id=PAYMENTS, issued_before=NOW)


def listed(*targets: Target) -> Revocations:
    made = [Revocation(target=each, at=NOW, version=number + 1) for number, each in enumerate(targets)]
    return Revocations().merged(made, len(made), NOW)


def kept(*targets: Target) -> Snapshot:
    slots = revoked.slots(Refused.of(listed(*targets).entries)).values()
    port = Port(name="http", protocol=Protocol.HTTP)
    destination = Destination(name="web", service="web", spiffe_id=WEB, port=port)
    cluster = clusters.destination("web", destination, timedelta(hours=1))
    return Snapshot.of("v1", [*slots, cluster, clusters.endpoints("web", ())])


def body(snapshot: Snapshot, name: str = revoked.HTTP) -> bytes:
    return snapshot.of_type(EXTENSION)[name].body


def test_what_is_as_new_as_the_list_stays_as_it_is() -> None:
    for targets in ((), (SERIAL,), (SERIAL, OLD_ONES)):
        same = kept(*targets)
        assert overlaid(same, listed(*targets)) is same
        assert overlaid(same, Revocations()) is same


@pytest.mark.parametrize("slot", [revoked.HTTP, revoked.TCP])
def test_what_was_revoked_since_is_refused_and_what_was_before_too(slot: str) -> None:
    served = overlaid(kept(SERIAL), listed(OLD_ONES))
    assert b"1234" in body(served, slot)
    assert str(PAYMENTS).encode() in body(served, slot)
    # Kept once more, and taken up once more, it does not grow.
    assert overlaid(served, listed(OLD_ONES)) is served


def test_where_nothing_was_revoked_the_slot_is_that_of_the_server() -> None:
    assert overlaid(kept(), listed(SERIAL)).of_type(EXTENSION) == kept(SERIAL).of_type(EXTENSION)


def test_a_callee_that_is_revoked_for_good_is_nowhere() -> None:
    before = kept()
    served = overlaid(before, listed(ALL_OF_WEB))
    assert served.of_type(CLUSTER) == before.of_type(CLUSTER)
    (endpoints,) = served.of_type(ENDPOINTS).values()
    assert endpoints.version.startswith("kept+")
    assert overlaid(before, listed(OLD_ONES)).of_type(ENDPOINTS) == before.of_type(ENDPOINTS)
