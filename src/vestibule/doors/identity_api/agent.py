"""``spire.api.server.agent.v1.Agent``: node agents join, renew, and are administered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf.message_factory import GetMessageClass

from vestibule.doors.access import denied_details
from vestibule.doors.identity_api.values import (
    actor,
    agent_to_wire,
    id_from_wire,
    mask_of,
    own_agent_id,
    receive,
    selectors_from_wire,
    svid_to_wire,
    unix,
)
from vestibule.doors.limits import Limits
from vestibule.doors.scope import current_scope
from vestibule.identity.codes import AGENT_NOT_FOUND, INVALID_ENTRY, MISSING_PARAMETER
from vestibule.identity.nodes import Nodes
from vestibule.net.caller import current_caller
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.quotas import source_of
from vestibule.records import AgentRecord
from vestibule.store import AgentFilter, Match
from vestibule.wire.gen.spire import agent_pb2 as wire
from vestibule.wire.gen.spire import types_pb2 as types

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Agent"]
# Of our private pool: the well-known module's own Empty is another type to the codec.
Empty: Final = GetMessageClass(SERVICE.methods_by_name["BanAgent"].output_type)
ATTESTATION_SECONDS: Final = 30.0
MAX_TYPE: Final = 64
MAX_PAYLOAD: Final = 256 * 1024
"""Bytes of evidence; certificates and signed documents are smaller."""


class AgentDoor:
    """Translates for ``identity.nodes``."""

    def __init__(self, nodes: Nodes, limits: Limits) -> None:
        self._nodes = nodes
        self._attempts = limits.attestation
        self._signing = limits.signing

    def servable(self) -> Servable:
        """The service, not yet guarded."""
        return serve(SERVICE, self, details=denied_details)

    async def attest_agent(self, stream: Stream) -> None:
        """AttestAgent: evidence, perhaps challenges, and the agent's SVID."""
        caller = current_caller()
        await self._attempts.pass_through(source_of(caller.address.rpartition(":")[0]))
        try:
            async with asyncio.timeout(ATTESTATION_SECONDS):
                await self._attest(stream, caller.address)
        except TimeoutError:
            raise MISSING_PARAMETER.error("the attestation was not completed in time") from None

    async def _attest(self, stream: Stream, address: str) -> None:
        params = _params(await receive(stream))

        async def challenge(data: bytes) -> bytes:
            await stream.send_message(wire.AttestAgentResponse(challenge=data))
            answer = await receive(stream)
            if answer.WhichOneof("step") != "challenge_response":
                raise MISSING_PARAMETER.error("the agent did not respond to the challenge")
            return bytes(answer.challenge_response)

        attested = await self._nodes.attest(
            params.data.type, params.data.payload, params.params.csr, challenge, address
        )
        result = wire.AttestAgentResponse.Result(
            svid=svid_to_wire(attested.svid), reattestable=attested.can_reattest
        )
        await stream.send_message(wire.AttestAgentResponse(result=result))

    async def renew_agent(self, stream: Stream) -> None:
        """RenewAgent."""
        request = await receive(stream)
        if not request.HasField("params"):
            raise MISSING_PARAMETER.error("params cannot be nil")
        await self._signing.pass_through(str(own_agent_id()))
        svid = await self._nodes.renew(own_agent_id(), request.params.csr)
        await stream.send_message(wire.RenewAgentResponse(svid=svid_to_wire(svid)))

    async def post_status(self, stream: Stream) -> None:
        """PostStatus."""
        request = await receive(stream)
        await self._nodes.post_status(own_agent_id(), request.agent_version)
        await stream.send_message(wire.PostStatusResponse())

    async def create_join_token(self, stream: Stream) -> None:
        """CreateJoinToken."""
        request = await receive(stream)
        alias = id_from_wire(request.agent_id, "invalid agent ID") if request.HasField("agent_id") else None
        chosen = self._nodes.agent_of_token(request.token) if request.token else None
        current_scope().permit_token(alias, chosen)
        token = await self._nodes.create_join_token(
            actor(), timedelta(seconds=request.ttl), request.token, alias
        )
        await stream.send_message(types.JoinToken(value=token.token, expires_at=unix(token.expires_at)))

    async def get_agent(self, stream: Stream) -> None:
        """GetAgent."""
        request = await receive(stream)
        agent = await self._nodes.get(id_from_wire(request.id, "invalid agent ID"))
        if not current_scope().sees_agent(agent.spiffe_id):
            raise AGENT_NOT_FOUND.error("agent not found")
        await stream.send_message(agent_to_wire(agent, mask_of(request)))

    async def list_agents(self, stream: Stream) -> None:
        """ListAgents."""
        request = await receive(stream)
        page = await self._nodes.page(_filter(request), max(request.page_size, 0), request.page_token)
        mask = mask_of(request)
        agents = [agent_to_wire(agent, mask) for agent in page.items]
        await stream.send_message(wire.ListAgentsResponse(agents=agents, next_page_token=page.next_token))

    async def count_agents(self, stream: Stream) -> None:
        """CountAgents."""
        count = await self._nodes.count(_filter(await receive(stream)))
        await stream.send_message(wire.CountAgentsResponse(count=count))

    async def ban_agent(self, stream: Stream) -> None:
        """BanAgent."""
        request = await receive(stream)
        agent_id = id_from_wire(request.id, "invalid agent ID")
        current_scope().permit_agent(agent_id)
        await self._nodes.ban(actor(), agent_id)
        await stream.send_message(Empty())

    async def delete_agent(self, stream: Stream) -> None:
        """DeleteAgent: eviction."""
        request = await receive(stream)
        agent_id = id_from_wire(request.id, "invalid agent ID")
        current_scope().permit_agent(agent_id)
        await self._nodes.evict(actor(), agent_id)
        await stream.send_message(Empty())


def _params(request: wire.AttestAgentRequest) -> wire.AttestAgentRequest.Params:
    # SPIRE's own order and words, which its clients' tests know.
    params = request.params
    checks = (
        (request.WhichOneof("step") == "params", "missing params"),
        (params.HasField("data"), "missing attestation data"),
        (params.HasField("params"), "missing X509-SVID parameters"),
        (bool(params.params.csr), "missing CSR"),
        (bool(params.data.type), "missing attestation data type"),
        (bool(params.data.payload), "missing attestation data payload"),
        # Ours: whatever anybody sends here is quoted in errors, logs and the audit log.
        (len(params.data.type) <= MAX_TYPE, "attestation data type is too long"),
        (len(params.data.payload) <= MAX_PAYLOAD, "attestation data payload is too long"),
    )
    for holds, problem in checks:
        if not holds:
            raise MISSING_PARAMETER.error(f"malformed param: {problem}")
    return params


def _filter(request: Any) -> AgentFilter:
    if not request.HasField("filter"):
        return AgentFilter(visible=_visible())
    wanted = request.filter
    selectors, match = None, Match.EXACT
    if wanted.HasField("by_selector_match"):
        selectors, match = selectors_from_wire(wanted.by_selector_match)
    return AgentFilter(
        attestation_type=wanted.by_attestation_type or None,
        selectors=selectors,
        selectors_match=match,
        banned=wanted.by_banned.value if wanted.HasField("by_banned") else None,
        can_reattest=wanted.by_can_reattest.value if wanted.HasField("by_can_reattest") else None,
        expires_before=_expires_before(wanted.by_expires_before),
        visible=_visible(),
    )


def _visible() -> Callable[[AgentRecord], bool] | None:
    scope = current_scope()
    return None if scope.full else lambda agent: scope.sees_agent(agent.spiffe_id)


def _expires_before(text: str) -> datetime | None:
    """``2026-01-02 15:04:05 -0700 -07`` as SPIRE's clients write it, or RFC 3339.  Raises: VST1203."""
    if not text:
        return None
    try:
        if "T" in text[:11]:  # not that of "UTC"
            instant = datetime.fromisoformat(text)
        else:
            instant = datetime.strptime(" ".join(text.split(" ")[:3]), "%Y-%m-%d %H:%M:%S %z")
    except ValueError as error:
        raise INVALID_ENTRY.error(f"by_expires_before {text!r} is not an instant") from error
    if instant.tzinfo is None:
        raise INVALID_ENTRY.error(f"by_expires_before {text!r} lacks its time zone")
    return instant
