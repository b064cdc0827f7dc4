"""Registration entries: who may be what, under which parent."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, TypeAlias

from vestibule.attest.node.join_token import NAME as JOIN_TOKEN
from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import first
from vestibule.identity.codes import ENTRY_NOT_FOUND, INVALID_ENTRY, INVALID_TTL, MISSING_PARAMETER
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.names import member_id, server_id, workload_id
from vestibule.pki.names import dns_name
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import EntryFilter, Page, Store

MAX_HINT_BYTES: Final = 1024
MAX_TTL: Final = timedelta(days=3650)
_MAX_RECORDED: Final = 300

Created: TypeAlias = tuple[Entry, bool] | VestibuleError
Patch: TypeAlias = Mapping[str, Any]
"""New values of some fields of an ``Entry``, by field name."""

_log = logging.getLogger(__name__)


def check_entry(entry: Entry, trust_domain: TrustDomain) -> Entry:
    """The entry, in normal form, if it may be kept.

    1. The parent is a member of the trust domain; the identity may be a workload's.
    2. There is a selector: an entry without one would be everybody's.
    3. Names, hint and lifetimes are ones that a certificate can carry.

    Raises: VST1203, VST1204, VST1205, VST1209, VST1011 (DNS name), VST1400 (federated trust domain).
    """
    member_id(entry.parent_id, trust_domain)  # 1
    workload_id(entry.spiffe_id, trust_domain)
    if not entry.selectors:  # 2
        raise INVALID_ENTRY.error("selector list is empty")
    for selector in entry.selectors:
        if not selector.type or ":" in selector.type or not selector.value:
            raise INVALID_ENTRY.error(f"selector {str(selector)!r} needs a type without a colon, and a value")
    if len(entry.hint.encode()) > MAX_HINT_BYTES:  # 3
        raise INVALID_ENTRY.error(f"hint is too long, max length is {MAX_HINT_BYTES} characters")
    for ttl in (entry.x509_svid_ttl, entry.jwt_svid_ttl):
        if ttl is not None and not timedelta(seconds=1) <= ttl <= MAX_TTL:
            raise INVALID_TTL.error(f"a TTL of {ttl.total_seconds():g} s is not between 1 s and 10 years")
    federates_with = tuple(str(TrustDomain.parse(name)) for name in entry.federates_with)
    names = tuple(dns_name(name) for name in entry.dns_names)
    return replace(entry, federates_with=federates_with, dns_names=names)


class Registration:
    """Creates, changes and removes entries: checked, then recorded, then done."""

    def __init__(
        self, store: Store, entitlements: Entitlements, audit: Audit, clock: Clock, trust_domain: TrustDomain
    ) -> None:
        self._store = store
        self._entitlements = entitlements
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain

    async def run(self) -> None:
        """Remove entries whose time is over."""
        while True:
            revision = self._entitlements.revision
            if expired := self._entitlements.expired():
                await self._remove(expired)
            waits: list[Coroutine[Any, Any, object]] = [self._entitlements.changed(revision)]
            if (ends := self._entitlements.next_expiry()) is not None:
                waits.append(self._clock.sleep_until(ends))
            await first(*waits)

    async def _remove(self, entry_ids: Sequence[str]) -> None:
        try:
            await self.delete("server", entry_ids)
        except VestibuleError as error:
            # They no longer count in any case; only their removal has to wait for the next change.
            _log.error("cannot remove %d expired entries: %s", len(entry_ids), error)

    async def create(self, actor: str, entries: Sequence[Entry | VestibuleError]) -> list[Created]:
        """Keep new entries; the flag says whether an entry is new or was there already, in a similar form.

        An entry's own error stands in its place; what could not even be read may be passed as an error.
        Raises: errors of the audit log.
        """
        checked = [_attempt(self._named, entry) for entry in entries]
        fit = [entry for entry in checked if isinstance(entry, Entry)]
        await self._warn_of_unknown_parents(fit)
        await self._record(actor, "entry.create", checked)
        created = iter(await self._store.entries.create_many(fit) if fit else ())
        results: list[Created] = [next(created) if isinstance(entry, Entry) else entry for entry in checked]
        if fit:
            await self._entitlements.refresh()
        return results

    async def update(
        self, actor: str, patches: Sequence[tuple[str, Patch | VestibuleError]]
    ) -> list[Entry | VestibuleError]:
        """Change the given fields of entries; an entry's own error stands in its place.

        Patches of one entry build on each other.  Raises: errors of the audit log.
        """
        patched: dict[str, Entry] = {}
        checked = [await self._patched(entry_id, patch, patched) for entry_id, patch in patches]
        fit = [entry for entry in checked if isinstance(entry, Entry)]
        await self._record(actor, "entry.update", checked)
        updated = iter(await self._store.entries.update_many(fit) if fit else ())
        results: list[Entry | VestibuleError] = [
            next(updated) if isinstance(entry, Entry) else entry for entry in checked
        ]
        if fit:
            await self._entitlements.refresh()
        return results

    async def _patched(
        self, entry_id: str, patch: Patch | VestibuleError, patched: dict[str, Entry]
    ) -> Entry | VestibuleError:
        if isinstance(patch, VestibuleError):
            return patch
        try:
            before = patched.get(entry_id) or await self.get(entry_id)
            patched[entry_id] = check_entry(replace(before, **patch), self._trust_domain)
        except VestibuleError as error:
            return error
        return patched[entry_id]

    async def delete(self, actor: str, entry_ids: Sequence[str]) -> list[VestibuleError | None]:
        """Remove entries; ``None`` for each that was there, else its error."""
        results: list[VestibuleError | None] = []
        known = {entry.id: entry for id_ in entry_ids if (entry := await self._store.entries.get(id_))}
        if entry_ids:
            await self._audit.record([_deleted(actor, id_, known.get(id_)) for id_ in entry_ids])
        for entry_id in entry_ids:
            if not entry_id:
                results.append(MISSING_PARAMETER.error("missing entry ID"))
            elif await self._store.entries.delete(entry_id):
                results.append(None)
            else:
                results.append(ENTRY_NOT_FOUND.error("entry not found"))
        await self._entitlements.refresh()
        return results

    async def get(self, entry_id: str) -> Entry:
        """The entry of this ID.  Raises: VST1202, VST1206."""
        if not entry_id:
            raise MISSING_PARAMETER.error("missing ID")
        entry = await self._store.entries.get(entry_id)
        if entry is None:
            raise ENTRY_NOT_FOUND.error("entry not found")
        return entry

    async def page(self, wanted: EntryFilter, size: int, token: str) -> Page[Entry]:
        """A part of the entries; a ``size`` of 0 asks for all."""
        return await self._store.entries.page(wanted, size, token)

    async def count(self, wanted: EntryFilter) -> int:
        """How many entries there are."""
        return await self._store.entries.count(wanted)

    async def knows_parent(self, parent: SpiffeId) -> bool:
        """Whether the server, an agent or an entry has this ID, so that an entry below it can be received."""
        if parent == server_id(self._trust_domain):
            return True
        if await self._store.agents.get(parent) is not None:
            return True
        return await self._store.entries.count(EntryFilter(spiffe_id=parent)) > 0

    async def _warn_of_unknown_parents(self, entries: Sequence[Entry]) -> None:
        # SPIRE accepts any parent, and clients create entries before agents join: a warning, not an error.
        own = {entry.spiffe_id for entry in entries}
        for parent in sorted({entry.parent_id for entry in entries} - own):
            if not await self.knows_parent(parent):
                _log.warning("entries were created under %s, which is nobody yet", shown_parent(parent))

    def _named(self, entry: Entry | VestibuleError) -> Entry:
        if isinstance(entry, VestibuleError):
            raise entry
        checked = check_entry(entry, self._trust_domain)
        # It has its ID before it is recorded: later records name it by nothing else.
        return checked if checked.id else replace(checked, id=str(uuid.uuid4()))

    async def _record(self, actor: str, action: str, entries: Sequence[Entry | VestibuleError]) -> None:
        events = [_event(actor, action, entry) for entry in entries]
        if events:
            await self._audit.record(events)


def shown_parent(parent: SpiffeId) -> str:
    """A parent as logs may show it: an agent's ID can hold a join token that is not used up yet."""
    prefix, slash, token = str(parent).rpartition(f"/{JOIN_TOKEN}/")
    if not slash:
        return str(parent)
    return f"{prefix}{slash}sha256:{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def _attempt(check: Callable[[Entry | VestibuleError], Entry], entry: Entry | VestibuleError) -> Any:
    try:
        return check(entry)
    except VestibuleError as error:
        return error


def _event(actor: str, action: str, entry: Entry | VestibuleError) -> AuditEvent:
    if isinstance(entry, VestibuleError):
        return AuditEvent(
            actor=actor,
            action=action,
            subject="entry",
            outcome=entry.code.code,
            details={"error": entry.message},
        )
    return AuditEvent(
        actor=actor,
        action=action,
        subject=str(entry.spiffe_id),
        details={
            "entry_id": entry.id,
            "parent_id": shown_parent(entry.parent_id),
            "selectors": sorted(str(selector) for selector in entry.selectors),
            "admin": entry.admin,
            "downstream": entry.downstream,
            # What else of an entry comes into certificates.
            **({"dns_names": list(entry.dns_names)} if entry.dns_names else {}),
            **({"x509_svid_ttl": _seconds(entry.x509_svid_ttl)} if entry.x509_svid_ttl else {}),
            **({"jwt_svid_ttl": _seconds(entry.jwt_svid_ttl)} if entry.jwt_svid_ttl else {}),
            **({"expires_at": entry.expires_at.isoformat()} if entry.expires_at else {}),
        },
    )


def _deleted(actor: str, entry_id: str, entry: Entry | None) -> AuditEvent:
    details: dict[str, Detail] = {}
    if entry is not None:
        details = {"spiffe_id": str(entry.spiffe_id), "parent_id": shown_parent(entry.parent_id)}
    return AuditEvent(
        actor=actor, action="entry.delete", subject=f"entry:{entry_id[:_MAX_RECORDED]}", details=details
    )


def _seconds(ttl: timedelta) -> int:
    return int(ttl.total_seconds())
