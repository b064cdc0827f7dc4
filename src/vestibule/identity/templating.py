"""Deriving entries from templates, for agents that have attested a workload which fits one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from vestibule.audit import Audit, AuditEvent, Detail
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.identity.codes import INVALID_ENTRY, TEMPLATE_EXHAUSTED, TEMPLATE_REFUSED
from vestibule.identity.derivation import derived
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.entry_records import shown_parent
from vestibule.identity.entry_rules import EntryRules, variables_of_entry
from vestibule.identity.refusals import Refusals
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId
from vestibule.store import EntryFilter, Store

MAX_SELECTORS: Final = 64
MAX_SELECTOR: Final = 2048
PER_AGENT: Final = 1000
"""So many entries one agent may have from one template, whatever the template allows in all."""


class Templating:
    """Decides what an agent gets of a template.  The agent's word counts for what it attested, and for nothing else."""

    def __init__(
        self,
        store: Store,
        entitlements: Entitlements,
        rules: EntryRules,
        audit: Audit,
        clock: Clock,
        rights: Callable[[SpiffeId], Sequence[str]] = lambda _: (),
    ) -> None:
        """``rights`` are those that an identity has over the server (``identity.administration``)."""
        self._rights = rights
        self._store = store
        self._entitlements = entitlements
        self._rules = rules
        self._audit = audit
        self._clock = clock
        self._refusals = Refusals()
        self._deriving = asyncio.Lock()

    async def derive(self, agent_id: SpiffeId, entry_id: str, selectors: frozenset[Selector]) -> Entry:
        """The entry that a template gives for these selectors under an agent: kept, or kept for longer.

        1. The template is one of this agent's, now.
        2. The selectors are the template's and one for each variable: nothing else is kept.
        3. The identity is not one that an entry gives to others by name, and has no right over the server: that must
           never follow from what an agent says of a workload.
        4. The template, and this agent, have not given more identities than they may.
        5. It is on record before it is kept.

        Raises: VST1352 (steps 1 to 3), VST1405 (2), VST1353 (4), VST1203, errors of the audit log.
        """
        try:
            async with self._deriving:
                return await self._derive(agent_id, entry_id, selectors)
        except VestibuleError as error:
            await self._record_refusal(agent_id, entry_id, error)
            raise

    async def _derive(self, agent_id: SpiffeId, entry_id: str, selectors: frozenset[Selector]) -> Entry:
        if len(selectors) > MAX_SELECTORS or any(len(str(each)) > MAX_SELECTOR for each in selectors):
            raise INVALID_ENTRY.error("there are too many selectors, or one is too long")
        template = next(
            (each for each in self._entitlements.templates_for(agent_id) if each.id == entry_id), None
        )
        if template is None:  # 1
            raise TEMPLATE_REFUSED.error(f"entry {entry_id[:80]!r} is no template of this agent")
        wanted = derived(template, agent_id, selectors, self._clock.now())  # 2
        if self._entitlements.given_to_others(agent_id, wanted.spiffe_id):  # 3
            raise TEMPLATE_REFUSED.error(f"an entry gives {wanted.spiffe_id} to others by name")
        if rights := self._rights(wanted.spiffe_id):
            raise TEMPLATE_REFUSED.error(
                f"{wanted.spiffe_id} has rights over the server ({', '.join(rights)})"
            )
        known = [each for each in self._entitlements.all if each.template_id == template.id]
        before = next((each for each in known if _is_same(each, wanted)), None)
        if before is not None:
            return await self._prolong(before, wanted)
        self._check_limits(template, wanted, known)  # 4
        return await self._keep(replace(wanted, id=str(uuid.uuid4())))

    def _check_limits(self, template: Entry, wanted: Entry, known: list[Entry]) -> None:
        identities = {each.spiffe_id for each in known}
        limit = self._rules.identities_of(template)
        if wanted.spiffe_id not in identities and len(identities) >= limit:
            raise TEMPLATE_EXHAUSTED.error(
                f"the template {template.id} has given {len(identities)} identities"
            )
        # Of claims or DNS names there may be many for one identity.
        if sum(each.parent_id == wanted.parent_id for each in known) >= max(limit, PER_AGENT):
            raise TEMPLATE_EXHAUSTED.error(
                f"the agent has all that it may have of the template {template.id}"
            )

    async def _prolong(self, before: Entry, wanted: Entry) -> Entry:
        assert before.expires_at is not None
        assert wanted.expires_at is not None
        now = self._clock.now()
        # A new revision goes to the agent and onto the disk: only for a lease of which half is over.
        if wanted.expires_at - before.expires_at < (wanted.expires_at - now) / 2:
            return before
        kept = await self._store.entries.update(replace(before, expires_at=wanted.expires_at))
        await self._entitlements.refresh_entries()
        return kept

    async def _keep(self, entry: Entry) -> Entry:
        await self._audit.record([_event(entry)])  # 5
        kept, _ = await self._store.entries.create(entry)
        await self._entitlements.refresh_entries()
        return kept

    async def _record_refusal(self, agent_id: SpiffeId, entry_id: str, error: VestibuleError) -> None:
        left_out = self._refusals.next(self._clock.now())
        if left_out is None:
            return
        details: dict[str, Detail] = {"error": error.message[:300]}
        if left_out:
            details["refusals_left_out"] = left_out
        subject = f"entry:{entry_id[:80]}"
        event = AuditEvent(
            actor=str(agent_id),
            action="entry.derive",
            subject=subject,
            outcome=error.code.code,
            details=details,
        )
        await self._audit.record([event])

    async def count(self, template_id: str) -> int:
        """How many entries there are of a template."""
        return await self._store.entries.count(EntryFilter(template_id=template_id))


def variables(template: Entry) -> list[str]:
    """The variables of a template as agents get them: ``unix:user``."""
    return sorted(f"{each.type}:{each.key}" for each in variables_of_entry(template))


def _is_same(kept: Entry, wanted: Entry) -> bool:
    return (kept.parent_id, kept.spiffe_id, kept.selectors) == (
        wanted.parent_id,
        wanted.spiffe_id,
        wanted.selectors,
    )


def _event(entry: Entry) -> AuditEvent:
    details: dict[str, Detail] = {
        "entry_id": entry.id,
        "template_id": entry.template_id,
        "parent_id": shown_parent(entry.parent_id),
        "selectors": sorted(map(str, entry.selectors)),
        **({"dns_names": list(entry.dns_names)} if entry.dns_names else {}),
        **({"jwt_claims": entry.jwt_claims} if entry.jwt_claims else {}),
    }
    return AuditEvent(
        actor=str(entry.parent_id), action="entry.derive", subject=str(entry.spiffe_id), details=details
    )
