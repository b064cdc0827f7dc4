"""What leads to a tainted authority is renewed early, in its turn, and stays valid until then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from vestibule.agent.accepting import hold
from vestibule.agent.cache import Held, Holdings
from vestibule.agent.tainting import BATCH, PACE, again, hasten
from vestibule.agent.vault import from_document, to_document
from vestibule.pki.chains import is_sound, is_tainted, verify_x509_svid
from vestibule.spiffe import TrustBundle
from vestibule.testing import FakeClock, TestAuthority

NOW = FakeClock().now()
OLD, NEW = TestAuthority(now=NOW, intermediates=1), TestAuthority(now=NOW)
BUNDLE = TrustBundle(
    trust_domain=OLD.trust_domain,
    x509_authorities=(OLD.certificate, NEW.certificate),
    tainted_x509=frozenset({OLD.certificate}),
)


def held(authority: TestAuthority, path: str = "/web") -> Held:
    return hold(authority.svid(path, now=NOW), None, NOW, 0.0)


def holdings(svids: dict[str, Held], own: Held | None = None, bundle: TrustBundle = BUNDLE) -> Holdings:
    return Holdings(own=own, bundle=bundle, svids=svids)


def test_tainted_is_valid_but_not_sound() -> None:
    chain = held(OLD).svid.chain
    verify_x509_svid(chain, BUNDLE, NOW)
    assert is_tainted(chain, BUNDLE, NOW)
    assert not is_sound(chain, BUNDLE, NOW)
    untainted = replace(BUNDLE, tainted_x509=frozenset())
    assert is_sound(chain, untainted, NOW)
    assert not is_tainted(chain, untainted, NOW)
    gone = replace(BUNDLE, x509_authorities=(NEW.certificate,), tainted_x509=frozenset())
    assert not is_sound(chain, gone, NOW)


def test_only_what_leads_to_a_tainted_authority_is_hastened_and_the_agents_own_comes_first() -> None:
    before = holdings({"a": held(OLD), "b": held(NEW)}, own=held(OLD, "/spire/agent/x"))
    after = hasten(before, NOW, lambda: 1.0)
    assert after.own is not None
    assert after.own.renew_at == NOW + PACE / 2
    assert after.svids["a"].renew_at == NOW + PACE
    assert after.svids["b"] == before.svids["b"]
    assert after.svids["a"].svid == before.svids["a"].svid, "it is served on"


def test_many_are_renewed_in_batches() -> None:
    one = held(OLD)
    after = hasten(holdings({str(number): one for number in range(3 * BATCH)}), NOW, lambda: 0.5)
    due = sorted(each.renew_at - NOW for each in after.svids.values())
    assert due[:BATCH] == [PACE / 2] * BATCH
    assert due[BATCH : 2 * BATCH] == [PACE * 1.5] * BATCH
    assert due[-1] == PACE * 2.5


def test_without_taint_nothing_changes_and_a_renewal_that_is_due_is_not_put_off() -> None:
    plain = holdings({"a": held(OLD)}, bundle=replace(BUNDLE, tainted_x509=frozenset()))
    assert hasten(plain, NOW, lambda: 0.0) is plain
    due = replace(held(OLD), renew_at=NOW - timedelta(seconds=1))
    assert hasten(holdings({"a": due}), NOW, lambda: 1.0).svids["a"] == due


def test_a_server_that_has_not_changed_over_is_asked_again_later() -> None:
    assert again(held(OLD), NOW).renew_at == NOW + PACE


def test_taint_is_remembered_on_disk_and_what_was_written_before_it_existed_is_read() -> None:
    authority = replace(NEW.jwt_authority, tainted=True)
    kept = holdings({}, bundle=replace(BUNDLE, jwt_authorities=(authority, OLD.jwt_authority)))
    document = to_document(kept)
    assert from_document(document) == kept
    del document["bundle"]["tainted_x509"]
    document["bundle"]["jwt_authorities"] = [each[:3] for each in document["bundle"]["jwt_authorities"]]
    older = from_document(document).bundle
    assert older is not None
    assert not older.tainted_x509
    assert not any(key.tainted for key in older.jwt_authorities)
