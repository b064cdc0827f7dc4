"""What a template gives: for a workload's selectors, an entry like any other, under the agent that asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from vestibule.errors import VestibuleError
from vestibule.identity.claims import canonical, filled
from vestibule.identity.entry_rules import variables_of_entry
from vestibule.identity.names import workload_id
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, covers
from vestibule.spiffe.codes import TEMPLATE_NOT_FILLED
from vestibule.spiffe.templates import PathTemplate, fill_dns_name

LEASE: Final = timedelta(hours=24)
"""A derived entry that no agent asks for again ends after this long (or after four lives of its SVIDs)."""


def derived(template: Entry, agent_id: SpiffeId, selectors: frozenset[Selector], now: datetime) -> Entry:
    """The entry that a template gives to workloads with these selectors, under an agent.

    1. The workload has all selectors of the template.
    2. Every variable has exactly one value.
    3. The result needs the template's selectors and those that filled it in, so that it fits nobody else.
    4. It has no right that the template has not, and is never a reserved ID.

    Raises: VST1405, VST1205, VST1400 (too long).
    """
    if not covers(selectors, template.selectors):  # 1
        raise TEMPLATE_NOT_FILLED.error("the workload does not have all selectors of the template")
    used = frozenset(each.selector(selectors) for each in variables_of_entry(template))  # 2
    needed = template.selectors | used  # 3
    path = PathTemplate.parse(template.path_template).fill(needed)
    trust_domain = template.spiffe_id.trust_domain
    dns_names = [fill_dns_name(name, needed) for name in template.dns_templates]
    ends = now + max(LEASE, 4 * (template.x509_svid_ttl or timedelta()))
    return replace(
        template,  # 4
        id="",
        spiffe_id=workload_id(SpiffeId.of(trust_domain, path), trust_domain),
        parent_id=agent_id,
        selectors=needed,
        dns_names=tuple(dict.fromkeys((*template.dns_names, *dns_names))),
        jwt_claims=canonical(filled(template.claims, needed)),
        expires_at=ends if template.expires_at is None else min(ends, template.expires_at),
        path_template="",
        dns_templates=(),
        max_identities=0,
        template_id=template.id,
        revision=0,
        created_at=None,
    )


def rederived(entry: Entry, template: Entry) -> Entry | None:
    """A derived entry after a change of its template; ``None`` if that no longer gives its identity."""
    assert entry.created_at is not None
    try:
        now = derived(template, entry.parent_id, entry.selectors, entry.created_at)
    except VestibuleError:
        return None
    if (now.spiffe_id, now.selectors) != (entry.spiffe_id, entry.selectors):
        return None
    ends = [each for each in (entry.expires_at, template.expires_at) if each is not None]
    return replace(
        now,
        id=entry.id,
        revision=entry.revision,
        created_at=entry.created_at,
        expires_at=min(ends, default=None),
    )
