"""Endpoints as a scan might have seen them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from vestibule.posture import (
    Accepted,
    Answer,
    Certificate,
    ClientCertificates,
    Facts,
    Outcome,
    Plain,
    Plaintext,
    Profile,
    Target,
    Tls,
    Trust,
    judge,
)

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEB: Final = Target(host="web.internal", port=8443)
SERVED: Final = Answer(outcome=Outcome.SERVED, detail="HTTP/1.1 200 OK")
REFUSED: Final = Answer(outcome=Outcome.ALERT, detail="certificate_required")
SVID: Final = Certificate(
    subject="O=Vestibule",
    issuer="O=Vestibule,CN=CA",
    serial="7f",
    fingerprint="00" * 32,
    not_before=NOW - timedelta(minutes=10),
    not_after=NOW + timedelta(minutes=50),
    key="EC",
    key_bits=256,
    signature_hash="sha256",
    uris=("spiffe://example.org/ns/prod/sa/web",),
    spiffe_id="spiffe://example.org/ns/prod/sa/web",
)
STRICT: Final = ClientCertificates(
    requested=True, without=REFUSED, foreign=Answer(outcome=Outcome.ALERT, detail="unknown_ca")
)
GOOD: Final = Facts(
    target=WEB,
    seen=NOW,
    tls=Tls(
        accepted=(Accepted(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"),),
        alpn="h2",
        chain=(SVID,),
        trust=Trust(by="the bundle of example.org"),
        host_name_fits=False,
        clients=STRICT,
    ),
    plaintext=Plaintext(kind=Plain.REFUSED),
)
PLAIN: Final = Facts(target=WEB, seen=NOW, plaintext=Plaintext(kind=Plain.HTTP, detail="HTTP/1.1 200 OK"))
AWAY: Final = Facts(target=WEB, seen=NOW, unreachable="Connection refused")


def tls(**changes: Any) -> Facts:
    """The good endpoint, but for these facts of its TLS."""
    assert GOOD.tls is not None
    return replace(GOOD, tls=replace(GOOD.tls, **changes))


def leaf(**changes: Any) -> Facts:
    """The good endpoint, but for these facts of its certificate."""
    return tls(chain=(replace(SVID, **changes),))


def clients(**changes: Any) -> Facts:
    """The good endpoint, but for how it treats callers."""
    return tls(clients=replace(STRICT, **changes))


def found(facts: Facts, profile: Profile = Profile.SERVICE) -> list[tuple[str, str]]:
    """Codes and severities of what is to be said about it."""
    return [(each.code.code, each.severity.value) for each in judge(facts, profile, NOW).findings]
