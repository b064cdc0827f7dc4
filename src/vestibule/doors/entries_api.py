"""``vestibule.admin.v1.Entries``: registration entries with what SPIRE's messages have no fields for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from vestibule.clock import Clock
from vestibule.doors.identity_api.values import (
    MATCHES,
    actor,
    entry_fields,
    entry_to_wire,
    ok,
    receive,
    status,
)
from vestibule.doors.scope import current_scope
from vestibule.errors import Kind, VestibuleError
from vestibule.identity.ambiguity import Ambiguities, EntryWarning, warnings_for
from vestibule.identity.claims import canonical, read_claims
from vestibule.identity.codes import ENTRY_NOT_FOUND, INVALID_ENTRY
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.registration import Created, Patch, Registration
from vestibule.net.grpc import STATUS_OF_KIND, Servable, Stream, serve
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.store import EntryFilter, Match
from vestibule.wire.gen.spire import types_pb2 as types
from vestibule.wire.gen.vestibule.admin.v1 import entries_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Entries"]
_EXTRAS: Final = ("labels", "jwt_claims", "path_template", "dns_templates", "max_identities")
_FIELDS: Final = frozenset(field.name for field in types.EntryMask.DESCRIPTOR.fields) | set(_EXTRAS)


class EntriesDoor:
    """Translates for ``identity.registration``, and adds the warnings of ``identity.ambiguity``."""

    def __init__(self, registration: Registration, entitlements: Entitlements, clock: Clock) -> None:
        self._registration = registration
        self._entitlements = entitlements
        self._clock = clock

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def get(self, stream: Stream) -> None:
        """Get.  Raises: VST1202, VST1206."""
        request = await receive(stream)
        entry = await self._registration.get(request.id)
        if not current_scope().sees(entry):
            raise ENTRY_NOT_FOUND.error("entry not found")
        await stream.send_message(registered(entry))

    async def list(self, stream: Stream) -> None:
        """List.  Raises: VST1203, VST1400."""
        request = await receive(stream)
        wanted = _filter(request.filter)
        page = await self._registration.page(wanted, max(request.page_size, 0), request.page_token)
        await stream.send_message(
            wire.ListRegisteredResponse(entries=map(registered, page.items), next_page_token=page.next_token)
        )

    async def count(self, stream: Stream) -> None:
        """Count.  Raises: VST1203, VST1400."""
        request = await receive(stream)
        count = await self._registration.count(_filter(request.filter))
        await stream.send_message(wire.CountRegisteredResponse(count=count))

    async def create(self, stream: Stream) -> None:
        """Create: as SPIRE's BatchCreateEntry, each with its warnings."""
        request = await receive(stream)
        wanted = [_read(each) for each in request.entries]
        outcomes = await self._registration.create(actor(), wanted, current_scope().permit)
        await stream.send_message(self._results(outcomes))

    async def plan(self, stream: Stream) -> None:
        """Plan: what Create would answer, and nothing else; entries that were given no ID are answered without one."""
        request = await receive(stream)
        wanted = [_read(each) for each in request.entries]
        outcomes = await self._registration.plan(wanted, current_scope().permit)
        nameless = frozenset(
            outcome[0].id
            for outcome, each in zip(outcomes, request.entries, strict=True)
            if isinstance(outcome, tuple) and outcome[1] and not each.entry.id
        )
        response = self._results(outcomes, nameless)
        for result in response.results:
            if result.entry.entry.id in nameless:
                result.entry.entry.id = ""
        await stream.send_message(response)

    async def update(self, stream: Stream) -> None:
        """Update: the named fields, each with its warnings."""
        request = await receive(stream)
        if unknown := set(request.fields) - _FIELDS:
            raise INVALID_ENTRY.error(f"entries have no field {min(unknown)[:80]!r}")
        patches = [(each.entry.id, _patch(each, frozenset(request.fields))) for each in request.entries]
        outcomes = await self._registration.update(actor(), patches, current_scope().permit)
        await stream.send_message(
            self._results([each if isinstance(each, VestibuleError) else (each, True) for each in outcomes])
        )

    async def review(self, stream: Stream) -> None:
        """Review: every warning that holds now, of entries that the caller may see."""
        await receive(stream)
        scope = current_scope()
        visible = [each for each in self._entitlements.all if scope.sees(each)]
        found, left_out = Ambiguities(visible, self._clock.now()).all()
        await stream.send_message(wire.ReviewResponse(warnings=map(_warning, found), left_out=left_out))

    def _results(
        self, outcomes: Sequence[Created], nameless: frozenset[str] = frozenset()
    ) -> wire.RegisteredResults:
        """``nameless`` are the IDs of entries that are not kept, and would get others."""
        scope = current_scope()
        kept = [each[0] for each in outcomes if isinstance(each, tuple)]
        visible = {each.id: each for each in self._entitlements.all if scope.sees(each)}
        visible |= {each.id: each for each in kept}
        warnings: Mapping[str, Sequence[EntryWarning]] = (
            warnings_for(kept, visible.values(), self._clock.now(), nameless) if kept else {}
        )
        response = wire.RegisteredResults()
        for outcome in outcomes:
            if isinstance(outcome, VestibuleError):
                response.results.add(status=status(outcome))
                continue
            entry, new = outcome
            response.results.add(
                status=ok() if new else _similar(),
                entry=registered(entry),
                warnings=map(_warning, warnings[entry.id]),
            )
        return response


def registered(entry: Entry) -> wire.RegisteredEntry:
    """An entry with its extras."""
    return wire.RegisteredEntry(
        entry=entry_to_wire(entry),
        extras=wire.EntryExtras(
            labels=dict(entry.labels),
            jwt_claims=entry.jwt_claims,
            path_template=entry.path_template,
            dns_templates=entry.dns_templates,
            max_identities=entry.max_identities,
            template_id=entry.template_id,
        ),
    )


def _extras(extras: wire.EntryExtras, wanted: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "labels": tuple(sorted(extras.labels.items())),
        "jwt_claims": canonical(read_claims(extras.jwt_claims)),
        "path_template": extras.path_template,
        "dns_templates": tuple(extras.dns_templates),
        "max_identities": extras.max_identities,
    }
    return {name: values[name] for name in wanted}


def _read(message: wire.RegisteredEntry) -> Entry | VestibuleError:
    try:
        fields = entry_fields(message.entry, None) | _extras(message.extras, _EXTRAS)
        return Entry(id=message.entry.id, **fields)
    except VestibuleError as error:
        return error


def _patch(message: wire.RegisteredEntry, fields: frozenset[str]) -> Patch | VestibuleError:
    try:
        if not fields:
            return entry_fields(message.entry, None) | _extras(message.extras, _EXTRAS)
        mask = types.EntryMask(**{name: name in fields for name in _FIELDS - set(_EXTRAS)})
        wanted = [name for name in _EXTRAS if name in fields]
        return entry_fields(message.entry, mask) | _extras(message.extras, wanted)
    except VestibuleError as error:
        return error


def _filter(asked: wire.RegisteredFilter) -> EntryFilter:
    """Raises: VST1203, VST1400."""
    selectors = frozenset(Selector(each.type, each.value) for each in asked.selectors)
    federates_with = frozenset(str(TrustDomain.parse(name)) for name in asked.federates_with)
    scope = current_scope()
    return EntryFilter(
        spiffe_id=SpiffeId.parse(asked.spiffe_id) if asked.HasField("spiffe_id") else None,
        parent_id=SpiffeId.parse(asked.parent_id) if asked.HasField("parent_id") else None,
        selectors=selectors or None,
        selectors_match=MATCHES.get(asked.match_selectors, Match.EXACT),
        federates_with=federates_with or None,
        federates_with_match=MATCHES.get(asked.match_federates_with, Match.EXACT),
        hint=asked.hint if asked.HasField("hint") else None,
        downstream=asked.downstream if asked.HasField("downstream") else None,
        template_id=asked.template_id if asked.HasField("template_id") else None,
        labels=tuple(sorted(asked.labels.items())),
        visible=None if scope.full else scope.sees,
    )


def _similar() -> types.Status:
    return types.Status(
        code=STATUS_OF_KIND[Kind.ALREADY_EXISTS].value, message="similar entry already exists"
    )


def _warning(warning: EntryWarning) -> wire.EntryWarning:
    return wire.EntryWarning(kind=warning.kind, message=warning.message, entry_ids=warning.entry_ids)
