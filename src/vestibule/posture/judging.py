"""Facts of an endpoint → findings.  Every rule is a function; the table at the end is all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Final

from vestibule.errors import ErrorCode
from vestibule.posture import codes
from vestibule.posture.ciphers import is_anonymous, is_broken
from vestibule.posture.facts import (
    PUBLIC_AUTHORITIES,
    Certificate,
    ClientCertificates,
    Facts,
    Outcome,
    Plain,
    Tls,
)
from vestibule.posture.findings import PLAIN_ANSWERS, Finding, Judged, Profile, Severity

OLD: Final = frozenset({"SSLv3", "TLSv1", "TLSv1.1"})
SHORT_KEYS: Final = {"RSA": 2048, "DSA": 2048, "EC": 224}
BAD_HASHES: Final = frozenset({"md5", "sha1"})
SVID_LONG: Final = timedelta(hours=25)
"""A day, which others' default is, and what backdating adds."""
SVID_TOO_LONG: Final = timedelta(days=8)
SERVICE_LONG: Final = timedelta(days=100)
"""What public authorities that renew by themselves give, and some days."""
PUBLIC_LONG: Final = timedelta(days=398)
"""The most that public authorities may give (CA/Browser Forum, Baseline Requirements, section 6.3.2)."""
ENDS_SOON: Final = timedelta(days=14)
SVID_OVERDUE: Final = 5 / 6
"""The share of an SVID's life after which its renewal, which begins at a half, has failed several times."""

Rule = Callable[[Facts, Profile, datetime], Iterator[Finding]]
TlsRule = Callable[[Tls, Profile, datetime], Iterator[Finding]]


def judge(facts: Facts, profile: Profile, now: datetime) -> Judged:
    """All findings, the worst first; those of one severity in the order of the rules."""
    found = [finding for rule in RULES for finding in rule(facts, profile, now)]
    if facts.tls is not None:
        found += [finding for rule in TLS_RULES for finding in rule(facts.tls, profile, now)]
    found.sort(key=lambda each: -each.severity.rank)
    return Judged(facts=facts, findings=tuple(found))


def _finding(code: ErrorCode, severity: Severity, message: str, advice: str | None = None) -> Finding:
    return Finding(code=code, severity=severity, message=message, advice=advice or code.advice)


def _unreachable(facts: Facts, _: Profile, __: datetime) -> Iterator[Finding]:
    if facts.unreachable:
        yield _finding(codes.UNREACHABLE, Severity.MEDIUM, f"no connection: {facts.unreachable}")


def _troubles(facts: Facts, _: Profile, __: datetime) -> Iterator[Finding]:
    for each in facts.troubles:
        yield _finding(codes.MISBEHAVES, Severity.MEDIUM, each)


def _plaintext(facts: Facts, profile: Profile, _: datetime) -> Iterator[Finding]:
    kind = facts.plaintext.kind
    answered = f"it answered a request without TLS: {facts.plaintext.detail}"
    if facts.tls is None:
        if kind in PLAIN_ANSWERS | {Plain.REDIRECT, Plain.OTHER}:
            yield _finding(codes.PLAINTEXT_ONLY, Severity.CRITICAL, f"no TLS at all; {answered}")
    elif kind in PLAIN_ANSWERS:
        severity = Severity.HIGH if profile is Profile.SERVICE else Severity.MEDIUM
        yield _finding(codes.PLAINTEXT_BESIDE_TLS, severity, answered)


def _versions(tls: Tls, profile: Profile, _: datetime) -> Iterator[Finding]:
    if old := sorted(OLD.intersection(tls.versions)):
        severity = Severity.HIGH if profile is Profile.SERVICE else Severity.MEDIUM
        yield _finding(codes.OLD_TLS, severity, f"it accepts {' and '.join(old)}")
    if tls.versions and "TLSv1.3" not in tls.versions:
        yield _finding(
            codes.NO_TLS_13, Severity.LOW, f"the newest version that it speaks is {tls.versions[0]}"
        )


def _ciphers(tls: Tls, _: Profile, __: datetime) -> Iterator[Finding]:
    anonymous = [each for each in tls.weak_ciphers if is_anonymous(each)]
    broken = [each for each in tls.weak_ciphers if is_broken(each) and each not in anonymous]
    weak = [each for each in tls.weak_ciphers if not is_broken(each)]
    if anonymous:
        message = f"it accepts ciphers without any certificate, on either side: {', '.join(anonymous)}"
        yield _finding(codes.WEAK_CIPHERS, Severity.CRITICAL, message)
    if broken:
        yield _finding(codes.WEAK_CIPHERS, Severity.HIGH, f"it accepts broken ciphers: {', '.join(broken)}")
    if weak:
        message = f"it accepts ciphers without forward secrecy or authenticated encryption: {', '.join(weak)}"
        yield _finding(codes.WEAK_CIPHERS, Severity.LOW, message)


def _validity(tls: Tls, _: Profile, now: datetime) -> Iterator[Finding]:
    for place, each in enumerate(tls.chain):
        which = "its certificate" if place == 0 else f"the authority {each.subject} of its chain"
        if now >= each.not_after:
            message = f"{which} expired at {_time(each.not_after)}, {_span(now - each.not_after)} ago"
            yield _finding(codes.NOT_VALID_NOW, Severity.HIGH, message)
        elif now < each.not_before:
            message = f"{which} begins at {_time(each.not_before)}, in {_span(each.not_before - now)}"
            advice = "Compare the clocks of both machines and of who issued it: one of them is wrong."
            yield _finding(codes.NOT_VALID_NOW, Severity.HIGH, message, advice)
        elif place == 0 and _is_late(each, now):
            message = f"{which} ends in {_span(each.not_after - now)}, and was not renewed in time"
            yield _finding(codes.NOT_VALID_NOW, Severity.MEDIUM, message)


def _is_late(leaf: Certificate, now: datetime) -> bool:
    life = leaf.not_after - leaf.not_before
    if life <= SVID_TOO_LONG:
        return now - leaf.not_before > SVID_OVERDUE * life
    return leaf.not_after - now < min(ENDS_SOON, life / 6)


def _trust(tls: Tls, profile: Profile, _: datetime) -> Iterator[Finding]:
    if tls.trust.problem:
        # Services may have authorities of their own, of which nobody told.
        guessed = profile is Profile.SERVICE and tls.trust.by == PUBLIC_AUTHORITIES
        message = f"its chain does not hold against {tls.trust.by}: {tls.trust.problem}"
        yield _finding(codes.UNTRUSTED_CHAIN, Severity.MEDIUM if guessed else Severity.HIGH, message)


def _host_name(tls: Tls, profile: Profile, _: datetime) -> Iterator[Finding]:
    leaf = tls.leaf
    if leaf is None or tls.host_name_fits is not False or (profile is Profile.SERVICE and leaf.spiffe_id):
        return
    severity = Severity.HIGH if profile is Profile.PUBLIC else Severity.MEDIUM
    names = ", ".join((*leaf.dns_names, *leaf.addresses)[:5]) or "none"
    yield _finding(codes.WRONG_HOST_NAME, severity, f"its certificate names other hosts: {names}")


def _keys(tls: Tls, _: Profile, __: datetime) -> Iterator[Finding]:
    for place, each in enumerate(tls.chain):
        if each.key_bits and each.key_bits < SHORT_KEYS.get(each.key, 0):
            message = f"a key of {each.key_bits} bits ({each.key}): {each.subject or each.spiffe_id}"
            yield _finding(codes.WEAK_KEY, Severity.HIGH, message)
        # Nobody verifies the signature of a root: it is known by itself.
        is_root = place > 0 and each.subject == each.issuer
        if each.signature_hash in BAD_HASHES and not is_root:
            message = f"signed with {each.signature_hash.upper()}: {each.subject or each.spiffe_id}"
            yield _finding(codes.WEAK_KEY, Severity.HIGH, message)


def _lifetime(tls: Tls, profile: Profile, _: datetime) -> Iterator[Finding]:
    leaf = tls.leaf
    if leaf is None:
        return
    life = leaf.not_after - leaf.not_before
    message = f"its certificate lives for {_span(life)}"
    if profile is Profile.PUBLIC:
        if life > PUBLIC_LONG:
            yield _finding(codes.LONG_LIVED, Severity.MEDIUM, message)
    elif life > (SVID_TOO_LONG if leaf.spiffe_id else SERVICE_LONG):
        yield _finding(codes.LONG_LIVED, Severity.MEDIUM, message)
    elif life > SVID_LONG:
        yield _finding(codes.LONG_LIVED, Severity.LOW, message)


def _spiffe_id(tls: Tls, profile: Profile, _: datetime) -> Iterator[Finding]:
    leaf = tls.leaf
    if leaf is None or profile is Profile.PUBLIC or leaf.spiffe_id:
        return
    if not leaf.uris:
        yield _finding(codes.SPIFFE_ID, Severity.MEDIUM, "its certificate holds no SPIFFE ID")
        return
    message = f"its certificate is no SVID: {leaf.problem} ({', '.join(leaf.uris[:3])})"
    yield _finding(codes.SPIFFE_ID, Severity.HIGH, message)


def _clients(tls: Tls, profile: Profile, _: datetime) -> Iterator[Finding]:
    clients, service = tls.clients, profile is Profile.SERVICE
    if not clients.requested:
        if service and clients.without.outcome is not Outcome.UNKNOWN:
            message = "it asks its callers for no certificate"
            yield _finding(codes.NO_CLIENT_CERTIFICATE, Severity.HIGH, message)
        return
    if clients.without.let_in:
        message = f"it asks for a client certificate, and serves without one{_quoted(clients.without.detail)}"
        yield _finding(codes.NOT_ENFORCED, Severity.HIGH if service else Severity.LOW, message)
    if clients.without.outcome is Outcome.REFUSED_ABOVE:
        message = (
            f"TLS lets callers in without one, and they are refused later{_quoted(clients.without.detail)}"
        )
        yield _finding(codes.NOT_ENFORCED, Severity.INFO, message)
    if not service:
        message = (
            "it asks its callers for a certificate: an endpoint of services, open to the public network?"
        )
        yield _finding(codes.NOT_ENFORCED, Severity.INFO, message, "Nothing, if that is meant.")


def _foreign(tls: Tls, _: Profile, __: datetime) -> Iterator[Finding]:
    clients = tls.clients
    if clients.foreign is not None and clients.foreign.let_in and not clients.without.let_in:
        message = f"it let in a certificate that nobody can know{_quoted(clients.foreign.detail)}"
        yield _finding(codes.ANY_CERTIFICATE, Severity.CRITICAL, message)


def _own(tls: Tls, _: Profile, __: datetime) -> Iterator[Finding]:
    clients = tls.clients
    if clients.own is not None and clients.own.refused:
        message = f"it refused {clients.own_id}{_quoted(clients.own.detail)}"
        yield _finding(codes.OWN_REFUSED, Severity.INFO, message)


def _resumption(tls: Tls, _: Profile, __: datetime) -> Iterator[Finding]:
    if tls.resumes and _knows_callers(tls.clients):
        yield _finding(
            codes.RESUMPTION, Severity.LOW, "it resumes sessions, of callers that it knows by certificates"
        )


def _knows_callers(clients: ClientCertificates) -> bool:
    return clients.requested and not clients.without.let_in


def _quoted(detail: str) -> str:
    return f": {detail}" if detail else ""


def _time(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def _span(span: timedelta) -> str:
    """In the unit that a person would choose."""
    seconds = span.total_seconds()
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


RULES: Final[tuple[Rule, ...]] = (_unreachable, _plaintext, _troubles)
TLS_RULES: Final[tuple[TlsRule, ...]] = (
    _clients,
    _foreign,
    _versions,
    _ciphers,
    _validity,
    _trust,
    _spiffe_id,
    _host_name,
    _keys,
    _lifetime,
    _resumption,
    _own,
)
