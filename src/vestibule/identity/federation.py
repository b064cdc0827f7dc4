"""Federation: with which trust domains, and keeping their bundles fresh.

Each relationship has a task that fetches the bundle when it is due.  What is fetched takes the place of what was kept
for the same trust domain, if it may (``foreign_bundles``); nothing that fails takes anything away.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import Fault, VestibuleError
from vestibule.identity.beacon import first
from vestibule.identity.codes import NO_ENDPOINT_TRUST, OLDER_BUNDLE, RELATIONSHIP_CHANGED
from vestibule.identity.federated_bundles import FederatedBundles, bundle_event
from vestibule.identity.foreign_bundles import check_foreign_bundle
from vestibule.identity.polling import SHORTEST, pause
from vestibule.identity.relationships import Relationships
from vestibule.records import FederationRelationship
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store import Store, Subscription

ACTOR: Final = "server"
RECONCILE_SECONDS: Final = 10.0
"""How often relationships are read anew besides at their changes: another process may have changed them."""
FETCH_SECONDS: Final = 30.0
AT_ONCE: Final = 8
"""So many endpoints are asked at a time."""

_log = logging.getLogger(__name__)


class Endpoints(Protocol):
    """Bundle endpoints, as a client sees them (``calls.bundle_endpoint``)."""

    async def fetch(self, relationship: FederationRelationship, trust: TrustBundle | None) -> TrustBundle:
        """The bundle that the relationship's endpoint gives.

        In the profile ``https_spiffe`` the endpoint is verified with ``trust``.  Raises: VST23nn, VST1009.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How the fetching of one trust domain's bundle goes, within this process."""

    attempted_at: datetime | None = None
    next_at: datetime | None = None
    fetched_at: datetime | None = None
    failures: int = 0
    problem: VestibuleError | None = None


class Federation:
    """Keeps the bundles of those with whom there are relationships fresh."""

    def __init__(
        self,
        store: Store,
        relationships: Relationships,
        bundles: FederatedBundles,
        endpoints: Endpoints,
        audit: Audit,
        clock: Clock,
        own: Callable[[], TrustBundle],
        *,
        shortest: timedelta = SHORTEST,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - spreads load, hides nothing
    ) -> None:
        """``own`` is the bundle of our own trust domain, now; ``shortest`` the least time between two fetches."""
        self._store = store
        self._relationships = relationships
        self._bundles = bundles
        self._endpoints = endpoints
        self._audit = audit
        self._clock = clock
        self._own = own
        self._shortest = shortest
        self._jitter = jitter
        self._tasks: dict[TrustDomain, tuple[FederationRelationship, asyncio.Task[None]]] = {}
        self._progress: dict[TrustDomain, Progress] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    # ------------------------------------------------------------------------------- for operators

    async def refresh(self, actor: str, trust_domain: TrustDomain) -> None:
        """Fetch a bundle now.  Raises: VST8033, and why it could not be fetched or was refused."""
        relationship = await self._relationships.get(trust_domain)
        event = AuditEvent(actor=actor, action="federation.refresh", subject=str(trust_domain.id))
        await self._audit.record([event])
        await self._attempt(relationship)

    def progress(self, trust_domain: TrustDomain) -> Progress:
        """How fetching goes."""
        return self._progress.get(trust_domain, Progress())

    def all_progress(self) -> Mapping[TrustDomain, Progress]:
        """How fetching goes, of everybody that was tried."""
        return dict(self._progress)

    # ------------------------------------------------------------------------------ staying fresh

    async def run(self) -> None:
        """Fetch what is due, for every relationship that there is."""
        changes = self._store.changes.subscribe("relationships")
        changed = self._relationships.changed
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow(changes), name="federation-changes")
                while True:
                    seen = changed.value
                    await self._reconcile(group)
                    await first(changed.changed(seen), asyncio.sleep(RECONCILE_SECONDS))
        finally:
            changes.close()
            self._tasks = {}

    async def _follow(self, changes: Subscription) -> None:
        async for _ in changes:
            self._relationships.changed.advance()

    async def _reconcile(self, group: asyncio.TaskGroup) -> None:
        try:
            wanted = {each.trust_domain: each for each in await self._store.relationships.all()}
        except VestibuleError as error:
            _log.error("cannot read the federation relationships: %s", error)
            return
        for domain, (relationship, task) in list(self._tasks.items()):
            if domain not in wanted or _endpoint(wanted[domain]) != _endpoint(relationship):
                task.cancel()
                del self._tasks[domain]
                self._progress.pop(domain, None)
        for domain in wanted.keys() - self._tasks.keys():
            task = group.create_task(self._poll(wanted[domain]), name=f"federation-{domain}")
            self._tasks[domain] = (wanted[domain], task)

    async def _poll(self, relationship: FederationRelationship) -> None:
        while True:
            seen = self._bundles.revision
            with suppress(VestibuleError):  # noted, told, and tried again
                await self._attempt(relationship)
            await self._rest(relationship.trust_domain, seen)

    async def _rest(self, domain: TrustDomain, seen: int) -> None:
        """Until a fetch is due; one by hand puts it off, and while fetching fails a changed bundle brings it on."""
        while self._next_at(domain) > self._clock.now():
            failing = self.progress(domain).failures > 0
            if failing and self._bundles.revision != seen:
                return
            waits: list[Coroutine[Any, Any, object]] = [self._clock.sleep_until(self._next_at(domain))]
            if failing:
                waits.append(self._bundles.changed(seen))
            await first(*waits)

    def _next_at(self, domain: TrustDomain) -> datetime:
        return self.progress(domain).next_at or self._clock.now()

    async def _attempt(self, relationship: FederationRelationship) -> None:
        """Fetch once, and note how it went.  Raises: why it failed."""
        domain = relationship.trust_domain
        before = self.progress(domain)
        try:
            async with self._slots:
                await self._fetch(relationship)
        except VestibuleError as error:
            if before.problem is None or before.problem.code is not error.code:
                last = before.fetched_at or relationship.fetched_at
                since = f"since {last.isoformat(timespec='seconds')}" if last else "yet"
                _log.warning("no fresh bundle of %s %s: %s (%s)", domain, since, error, error.advice)
                await self._record_refusal(domain, error)
            self._note(relationship, before, error)
            raise
        if before.failures:
            _log.info("the bundle of %s is fresh again", domain)
        self._note(relationship, before, None)

    async def _record_refusal(self, domain: TrustDomain, error: VestibuleError) -> None:
        if error.code.fault is not Fault.PEER:
            return
        # That a partner gives what must not be taken is worth a record, but nothing depends on it.
        event = bundle_event(ACTOR, "federated-bundle.fetch", error, trust_domain=str(domain))
        with suppress(VestibuleError):
            await self._audit.record([event])

    def _note(
        self, relationship: FederationRelationship, before: Progress, error: VestibuleError | None
    ) -> None:
        now, domain = self._clock.now(), relationship.trust_domain
        failures = before.failures + 1 if error else 0
        bundle = self._bundles.bundle(domain)
        rest = pause(bundle.refresh_hint if bundle else 0, failures, self._jitter(), self._shortest)
        self._progress[domain] = Progress(
            attempted_at=now,
            next_at=now + rest,
            fetched_at=before.fetched_at or relationship.fetched_at if error else now,
            failures=failures,
            problem=error,
        )

    async def _fetch(self, relationship: FederationRelationship) -> None:
        """Fetch a bundle and keep it.

        1. An endpoint with a SPIFFE ID is verified with the latest bundle of that ID's trust domain (5.2.2.4).
        2. What it gives may be kept as that trust domain's bundle.
        3. It is not older than what is kept, going by its sequence number (4.2).
        4. It is put on record, and takes the place of what was kept: alone, and only if relationship and bundle are
           still those that the fetch began with.
        """
        domain = relationship.trust_domain
        trust = await self._trust_of(relationship)
        if relationship.endpoint_spiffe_id is not None and trust is None:  # 1
            raise NO_ENDPOINT_TRUST.error(
                "can't perform SPIFFE authentication: there is no bundle with authorities of "
                f"{relationship.endpoint_spiffe_id.trust_domain}"
            )
        kept = await self._store.bundles.get(domain)
        fetched = check_foreign_bundle(await self._endpoints.fetch(relationship, trust), self._own())  # 2
        if kept is not None and 0 < fetched.sequence < kept.sequence:  # 3
            raise OLDER_BUNDLE.error(
                f"the endpoint gave bundle {fetched.sequence} of {domain}, and {kept.sequence} is kept"
            )
        async with self._relationships.changing:
            await self._take(relationship, kept, fetched)  # 4

    async def _take(
        self, relationship: FederationRelationship, kept: TrustBundle | None, fetched: TrustBundle
    ) -> None:
        domain = relationship.trust_domain
        now = await self._store.relationships.get(domain)
        if now is None or _endpoint(now) != _endpoint(relationship):
            raise RELATIONSHIP_CHANGED.error(f"the relationship with {domain} was changed meanwhile")
        if fetched != kept:
            await self._audit.record([bundle_event(ACTOR, "federated-bundle.fetch", fetched)])
            if not fetched.x509_authorities:
                _log.warning("%s publishes no X.509 authorities: none of its certificates is trusted", domain)

            def change(latest: TrustBundle | None) -> TrustBundle:
                if latest not in (kept, fetched):  # fetched by hand a moment ago, it may be there already
                    raise RELATIONSHIP_CHANGED.error(f"the bundle of {domain} was changed meanwhile")
                return fetched

            await self._store.bundles.revise(domain, change)
            await self._bundles.refresh()
        await self._store.relationships.fetched(domain, self._clock.now())

    async def _trust_of(self, relationship: FederationRelationship) -> TrustBundle | None:
        if relationship.endpoint_spiffe_id is None:
            return None
        domain = relationship.endpoint_spiffe_id.trust_domain
        own = self._own()
        # As it is kept: what was set together with the relationship may not have been read again yet.
        bundle = own if domain == own.trust_domain else await self._store.bundles.get(domain)
        return bundle if bundle is not None and bundle.x509_authorities else None


def _endpoint(relationship: FederationRelationship) -> FederationRelationship:
    """What of a relationship decides where its bundle comes from."""
    return replace(relationship, fetched_at=None)
