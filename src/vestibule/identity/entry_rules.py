"""What a registration entry has to keep before it is kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

from vestibule.identity.claims import ClaimRules, canonical, variables_in
from vestibule.identity.codes import INVALID_ENTRY, INVALID_LABELS, INVALID_TEMPLATE_ENTRY, INVALID_TTL
from vestibule.identity.names import member_id, server_id, workload_id
from vestibule.pki.names import dns_name
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.spiffe.templates import PathTemplate, Variable, check_dns_template

MAX_HINT_BYTES: Final = 1024
MAX_TTL: Final = timedelta(days=3650)
MAX_LABELS: Final = 32
MAX_LABEL_VALUE: Final = 256
DEFAULT_IDENTITIES: Final = 100
MOST_IDENTITIES: Final = 10_000
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRules:
    """The rules of one server.  ``default_identities`` is how many a template gives that does not say."""

    trust_domain: TrustDomain
    claims: ClaimRules = field(default_factory=ClaimRules)
    default_identities: int = DEFAULT_IDENTITIES

    def check(self, entry: Entry) -> Entry:
        """The entry, in normal form, if it may be kept.

        1. The parent is a member of the trust domain; the identity may be a workload's.
        2. There is a selector: an entry without one would be everybody's.
        3. Names, hint and lifetimes are ones that a certificate can carry.
        4. Labels, claims and templates keep their limits.

        Raises: VST1203, VST1204, VST1205, VST1209, VST1011 (DNS name), VST1400 (federated trust domain), VST1350
        (claims), VST1351, VST1404 (templates), VST1354 (labels).
        """
        member_id(entry.parent_id, self.trust_domain)  # 1
        workload_id(entry.spiffe_id, self.trust_domain)
        _check_selectors(entry)  # 2
        if len(entry.hint.encode()) > MAX_HINT_BYTES:  # 3
            raise INVALID_ENTRY.error(f"hint is too long, max length is {MAX_HINT_BYTES} characters")
        for ttl in (entry.x509_svid_ttl, entry.jwt_svid_ttl):
            if ttl is not None and not timedelta(seconds=1) <= ttl <= MAX_TTL:
                raise INVALID_TTL.error(f"a TTL of {ttl.total_seconds():g} s is not between 1 s and 10 years")
        federates_with = tuple(dict.fromkeys(str(TrustDomain.parse(name)) for name in entry.federates_with))
        names = tuple(dns_name(name) for name in entry.dns_names)
        self.claims.check(entry.claims)  # 4
        if entry.is_template:
            entry = self._template(entry)
        elif entry.dns_templates or entry.max_identities or variables_in(entry.claims):
            raise INVALID_TEMPLATE_ENTRY.error("an entry with variables needs a path template")
        return replace(
            entry,
            federates_with=federates_with,
            dns_names=names,
            labels=checked_labels(dict(entry.labels)),
            jwt_claims=canonical(entry.claims),
        )

    def identities_of(self, template: Entry) -> int:
        """How many SPIFFE IDs a template may give."""
        return template.max_identities or self.default_identities

    def _template(self, entry: Entry) -> Entry:
        template = PathTemplate.parse(entry.path_template)
        for name in ("admin", "downstream", "store_svid", "template_id"):
            # A right over the server must never follow from what an agent says of a workload.
            if getattr(entry, name):
                raise INVALID_TEMPLATE_ENTRY.error(f"an entry with a template cannot have {name}")
        if entry.parent_id == server_id(self.trust_domain):
            raise INVALID_TEMPLATE_ENTRY.error("a node alias cannot have a template")
        if not 0 <= entry.max_identities <= MOST_IDENTITIES:
            raise INVALID_TEMPLATE_ENTRY.error(f"max_identities is not between 1 and {MOST_IDENTITIES}")
        for name in entry.dns_templates:
            check_dns_template(name)
        if not variables_of_entry(entry):
            raise INVALID_TEMPLATE_ENTRY.error("the template has no variable")
        return replace(entry, spiffe_id=SpiffeId.of(self.trust_domain, template.prefix))


def variables_of_entry(entry: Entry) -> frozenset[Variable]:
    """All variables of a template: of its path, its DNS names and its claims.  Raises: VST1404."""
    found = PathTemplate.parse(entry.path_template).variables | variables_in(entry.claims)
    return found.union(*(check_dns_template(name) for name in entry.dns_templates))


def checked_labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Labels, sorted.  Raises: VST1354."""
    if len(labels) > MAX_LABELS:
        raise INVALID_LABELS.error(f"{len(labels)} labels; {MAX_LABELS} is the limit")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name):
            raise INVALID_LABELS.error(f"{name[:80]!r} is not a name of a label")
        if len(value) > MAX_LABEL_VALUE or not value.isprintable():
            raise INVALID_LABELS.error(f"the value of the label {name!r} is too long, or not printable")
    return tuple(sorted(labels.items()))


def _check_selectors(entry: Entry) -> None:
    if not entry.selectors:
        raise INVALID_ENTRY.error("selector list is empty")
    for selector in entry.selectors:
        if not selector.type or ":" in selector.type or not selector.value:
            raise INVALID_ENTRY.error(f"selector {str(selector)!r} needs a type without a colon, and a value")
