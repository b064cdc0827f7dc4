"""What the agent holds: its own SVID, the trust bundle, its entries, and an SVID for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Final

from vestibule.agent.changed import Changed
from vestibule.agent.demand import Demand
from vestibule.errors import VestibuleError
from vestibule.pki.revocation import revoked, unrevoked
from vestibule.records import Entry
from vestibule.spiffe import (
    Revocations,
    RevokedIdentity,
    Selector,
    SpiffeId,
    TrustBundle,
    TrustDomain,
    X509Svid,
    covers,
)

REMEMBERED_CALLERS: Final = 4096
_ANY_TIME: Final = datetime.min.replace(tzinfo=UTC)
"""What is on the list counts, whatever the time: it leaves the list when nothing that it means can be valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An SVID in hand, and what of its entry went into it, so that a changed entry gets a new one."""

    svid: X509Svid
    renew_at: datetime
    dns_names: tuple[str, ...] = ()
    ttl: timedelta | None = None
    from_disk: bool = False

    def fits(self, entry: Entry) -> bool:
        """Whether the certificate is still what the entry asks for (its hint or selectors are not part of it)."""
        return (self.svid.spiffe_id, self.dns_names, self.ttl) == (
            entry.spiffe_id,
            entry.dns_names,
            entry.x509_svid_ttl,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """What to verify others with: our own trust domain's bundle, and those of others, each for itself."""

    own: TrustBundle
    federated: tuple[TrustBundle, ...] = ()

    def of(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """The one bundle that speaks for a trust domain."""
        return next((each for each in self.all if each.trust_domain == trust_domain), None)

    @property
    def all(self) -> tuple[TrustBundle, ...]:
        """Our own first."""
        return (self.own, *self.federated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Everything, at one instant; immutable, so that it can be written to disk while the next is made."""

    own: Held | None = None
    bundle: TrustBundle | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)
    svids: Mapping[str, Held] = field(default_factory=dict)
    federated: Mapping[TrustDomain, TrustBundle] = field(default_factory=dict)

    def federated_of(self, entries: Iterable[Entry]) -> tuple[TrustBundle, ...]:
        """The bundles of the trust domains that entries federate with, as far as there are any, by trust domain."""
        wanted = federates_with(entries) & self.federated.keys()
        return tuple(self.federated[domain] for domain in sorted(wanted))

    def matching(self, selectors: frozenset[Selector]) -> tuple[Entry, ...]:
        """The entries that give a workload with these selectors an identity, by ID (as SPIRE orders them)."""
        return tuple(
            entry
            for _, entry in sorted(self.entries.items())
            if covers(selectors, entry.selectors) and not entry.store_svid
        )

    def svids_of(self, entries: Iterable[Entry], now: datetime) -> tuple[X509Svid, ...]:
        """The SVIDs for entries, in their order.  One that expired is never among them."""
        held = ((entry, self.svids.get(entry.id)) for entry in entries)
        return tuple(
            replace(each.svid, hint=entry.hint)
            for entry, each in held
            if each is not None and now < each.svid.not_after
        )


def federates_with(entries: Iterable[Entry]) -> frozenset[TrustDomain]:
    """The foreign trust domains that workloads of these entries believe."""
    pairs = {(name, entry.spiffe_id.trust_domain) for entry in entries for name in entry.federates_with}
    return frozenset(found for name, own in pairs if (found := TrustDomain.parse(name)) != own)


class SvidCache:
    """The holdings of now; tells who waits when they change."""

    def __init__(self) -> None:
        self.now = Holdings()
        self.changed = Changed()
        self.demand = Demand()
        self.told = False
        self.doubt: VestibuleError | None = None
        """Why it is not known what is revoked; meanwhile nothing of what is held may be served."""
        self.revocations = Revocations()
        """What is revoked: no SVID that it means is ever among the holdings."""
        self._matching: dict[frozenset[Selector], tuple[Entry, ...]] = {}

    def matching(self, selectors: frozenset[Selector], now: datetime) -> list[Entry]:
        """``Holdings.matching`` without entries that are over, or whose identity is revoked altogether.

        Asked by every open stream at every change, mostly with selectors that were asked with before.
        """
        if (found := self._matching.get(selectors)) is None:
            if len(self._matching) >= REMEMBERED_CALLERS:
                self._matching.clear()
            found = self._matching[selectors] = self.now.matching(selectors)
        return [
            entry
            for entry in found
            if (entry.expires_at is None or entry.expires_at > now)
            and not self._gets_nothing(entry.spiffe_id, now)
        ]

    def _gets_nothing(self, spiffe_id: SpiffeId, now: datetime) -> bool:
        """Whether an identity is revoked for good, and not only what it was issued before an instant."""
        why = self.revocations.issuing(spiffe_id, now)
        return why is not None and isinstance(why.target, RevokedIdentity) and not why.target.issued_before

    @property
    def bundle(self) -> TrustBundle | None:
        """The trust bundle as it is served and verified with: without authorities that are revoked."""
        bundle = self.now.bundle
        return None if bundle is None else unrevoked(bundle, self.revocations, _ANY_TIME)

    def trusted(self, bundles: Sequence[TrustBundle]) -> tuple[TrustBundle, ...]:
        """Others' bundles as they are served, likewise."""
        return tuple(unrevoked(each, self.revocations, _ANY_TIME) for each in bundles)

    def revoke(self, revocations: Revocations) -> int:
        """Take a new list of revocations, and drop what it means; says how many SVIDs that were."""
        self.revocations = revocations
        svids = self.now.svids
        kept = {each: held for each, held in svids.items() if not self._is_revoked(held)}
        if len(kept) < len(svids):
            self.now = replace(self.now, svids=MappingProxyType(kept))
        # Told in any case: identities that get nothing any more, and authorities, are looked at anew.
        self.changed.notify()
        return len(svids) - len(kept)

    def _is_revoked(self, held: Held) -> bool:
        return revoked(self.revocations, held.svid.chain, _ANY_TIME) is not None

    def get_ready(self) -> None:
        """The holdings are the server's, or were once."""
        if not self.told:
            self.told = True
            self.changed.notify()

    @property
    def ready(self) -> bool:
        """Whether the holdings say who has which identity, and may be served; before, absence means nothing."""
        return self.told and self.doubt is None

    def believe(self) -> None:
        """It is known again what is revoked."""
        if self.doubt is not None:
            self.doubt = None
            self.changed.notify()

    def become(self, holdings: Holdings) -> bool:
        """Take new holdings.  Says whether anything changed.

        SVIDs without an entry, or revoked, are dropped, and so are bundles that no entry federates with any more.
        """
        before = self.now.svids
        kept = {
            each: held
            for each, held in holdings.svids.items()
            # Those in hand were looked at when they came, and when the list did.
            if each in holdings.entries and (before.get(each) is held or not self._is_revoked(held))
        }
        federated: Mapping[TrustDomain, TrustBundle] = {}
        if holdings.federated:
            wanted = federates_with(holdings.entries.values())
            federated = {each: bundle for each, bundle in holdings.federated.items() if each in wanted}
        holdings = replace(
            holdings, svids=MappingProxyType(kept), federated=MappingProxyType(dict(federated))
        )
        if holdings == self.now:
            return False
        if holdings.entries is not self.now.entries:
            self._matching.clear()
        self.now = holdings
        self.changed.notify()
        return True
