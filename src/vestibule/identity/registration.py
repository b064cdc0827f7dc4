"""Registration entries: who may be what, under which parent."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from vestibule.audit import Audit, AuditEvent
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.beacon import first
from vestibule.identity.codes import ENTRY_NOT_FOUND, INVALID_TEMPLATE_ENTRY, MISSING_PARAMETER
from vestibule.identity.derivation import rederived
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.entry_records import deletion_event, entry_event, not_created_event, shown_parent
from vestibule.identity.entry_rules import EntryRules
from vestibule.identity.names import server_id
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, TrustDomain
from vestibule.store import EntryFilter, Page, Store
from vestibule.store.codes import ENTRY_ID_TAKEN, UNKNOWN_FEDERATION

Created: TypeAlias = tuple[Entry, bool] | VestibuleError
Patch: TypeAlias = Mapping[str, Any]
"""New values of some fields of an ``Entry``, by field name."""
Permit: TypeAlias = Callable[[Entry | None, Entry | None], None]
"""Raises where the caller may not make the second entry (``None``: none) out of the first (``None``: a new one)."""

_log = logging.getLogger(__name__)


def permit_all(_before: Entry | None, _after: Entry | None) -> None:
    """For callers whose right to everything was established before."""


class Registration:
    """Creates, changes and removes entries: checked, then permitted, then recorded, then done."""

    def __init__(
        self,
        store: Store,
        entitlements: Entitlements,
        audit: Audit,
        clock: Clock,
        trust_domain: TrustDomain,
        rules: EntryRules | None = None,
    ) -> None:
        self._store = store
        self._entitlements = entitlements
        self._audit = audit
        self._clock = clock
        self._trust_domain = trust_domain
        self.rules = rules or EntryRules(trust_domain=trust_domain)
        # What was permitted for an entry as it was must not be done to what it has become meanwhile.
        self._changing = asyncio.Lock()

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

    async def create(
        self, actor: str, entries: Sequence[Entry | VestibuleError], permit: Permit = permit_all
    ) -> list[Created]:
        """Keep new entries; the flag says whether an entry is new or was there already, in a similar form.

        An entry's own error stands in its place; what could not even be read may be passed as an error.
        Raises: errors of the audit log.
        """
        checked = [_attempt(partial(self._named, each, permit)) for each in entries]
        fit = [entry for entry in checked if isinstance(entry, Entry)]
        await self._warn_of_unknown_parents(fit)
        await self._record(actor, "entry.create", checked)
        created = iter(await self._store.entries.create_many(fit) if fit else ())
        results: list[Created] = [next(created) if isinstance(entry, Entry) else entry for entry in checked]
        await self._record_unused(actor, checked, results)
        if fit:
            await self._entitlements.refresh_entries()
        # A similar one that is there already may be one that the caller shall not learn of.
        return [_attempt(partial(_known_only_to_permitted, each, permit)) for each in results]

    async def plan(
        self, entries: Sequence[Entry | VestibuleError], permit: Permit = permit_all
    ) -> list[Created]:
        """What ``create`` would answer now; nothing is kept, and nothing put on record."""
        known = {_identity(each): each for each in self._entitlements.all}
        taken = {each.id for each in known.values()}
        results: list[Created] = []
        for entry in entries:
            checked: Entry | VestibuleError = _attempt(partial(self._named, entry, permit))
            if isinstance(checked, Entry) and (similar := known.get(_identity(checked))) is not None:
                results.append(_attempt(partial(_known_only_to_permitted, (similar, False), permit)))
                continue
            if isinstance(checked, Entry) and checked.id in taken:
                checked = ENTRY_ID_TAKEN.error(f"another entry has the ID {checked.id}")
            if isinstance(checked, Entry):
                checked = await self._federating(checked)
            if isinstance(checked, Entry):
                known[_identity(checked)] = checked
                taken.add(checked.id)
            results.append((checked, True) if isinstance(checked, Entry) else checked)
        return results

    async def _federating(self, entry: Entry) -> Entry | VestibuleError:
        for domain in entry.federates_with:
            if await self._store.bundles.get(TrustDomain.parse(str(domain))) is None:
                return UNKNOWN_FEDERATION.error(f"unable to find federated bundle {domain}")
        return entry

    async def _record_unused(
        self, actor: str, wanted: Sequence[Entry | VestibuleError], results: Sequence[Created]
    ) -> None:
        """The records were made before it was known which entries the store has already, in a similar form, or refuses:
        a second one says that no entry came to be under the first one's ID.
        """
        events = [
            _not_created(actor, entry, result)
            for entry, result in zip(wanted, results, strict=True)
            if isinstance(entry, Entry) and (isinstance(result, VestibuleError) or not result[1])
        ]
        if events:
            await self._audit.record(events)

    async def update(
        self,
        actor: str,
        patches: Sequence[tuple[str, Patch | VestibuleError]],
        permit: Permit = permit_all,
    ) -> list[Entry | VestibuleError]:
        """Change the given fields of entries; an entry's own error stands in its place.

        Patches of one entry build on each other.  What was derived from a changed template changes with it, or goes.
        Raises: errors of the audit log.
        """
        async with self._changing:
            patched: dict[str, Entry] = {}
            checked = [await self._patched(entry_id, patch, patched, permit) for entry_id, patch in patches]
            fit = [entry for entry in checked if isinstance(entry, Entry)]
            await self._record(actor, "entry.update", checked)
            updated = iter(await self._store.entries.update_many(fit) if fit else ())
            results: list[Entry | VestibuleError] = [
                next(updated) if isinstance(entry, Entry) else entry for entry in checked
            ]
            for entry in results:
                if isinstance(entry, Entry) and entry.is_template:
                    await self._follow(actor, entry)
        if fit:
            await self._entitlements.refresh_entries()
        return results

    async def _patched(
        self, entry_id: str, patch: Patch | VestibuleError, patched: dict[str, Entry], permit: Permit
    ) -> Entry | VestibuleError:
        if isinstance(patch, VestibuleError):
            return patch
        try:
            before = patched.get(entry_id) or await self.get(entry_id)
            permit(before, before)
            if before.template_id:
                raise INVALID_TEMPLATE_ENTRY.error(
                    f"entry {entry_id} was derived from the template {before.template_id}: change that one"
                )
            after = self.rules.check(replace(before, **patch))
            permit(before, after)
            if after.is_template != before.is_template:
                raise INVALID_TEMPLATE_ENTRY.error(
                    "an entry cannot become a template, nor a template an entry"
                )
        except VestibuleError as error:
            return error
        patched[entry_id] = after
        return after

    async def _follow(self, actor: str, template: Entry) -> None:
        """Let what was derived from a template be what it would give now; what it no longer gives goes."""
        derived = (await self.page(EntryFilter(template_id=template.id), 0, "")).items
        changed = [(entry, rederived(entry, template)) for entry in derived]
        kept = [after for before, after in changed if after is not None and after != before]
        gone = [before.id for before, after in changed if after is None]
        if kept:
            await self._record(actor, "entry.update", kept)
            await self._store.entries.update_many(kept)
        await self._delete(actor, gone, {entry.id: entry for entry in derived})

    async def delete(
        self, actor: str, entry_ids: Sequence[str], permit: Permit = permit_all
    ) -> list[VestibuleError | None]:
        """Remove entries, and what was derived from them; ``None`` for each that was there, else its error."""
        async with self._changing:
            known = {entry.id: entry for id_ in entry_ids if (entry := await self._store.entries.get(id_))}
            refused = {
                id_: error
                for id_, entry in known.items()
                if isinstance(error := _attempt(partial(permit, entry, None)), VestibuleError)
            }
            wanted = [id_ for id_ in entry_ids if id_ not in refused]
            results = iter(await self._delete(actor, wanted, known))
            for id_ in wanted:
                if id_ in known and known[id_].is_template:
                    derived = (await self.page(EntryFilter(template_id=id_), 0, "")).items
                    await self._delete(
                        actor, [each.id for each in derived], {each.id: each for each in derived}
                    )
        await self._entitlements.refresh_entries()
        return [refused[id_] if id_ in refused else next(results) for id_ in entry_ids]

    async def _delete(
        self, actor: str, entry_ids: Sequence[str], known: Mapping[str, Entry]
    ) -> list[VestibuleError | None]:
        results: list[VestibuleError | None] = []
        if entry_ids:
            await self._audit.record([deletion_event(actor, id_, known.get(id_)) for id_ in entry_ids])
        for entry_id in entry_ids:
            if not entry_id:
                results.append(MISSING_PARAMETER.error("missing entry ID"))
            elif await self._store.entries.delete(entry_id):
                results.append(None)
            else:
                results.append(ENTRY_NOT_FOUND.error("entry not found"))
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

    def _named(self, entry: Entry | VestibuleError, permit: Permit) -> Entry:
        if isinstance(entry, VestibuleError):
            raise entry
        checked = self.rules.check(entry)
        permit(None, checked)
        # It has its ID before it is recorded: later records name it by nothing else.
        return checked if checked.id else replace(checked, id=str(uuid.uuid4()))

    async def _record(self, actor: str, action: str, entries: Sequence[Entry | VestibuleError]) -> None:
        events = [entry_event(actor, action, entry) for entry in entries]
        if events:
            await self._audit.record(events)


def _not_created(actor: str, entry: Entry, result: Created) -> AuditEvent:
    if isinstance(result, VestibuleError):
        return not_created_event(actor, entry, result, "")
    return not_created_event(actor, entry, None, result[0].id)


def _identity(entry: Entry) -> tuple[object, ...]:
    """What similar entries have in common."""
    return entry.spiffe_id, entry.parent_id, entry.selectors, entry.path_template


def _known_only_to_permitted(created: Created, permit: Permit) -> Created:
    if isinstance(created, tuple) and not created[1]:
        permit(created[0], created[0])
    return created


def _attempt(check: Callable[[], Any]) -> Any:
    try:
        return check()
    except VestibuleError as error:
        return error
