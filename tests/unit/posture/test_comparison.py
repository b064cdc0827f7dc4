"""Before and after, and the file for the ticket."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from tests.unit.posture.endpoints import AWAY, GOOD, NOW, PLAIN, clients, leaf, tls

from vestibule.posture import Answer, Facts, Outcome, Profile, Target, compare, judge, markdown

OTHER = Target(host="other.internal", port=1)
SERVED = Answer(outcome=Outcome.SERVED, detail="HTTP/1.1 200 `|<b>OK")


def judged(*facts: Facts) -> list[object]:
    return [judge(each, Profile.SERVICE, NOW) for each in facts]


def codes(before: Facts, after: Facts) -> tuple[list[str], list[str], list[str]]:
    (changed,) = compare(*(tuple(judged(each)) for each in (before, after))).endpoints  # type: ignore[arg-type]
    mended, new, left = changed.mended, changed.new, changed.left
    return ([e.code.code for e in mended], [e.code.code for e in new], [e.code.code for e in left])


def test_what_is_mended_new_and_left_is_told_apart() -> None:
    assert codes(PLAIN, GOOD) == (["VST2473"], [], [])
    assert codes(PLAIN, tls(resumes=True)) == (["VST2473"], ["VST2487"], [])
    assert codes(tls(resumes=True), tls(resumes=True)) == ([], [], ["VST2487"])


def test_other_words_for_the_same_are_no_change() -> None:
    old = leaf(not_after=NOW - timedelta(minutes=5))
    older = leaf(not_after=NOW - timedelta(minutes=50), not_before=NOW - timedelta(days=1))
    assert codes(old, older) == ([], [], ["VST2478"])


def test_the_same_matter_in_another_severity_is_a_change() -> None:
    weak, broken = (
        tls(weak_ciphers=("TLS_RSA_WITH_AES_128_CBC_SHA",)),
        tls(weak_ciphers=("TLS_RSA_WITH_NULL_SHA",)),
    )
    assert codes(broken, weak) == (["VST2476"], ["VST2476"], [])


def test_nothing_counts_as_mended_of_an_endpoint_that_cannot_be_reached() -> None:
    assert codes(PLAIN, AWAY) == ([], ["VST2472"], [])


def test_endpoints_of_one_scan_only_are_told() -> None:
    before = [judge(each, Profile.SERVICE, NOW) for each in (PLAIN,)]
    after = [judge(replace(GOOD, target=OTHER), Profile.SERVICE, NOW)]
    comparison = compare(before, after)
    assert [(each.before is None, each.after is None) for each in comparison.endpoints] == [
        (True, False),
        (False, True),
    ]
    assert (comparison.mended, comparison.new, comparison.left) == (0, 0, 0)


def test_a_report_says_where_it_stands_and_what_is_to_be_done() -> None:
    text = markdown(
        NOW, [judge(each, Profile.SERVICE, NOW) for each in (GOOD, replace(PLAIN, target=OTHER))], None
    )
    assert "**1 of 2** endpoints" in text
    assert "| `web.internal:8443` | `spiffe://example.org/ns/prod/sa/web` | enforced | 0 |" in text
    assert "- [ ] **critical** `other.internal:1` VST2473" in text


def test_a_report_of_two_scans_says_what_changed() -> None:
    before = [judge(each, Profile.SERVICE, NOW - timedelta(days=5)) for each in (PLAIN,)]
    after = [judge(each, Profile.SERVICE, NOW) for each in (GOOD,)]
    text = markdown(NOW, after, (NOW - timedelta(days=5), before, compare(before, after)))
    assert "Scanned 2026-02-24 12:00 UTC and again 2026-03-01 12:00 UTC" in text
    assert "| endpoints that know their callers (mutual TLS) | 0 of 1 | 1 of 1 |" in text
    assert "| `web.internal:8443` | plaintext | enforced | VST2473 | – | – |" in text
    assert "## Mended\n\n- **critical** `web.internal:8443` VST2473" in text
    assert text.rstrip().endswith("Nothing.")


def test_what_an_endpoint_wrote_is_no_markup() -> None:
    text = markdown(NOW, [judge(clients(without=SERVED), Profile.SERVICE, NOW)], None)
    assert r"HTTP/1.1 200 \`\|\<b\>OK" in text
