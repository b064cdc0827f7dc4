"""The bundles of other trust domains: kept each for itself, never merged (SPIFFE_Federation.md, section 4.2)."""

from __future__ import annotations

import asyncio
import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import Beacon
from vestibule.identity.codes import BUNDLE_EXISTS, BUNDLE_NOT_FOUND
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.foreign_bundles import check_foreign_bundle, foreign
from vestibule.pki.bundles import sha256_fingerprint
from vestibule.records import BundleDeletion, Entry
from vestibule.spiffe import TrustBundle, TrustDomain
from vestibule.store import EntryFilter, Match, Page, Store
from vestibule.store.codes import ENTRIES_CHANGED

BundlePatch: TypeAlias = Mapping[str, Any]
"""New values of some fields of a ``TrustBundle``, by field name."""
Kept: TypeAlias = TrustBundle | VestibuleError

ATTEMPTS: Final = 3
"""To delete a bundle whose entries change at that very moment."""


class FederatedBundles:
    """Keeps them, checked and on record, and answers from memory what they are."""

    def __init__(
        self, store: Store, entitlements: Entitlements, audit: Audit, own: Callable[[], TrustBundle]
    ) -> None:
        """``own`` is the bundle of our own trust domain, now."""
        self._store = store
        self._entitlements = entitlements
        self._audit = audit
        self._own = own
        self._known: Mapping[TrustDomain, TrustBundle] = {}
        self._beacon = Beacon()
        self._changes = store.changes.subscribe("bundle")
        # Reads are one at a time, so that an older one never overwrites a newer one.
        self._reading = asyncio.Lock()

    # ----------------------------------------------------------------------------------- answering

    @property
    def revision(self) -> int:
        """Counts changes within this process."""
        return self._beacon.value

    async def changed(self, since: int) -> int:
        """Wait until ``revision`` differs from ``since``; returns it."""
        return await self._beacon.changed(since)

    def bundle(self, trust_domain: TrustDomain) -> TrustBundle | None:
        """The latest bundle of another trust domain."""
        return self._known.get(trust_domain)

    def get(self, trust_domain: TrustDomain) -> TrustBundle:
        """The same.  Raises: VST1231 (our own), VST1233 (none)."""
        if (bundle := self.bundle(foreign(trust_domain, self._domain))) is None:
            raise BUNDLE_NOT_FOUND.error("bundle not found")
        return bundle

    async def page(self, size: int, token: str) -> Page[TrustBundle]:
        """A part of them, by trust domain; a ``size`` of 0 asks for all.  Ours is left out of it."""
        found = await self._store.bundles.page(size, token)
        return replace(found, items=tuple(each for each in found.items if each.trust_domain != self._domain))

    async def count(self) -> int:
        """How many bundles there are, ours among them."""
        return await self._store.bundles.count()

    def revision_for(self, entries: Iterable[Entry]) -> int:
        """A number that changes whenever a bundle does that one of ``entries`` federates with."""
        names = sorted({name for entry in entries for name in entry.federates_with})
        sha = hashlib.sha256()
        for name in names:
            bundle = self.bundle(TrustDomain.parse(name))
            sha.update(f"{name}\0{'' if bundle is None else _digest(bundle)}\0".encode())
        return int(struct.unpack(">Q", sha.digest()[:8])[0])

    # ----------------------------------------------------------------------------------- following

    async def start(self) -> None:
        """Read the store for the first time."""
        await self.refresh()

    async def run(self) -> None:
        """Follow the store until its change feed ends; may be begun anew after a failure of the store."""
        await self.refresh()
        async for _ in self._changes:
            await self.refresh()

    async def refresh(self) -> None:
        """Read the store again; whoever just changed it and needs the change to hold now awaits this."""
        async with self._reading:
            page = await self.page(0, "")
            known = {bundle.trust_domain: bundle for bundle in page.items}
            if known != self._known:
                self._known = known
                self._beacon.advance()

    # ------------------------------------------------------------------------------------ changing

    async def create(self, actor: str, bundles: Sequence[Kept]) -> list[Kept]:
        """Keep new bundles; an error stands in the place of one that is refused (VST1230, VST1231, VST1232)."""
        return await self._each(actor, "federated-bundle.create", bundles, _absent)

    async def set(self, actor: str, bundles: Sequence[Kept]) -> list[Kept]:
        """Keep bundles, new or in the place of others; an error stands in the place of one that is refused."""
        return await self._each(actor, "federated-bundle.set", bundles, lambda _, given: given)

    async def update(
        self, actor: str, patches: Sequence[tuple[TrustDomain, BundlePatch] | VestibuleError]
    ) -> list[Kept]:
        """Change fields of bundles; an error stands in the place of what is refused (VST1233 where there is none)."""
        results: list[Kept] = []
        for patch in patches:
            if isinstance(patch, VestibuleError):
                results += await self.set(actor, [patch])
                continue
            domain, values = patch
            given: Kept
            try:
                given = replace(self.get(domain), **values)
            except VestibuleError as error:
                given = error
            change = _patching(values)
            results += await self._each(actor, "federated-bundle.update", [given], change)
        return results

    async def _each(
        self,
        actor: str,
        action: str,
        bundles: Sequence[Kept],
        change: Callable[[TrustBundle | None, TrustBundle], TrustBundle],
    ) -> list[Kept]:
        checked = [self._checked(bundle) for bundle in bundles]
        if checked:
            await self._audit.record([bundle_event(actor, action, bundle) for bundle in checked])
        results: list[Kept] = []
        for bundle in checked:
            results.append(bundle if isinstance(bundle, VestibuleError) else await self._keep(bundle, change))
        await self.refresh()
        return results

    async def _keep(
        self, bundle: TrustBundle, change: Callable[[TrustBundle | None, TrustBundle], TrustBundle]
    ) -> Kept:
        def revised(kept: TrustBundle | None) -> TrustBundle:
            # What is kept may have changed since it was looked at: the result is checked, not the plan.
            return check_foreign_bundle(change(kept, bundle), self._own())

        try:
            return await self._store.bundles.revise(bundle.trust_domain, revised) or bundle
        except VestibuleError as error:
            return error

    def _checked(self, bundle: Kept) -> Kept:
        if isinstance(bundle, VestibuleError):
            return bundle
        try:
            return check_foreign_bundle(bundle, self._own())
        except VestibuleError as error:
            return error

    async def delete(
        self, actor: str, trust_domains: Sequence[TrustDomain | VestibuleError], mode: BundleDeletion
    ) -> list[VestibuleError | None]:
        """Forget bundles, and do with entries that federate with them what ``mode`` says.

        ``None`` for each that was there, else its error: VST1231, VST1233, VST8030, VST8031.
        """
        results = [await self._delete(actor, domain, mode) for domain in trust_domains]
        await self.refresh()
        await self._entitlements.refresh()
        return results

    async def _delete(
        self, actor: str, domain: TrustDomain | VestibuleError, mode: BundleDeletion
    ) -> VestibuleError | None:
        if isinstance(domain, VestibuleError):
            return domain
        try:
            foreign(domain, self._domain)
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    return await self._delete_once(actor, domain, mode)
                except VestibuleError as error:
                    if error.code is not ENTRIES_CHANGED or attempt == ATTEMPTS:
                        raise
        except VestibuleError as error:
            return error
        return None

    async def _delete_once(
        self, actor: str, domain: TrustDomain, mode: BundleDeletion
    ) -> VestibuleError | None:
        asked = EntryFilter(federates_with=frozenset({str(domain)}), federates_with_match=Match.ANY)
        entries = (await self._store.entries.page(asked, 0)).items
        events = [_deletion(actor, domain, mode, len(entries))]
        if mode is not BundleDeletion.RESTRICT:
            events += [_entry_event(actor, entry, domain, mode) for entry in entries]
        await self._audit.record(events)
        if await self._store.bundles.delete(domain, mode, frozenset(entry.id for entry in entries)):
            return None
        return BUNDLE_NOT_FOUND.error("bundle not found")

    @property
    def _domain(self) -> TrustDomain:
        return self._own().trust_domain


def _absent(kept: TrustBundle | None, given: TrustBundle) -> TrustBundle:
    if kept is not None:
        raise BUNDLE_EXISTS.error("bundle already exists")
    return given


def _patching(values: BundlePatch) -> Callable[[TrustBundle | None, TrustBundle], TrustBundle]:
    def change(kept: TrustBundle | None, _: TrustBundle) -> TrustBundle:
        if kept is None:
            raise BUNDLE_NOT_FOUND.error("bundle not found")
        return replace(kept, **values)

    return change


def _digest(bundle: TrustBundle) -> str:
    sha = hashlib.sha256(f"{bundle.sequence}\0{bundle.refresh_hint}\0".encode())
    for der in bundle.x509_authorities:
        sha.update(hashlib.sha256(der).digest())
    for key in bundle.jwt_authorities:
        sha.update(hashlib.sha256(key.key_id.encode()).digest() + hashlib.sha256(key.public_key).digest())
    return sha.hexdigest()


def bundle_event(actor: str, action: str, bundle: Kept, **details: Detail) -> AuditEvent:
    """The record of a bundle that is about to be kept, or is refused."""
    if isinstance(bundle, VestibuleError):
        return AuditEvent(
            actor=actor,
            action=action,
            subject="bundle",
            outcome=bundle.code.code,
            details={"error": bundle.message, **details},
        )
    return AuditEvent(
        actor=actor,
        action=action,
        subject=str(bundle.trust_domain.id),
        details={
            "x509_authorities": len(bundle.x509_authorities),
            "x509_sha256": sha256_fingerprint(bundle),
            "jwt_key_ids": [key.key_id for key in bundle.jwt_authorities],
            "sequence": bundle.sequence,
            **details,
        },
    )


def _deletion(actor: str, domain: TrustDomain, mode: BundleDeletion, entries: int) -> AuditEvent:
    return AuditEvent(
        actor=actor,
        action="federated-bundle.delete",
        subject=str(domain.id),
        details={"mode": mode.value, "entries": entries},
    )


def _entry_event(actor: str, entry: Entry, domain: TrustDomain, mode: BundleDeletion) -> AuditEvent:
    deleted = mode is BundleDeletion.DELETE
    return AuditEvent(
        actor=actor,
        action="entry.delete" if deleted else "entry.dissociate",
        subject=f"entry:{entry.id}" if deleted else str(entry.spiffe_id),
        details={"entry_id": entry.id, "spiffe_id": str(entry.spiffe_id), "trust_domain": str(domain)},
    )
