"""``spire.api.server.entry.v1.Entry``: registration entries, for the operator and for agents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from vestibule.doors.identity_api.values import (
    MATCHES,
    actor,
    entry_fields,
    entry_to_wire,
    id_from_wire,
    mask_of,
    ok,
    own_agent_id,
    receive,
    selectors_from_wire,
    status,
    unix,
)
from vestibule.doors.scope import current_scope, visible_entries
from vestibule.errors import Kind, VestibuleError
from vestibule.identity.codes import ENTRY_NOT_FOUND, INVALID_ENTRY
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.names import member_id, workload_id
from vestibule.identity.registration import Patch, Registration
from vestibule.net.grpc import STATUS_OF_KIND, Servable, Stream, serve
from vestibule.records import Entry
from vestibule.spiffe import TrustDomain
from vestibule.store import EntryFilter, Match
from vestibule.wire.gen.spire import entry_pb2 as wire
from vestibule.wire.gen.spire import types_pb2 as types

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Entry"]
PAGE: Final = 500
"""Up to so many entries are synchronised in full at once; more, by their revisions first."""

T = TypeVar("T")


class EntryDoor:
    """Translates for ``identity.registration`` and ``identity.entitlement``."""

    def __init__(
        self, registration: Registration, entitlements: Entitlements, *, page_size: int = PAGE
    ) -> None:
        self._registration = registration
        self._entitlements = entitlements
        self._page_size = page_size

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    # ------------------------------------------------------------------------- for the operator

    async def get_entry(self, stream: Stream) -> None:
        """GetEntry."""
        request = await receive(stream)
        entry = await self._registration.get(request.id)
        if not current_scope().sees(entry):
            raise ENTRY_NOT_FOUND.error("entry not found")
        await stream.send_message(entry_to_wire(entry, mask_of(request)))

    async def list_entries(self, stream: Stream) -> None:
        """ListEntries."""
        request = await receive(stream)
        wanted = replace(_filter(request), visible=visible_entries())
        page = await self._registration.page(wanted, max(request.page_size, 0), request.page_token)
        mask = mask_of(request)
        entries = [entry_to_wire(entry, mask) for entry in page.items]
        await stream.send_message(wire.ListEntriesResponse(entries=entries, next_page_token=page.next_token))

    async def count_entries(self, stream: Stream) -> None:
        """CountEntries."""
        wanted = _filter(await receive(stream))
        if not current_scope().full:
            wanted = replace(wanted, visible=visible_entries())
        count = await self._registration.count(wanted)
        await stream.send_message(wire.CountEntriesResponse(count=count))

    async def batch_create_entry(self, stream: Stream) -> None:
        """BatchCreateEntry; a similar entry is answered ALREADY_EXISTS together with the existing one."""
        request = await receive(stream)
        outcomes = await self._registration.create(
            actor(), [_read(entry) for entry in request.entries], current_scope().permit
        )
        mask, response = mask_of(request), wire.BatchCreateEntryResponse()
        for outcome in outcomes:
            if isinstance(outcome, VestibuleError):
                response.results.add(status=status(outcome))
                continue
            entry, new = outcome
            response.results.add(status=ok() if new else _similar(), entry=entry_to_wire(entry, mask))
        await stream.send_message(response)

    async def batch_update_entry(self, stream: Stream) -> None:
        """BatchUpdateEntry; without an input mask every field is replaced."""
        request = await receive(stream)
        patches = [(entry.id, _patch(entry, mask_of(request, "input_mask"))) for entry in request.entries]
        outcomes = await self._registration.update(actor(), patches, current_scope().permit)
        mask, response = mask_of(request), wire.BatchUpdateEntryResponse()
        for outcome in outcomes:
            if isinstance(outcome, VestibuleError):
                response.results.add(status=status(outcome))
            else:
                response.results.add(status=ok(), entry=entry_to_wire(outcome, mask))
        await stream.send_message(response)

    async def batch_delete_entry(self, stream: Stream) -> None:
        """BatchDeleteEntry."""
        request = await receive(stream)
        outcomes = await self._registration.delete(actor(), list(request.ids), current_scope().permit)
        response = wire.BatchDeleteEntryResponse()
        for entry_id, error in zip(request.ids, outcomes, strict=True):
            response.results.add(status=status(error) if error else ok(), id=entry_id)
        await stream.send_message(response)

    # ------------------------------------------------------------------------------- for agents

    async def get_authorized_entries(self, stream: Stream) -> None:
        """GetAuthorizedEntries."""
        request = await receive(stream)
        mask = mask_of(request)
        entries = self._entitlements.entries_for(own_agent_id())
        message = wire.GetAuthorizedEntriesResponse(entries=[entry_to_wire(entry, mask) for entry in entries])
        await stream.send_message(message)

    async def sync_authorized_entries(self, stream: Stream) -> None:
        """SyncAuthorizedEntries: a short list whole; of a long one the revisions, then what is asked for."""
        request = await receive(stream)
        mask = mask_of(request)
        if request.ids:
            raise INVALID_ENTRY.error("specifying IDs on initial request is not supported")
        if mask is not None and not mask.revision_number:
            raise INVALID_ENTRY.error("revision number cannot be masked")
        entries = self._entitlements.entries_for(own_agent_id())
        if len(entries) <= self._page_size:
            await stream.send_message(_page(entries, mask))
            return
        for page, more in _pages(entries, self._page_size):
            revisions = [
                wire.EntryRevision(
                    id=entry.id, revision_number=entry.revision, created_at=unix(entry.created_at)
                )
                for entry in page
            ]
            await stream.send_message(
                wire.SyncAuthorizedEntriesResponse(entry_revisions=revisions, more=more)
            )
        await self._answer_ids(stream, {entry.id: entry for entry in entries}, mask)

    async def _answer_ids(
        self, stream: Stream, entries: Mapping[str, Entry], mask: types.EntryMask | None
    ) -> None:
        while (request := await stream.recv_message()) is not None:
            asked = [entries[id_] for id_ in sorted(set(request.ids)) if id_ in entries]
            for page, more in _pages(asked, self._page_size):
                await stream.send_message(_page(page, mask, more))


def _page(
    entries: Sequence[Entry], mask: types.EntryMask | None, more: bool = False
) -> wire.SyncAuthorizedEntriesResponse:
    return wire.SyncAuthorizedEntriesResponse(
        entries=[entry_to_wire(entry, mask) for entry in entries], more=more
    )


def _pages(items: Sequence[T], size: int) -> Iterator[tuple[Sequence[T], bool]]:
    """Pages of ``items``, each with whether another follows; one empty page for none."""
    for start in range(0, max(len(items), 1), size):
        yield items[start : start + size], start + size < len(items)


def _read(message: types.Entry) -> Entry | VestibuleError:
    try:
        return Entry(id=message.id, **entry_fields(message, None))
    except VestibuleError as error:
        return error


def _patch(message: types.Entry, mask: types.EntryMask | None) -> Patch | VestibuleError:
    try:
        return entry_fields(message, mask)
    except VestibuleError as error:
        return error


def _similar() -> types.Status:
    return types.Status(
        code=STATUS_OF_KIND[Kind.ALREADY_EXISTS].value, message="similar entry already exists"
    )


def _filter(request: Any) -> EntryFilter:
    """Raises: VST1202, VST1203, VST1400."""
    if not request.HasField("filter"):
        return EntryFilter()
    wanted = request.filter
    spiffe_id = parent_id = selectors = federates_with = None
    selectors_match = federates_match = Match.EXACT
    if wanted.HasField("by_spiffe_id"):
        spiffe_id = id_from_wire(wanted.by_spiffe_id, "malformed SPIFFE ID filter")
        workload_id(spiffe_id, spiffe_id.trust_domain)
    if wanted.HasField("by_parent_id"):
        parent_id = id_from_wire(wanted.by_parent_id, "malformed parent ID filter")
        member_id(parent_id, parent_id.trust_domain)
    if wanted.HasField("by_selectors"):
        selectors, selectors_match = selectors_from_wire(wanted.by_selectors)
    if wanted.HasField("by_federates_with"):
        names = wanted.by_federates_with.trust_domains
        federates_with = frozenset(str(TrustDomain.parse(name)) for name in names)
        federates_match = MATCHES.get(wanted.by_federates_with.match, Match.EXACT)
        if not federates_with:
            raise INVALID_ENTRY.error("malformed federates with filter: empty trust domain set")
    return EntryFilter(
        spiffe_id=spiffe_id,
        parent_id=parent_id,
        selectors=selectors,
        selectors_match=selectors_match,
        federates_with=federates_with,
        federates_with_match=federates_match,
        # SPIRE treats an empty hint as no filter at all.
        hint=wanted.by_hint.value or None if wanted.HasField("by_hint") else None,
        downstream=wanted.by_downstream.value if wanted.HasField("by_downstream") else None,
    )
