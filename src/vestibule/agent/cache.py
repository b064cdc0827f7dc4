"""What the agent holds: its own SVID, the trust bundle, its entries, and an SVID for each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from vestibule.agent.changed import Changed
from vestibule.agent.demand import Demand
from vestibule.records import Entry
from vestibule.spiffe import Selector, TrustBundle, TrustDomain, X509Svid, covers

REMEMBERED_CALLERS: Final = 4096


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
        self.ready = False
        """Whether the holdings say who has which identity; before, absence means nothing."""
        self._matching: dict[frozenset[Selector], tuple[Entry, ...]] = {}

    def matching(self, selectors: frozenset[Selector], now: datetime) -> list[Entry]:
        """``Holdings.matching`` without entries that are over.

        Asked by every open stream at every change, mostly with selectors that were asked with before.
        """
        if (found := self._matching.get(selectors)) is None:
            if len(self._matching) >= REMEMBERED_CALLERS:
                self._matching.clear()
            found = self._matching[selectors] = self.now.matching(selectors)
        return [entry for entry in found if entry.expires_at is None or entry.expires_at > now]

    def get_ready(self) -> None:
        """The holdings are the server's, or were once."""
        if not self.ready:
            self.ready = True
            self.changed.notify()

    def become(self, holdings: Holdings) -> bool:
        """Take new holdings.  Says whether anything changed.

        SVIDs without an entry are dropped, and so are bundles that no entry federates with any more.
        """
        kept = {each: held for each, held in holdings.svids.items() if each in holdings.entries}
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
