"""``vestibule.node.v1.Templates``: what templates give to an agent's workloads."""

from __future__ import annotations

from typing import Final

from vestibule.doors.identity_api.values import own_agent_id, receive, unix
from vestibule.doors.limits import Limits
from vestibule.identity.entitlement import Entitlements
from vestibule.identity.templating import Templating, variables
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.records import Entry
from vestibule.spiffe import Selector
from vestibule.wire.gen.spire import types_pb2 as types
from vestibule.wire.gen.vestibule.node.v1 import templates_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Templates"]


class TemplatesDoor:
    """Translates for ``identity.templating``; an agent speaks for itself alone."""

    def __init__(self, templating: Templating, entitlements: Entitlements, limits: Limits) -> None:
        self._templating = templating
        self._entitlements = entitlements
        self._attempts = limits.templates

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def list(self, stream: Stream) -> None:
        """List."""
        await receive(stream)
        found = self._entitlements.templates_for(own_agent_id())
        await stream.send_message(wire.ListTemplatesResponse(templates=[_template(each) for each in found]))

    async def derive(self, stream: Stream) -> None:
        """Derive.  Raises: VST1352, VST1353, VST1405, VST1203, VST2325."""
        request = await receive(stream)
        agent_id = own_agent_id()
        await self._attempts.pass_through(str(agent_id))
        selectors = frozenset(Selector(each.type, each.value) for each in request.selectors)
        entry = await self._templating.derive(agent_id, request.entry_id, selectors)
        await stream.send_message(
            wire.DeriveResponse(
                entry_id=entry.id, spiffe_id=str(entry.spiffe_id), expires_at=unix(entry.expires_at)
            )
        )


def _template(entry: Entry) -> wire.Template:
    return wire.Template(
        entry_id=entry.id,
        revision=entry.revision,
        selectors=[types.Selector(type=each.type, value=each.value) for each in sorted(entry.selectors)],
        variables=variables(entry),
        path_template=entry.path_template,
    )
