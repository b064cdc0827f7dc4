"""``vestibule.admin.v1.ServerWhy``: why an identity is given or not, for operators."""

from __future__ import annotations

from typing import Final

from vestibule.doors.identity_api.values import receive
from vestibule.doors.scope import current_scope, visible_entries
from vestibule.doors.why_values import entry_to_wire, missing_to_wire, unix
from vestibule.identity.why import Entitled, Explanation, Given, Why
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.spiffe import Selector, SpiffeId, TrustDomain
from vestibule.wire.gen.vestibule.admin.v1 import why_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["ServerWhy"]


class ServerWhyDoor:
    """Translates for ``identity.why``."""

    def __init__(self, why: Why, trust_domain: TrustDomain) -> None:
        self._why = why
        self._trust_domain = trust_domain

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self)

    async def explain_identity(self, stream: Stream) -> None:
        """ExplainIdentity.  Raises: VST1202, VST1400, VST1401."""
        request = await receive(stream)
        found = await self._why.explain(
            SpiffeId.parse(request.spiffe_id) if request.spiffe_id else None,
            SpiffeId.parse(request.agent_id) if request.agent_id else None,
            frozenset(Selector.parse(each) for each in request.selectors),
            visible_entries(),
            current_scope().sees_agent,
        )
        await stream.send_message(_explanation(found, self._trust_domain))


def _explanation(found: Explanation, trust_domain: TrustDomain) -> wire.IdentityExplanation:
    return wire.IdentityExplanation(
        trust_domain=str(trust_domain),
        entries=[_given(each) for each in found.entries],
        left_out=found.left_out,
        agents=[_node(each) for each in found.agents],
        agents_left_out=found.agents_left_out,
        authority=wire.WhyAuthority(id=found.authority_id, not_after=unix(found.authority_not_after)),
        notes=found.notes,
        nearest_spiffe_id=str(found.nearest or ""),
    )


def _given(given: Given) -> wire.WhyGiven:
    return wire.WhyGiven(
        entry=entry_to_wire(given.entry),
        missing=missing_to_wire(given.missing),
        matches=given.matches,
        chain=[
            wire.WhyStep(
                spiffe_id=str(step.spiffe_id), what=step.what, entry_id=step.entry_id, broken=step.broken
            )
            for step in given.chain
        ],
        reaches=given.reaches,
        reasons=given.reasons,
        agents=given.agents,
    )


def _node(entitled: Entitled) -> wire.WhyNode:
    agent = entitled.agent
    return wire.WhyNode(
        spiffe_id=str(agent.spiffe_id),
        connected=entitled.connected,
        banned=agent.banned,
        svid_expires_at=unix(agent.new_expires_at or agent.expires_at),
        entry_ids=entitled.entry_ids,
        issued_until=unix(entitled.issued_until),
        selectors=sorted(map(str, agent.selectors)),
    )
