"""Whom to believe: trust bundles, authorities from a file, or those that the public web believes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from vestibule.errors import VestibuleError
from vestibule.pki.certificates import PARSE_ERRORS, load_certificate
from vestibule.pki.chains import verify_x509_svid
from vestibule.posture import Certificate, Trust, is_address, printable
from vestibule.posture.facts import PUBLIC_AUTHORITIES
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain

MOST_CHAIN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorities:
    """``bundles`` judge the SVIDs of their trust domains; ``named`` (DER), or else the public ones, all the rest."""

    bundles: Mapping[TrustDomain, TrustBundle] = field(default_factory=dict)
    named: tuple[bytes, ...] = ()

    def judge(self, chain: Sequence[bytes], leaf: Certificate, now: datetime) -> Trust:
        """Whether the chain (DER, leaf first) leads to an authority.  That the leaf is expired is told elsewhere."""
        # So that a certificate that ended yesterday is told to be just that.
        when = min(max(now, leaf.not_before), leaf.not_after - timedelta(seconds=1))
        if leaf.spiffe_id:
            return self._judge_svid(chain, SpiffeId.parse(leaf.spiffe_id).trust_domain, when)
        by = "the authorities of --trust-bundle" if self.named else PUBLIC_AUTHORITIES
        store = _store(self.named) if self.named else public_store()
        if store is None:
            return Trust()
        return Trust(by=by, problem=_web_problem(chain, leaf, store, when))

    def _judge_svid(self, chain: Sequence[bytes], trust_domain: TrustDomain, when: datetime) -> Trust:
        bundle = self.bundles.get(trust_domain)
        by = f"the bundle of {trust_domain}"
        if bundle is None and self.named:
            bundle, by = TrustBundle(trust_domain=trust_domain, x509_authorities=self.named), "--trust-bundle"
        if bundle is None:
            return Trust()
        try:
            verify_x509_svid(chain, bundle, when)
        except VestibuleError as error:
            return Trust(by=by, problem=f"{error.code.code} {printable(error.message)}")
        return Trust(by=by)


def host_name_fits(host: str, leaf: Certificate) -> bool:
    """Whether the certificate is for this host (RFC 9525, section 6)."""
    if is_address(host):
        return any(ip_address(host) == ip_address(each) for each in leaf.addresses if is_address(each))
    return any(_matches(host.lower(), each.lower()) for each in leaf.dns_names)


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.partition(".")[2] == pattern[2:] and "." in pattern[2:]
    return host == pattern


def _web_problem(chain: Sequence[bytes], leaf: Certificate, store: Store, when: datetime) -> str:
    """Empty if the chain holds; for whom the certificate is does not matter here."""
    subject = _subject(leaf)
    if subject is None:
        return "the certificate names no host"
    try:
        first, *others = (load_certificate(der) for der in chain[:MOST_CHAIN])
    except VestibuleError as error:
        return printable(error.message)
    try:
        verifier = PolicyBuilder().store(store).time(when).build_server_verifier(subject)
        verifier.verify(first, others)
    except VerificationError as error:
        if first.issuer == first.subject:
            return "it is self-signed"
        return printable(str(error).partition("\n")[0] or "no path leads to one")
    return ""


def _subject(leaf: Certificate) -> x509.DNSName | x509.IPAddress | None:
    try:
        for name in leaf.dns_names:
            return x509.DNSName(f"host{name[1:]}" if name.startswith("*.") else name)
        for address in leaf.addresses:
            return x509.IPAddress(ip_address(address))
    except PARSE_ERRORS:
        pass
    return None


@cache
def public_store() -> Store | None:
    """The authorities that this machine believes; None where it has none."""
    # What the system holds beyond our rules for certificates is passed over, not an error.
    found = []
    for der in ssl.create_default_context().get_ca_certs(binary_form=True):
        try:
            found.append(load_certificate(der))
        except VestibuleError:
            continue
    return Store(found) if found else None


@cache
def _store(authorities: tuple[bytes, ...]) -> Store:
    return Store([load_certificate(der) for der in authorities])
