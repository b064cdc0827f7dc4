"""A call, followed through both proxies: what the caller's does with it, and what the callee's decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vestibule.cli.codes import NO_SUCH_REQUEST
from vestibule.cli.intent_places import Found
from vestibule.envoy.central import decided_where
from vestibule.envoy.world import World
from vestibule.errors import VestibuleError
from vestibule.intent import Intent
from vestibule.intent.journeys import Journey, journey
from vestibule.intent.model import Port, Service
from vestibule.intent.plaintext import ANYBODY, SHOWN, plaintext_rules
from vestibule.intent.policy_cases import caller_of, target_of
from vestibule.observe.access_record import AccessRecord, Direction
from vestibule.policy import Call, McpCall, PortPolicy, Rule
from vestibule.policy.central import unjudged
from vestibule.policy.explaining import Explanation
from vestibule.policy.explaining import explain as explained_by
from vestibule.records import Emergency
from vestibule.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The call that is meant: as the caller's proxy gets it."""

    caller: str
    service: Service
    port: Port
    call: Call

    @classmethod
    def of(
        cls,
        intent: Intent,
        caller: str,
        target: str,
        *,
        method: str,
        path: str,
        headers: Mapping[str, str],
        tokens: Mapping[str, Mapping[str, Any]],
        mcp: str | None,
        at: datetime,
    ) -> Asked:
        """A call as somebody typed it.  Raises: VST0040, VST1400."""
        service, port = target_of(target, intent)
        http = port.protocol.is_http
        asked, _, named = (mcp or "").partition(":")
        call = Call(
            caller=caller_of(caller, intent),
            port=port.name,
            method=("POST" if mcp else method.upper()) if http else None,
            path=path if http else None,
            host=service.name if http else "",
            headers=headers,
            time=at,
            tokens=tokens,
            mcp=McpCall(method=asked, target=named or None) if mcp else None,
        )
        return cls(caller=caller, service=service, port=port, call=call)


def of_records(records: Sequence[AccessRecord], intent: Intent) -> Asked:
    """The call that proxies recorded; the callee's record goes first.  Raises: VST9109."""
    record = min(records, key=lambda each: each.direction is not Direction.INBOUND)
    service = intent.services.get(record.destination_service)
    port = service.ports.get(record.destination_port) if service else None
    if service is None or port is None:
        raise NO_SUCH_REQUEST.error(
            f"the request went to {record.destination_service or record.authority or 'nobody'}, which the intent lacks"
        )
    inbound = record.direction is Direction.INBOUND
    written = record.source_spiffe_id if inbound else record.reporter_spiffe_id
    caller = ANYBODY if record.plaintext else SpiffeId.parse(written)
    said = None if record.mcp_method == "reply" else record.mcp_method
    asked = McpCall(method=said, target=record.mcp_target or None) if record.mcp_method else None
    http = port.protocol.is_http
    call = Call(
        caller=caller,
        port=port.name,
        method=record.method if http else None,
        path=record.path if http else None,
        host=record.authority,
        time=record.time,
        mcp=asked,
    )
    return Asked(caller=_name(intent, caller), service=service, port=port, call=call)


def _name(intent: Intent, caller: SpiffeId) -> str:
    if caller == ANYBODY:
        return SHOWN
    return next((name for name, each in intent.identities.items() if each == caller), str(caller))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """The whole answer.  ``central`` says why a decision service has a say; empty where the proxy alone decides.

    ``unjudged`` are rules in shadow mode that would need one where there is none.
    """

    found: Found
    asked: Asked
    journey: Journey | None
    explanation: Explanation
    records: tuple[AccessRecord, ...] = ()
    central: str = ""
    unjudged: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the call gets to the app."""
        return self.explanation.decision.allowed

    def place(self, rule: Rule | None) -> str | None:
        """Where a rule is written."""
        return None if rule is None else self.found.where(rule.where)


def explained(
    found: Found,
    asked: Asked,
    emergencies: Sequence[Emergency],
    records: Sequence[AccessRecord] = (),
) -> Told:
    """Follow the call through both proxies."""
    intent, call = found.intent, asked.call
    assert intent is not None
    assert call.time is not None
    if is_plain(call):
        rules = plaintext_rules(asked.service, asked.port.name)
        policy = PortPolicy(
            service=asked.service.name,
            port=asked.port.name,
            allow=rules,
            is_http=asked.port.protocol.is_http,
        )
        return Told(
            found=found,
            asked=asked,
            journey=None,
            explanation=explained_by(policy, call),
            records=tuple(records),
        )
    world = World(intent=intent, emergencies=tuple(emergencies))
    policy = world.policy(asked.service.name, asked.port.name)
    travels = journey(
        intent,
        call.caller,
        asked.service,
        asked.port,
        policy,
        method=call.method,
        path=call.path,
        headers=call.headers,
        now=call.time,
    )
    # A record of the callee's has the path that arrived.
    arrived = any(each.direction is Direction.INBOUND for each in records)
    arriving = replace(call, path=travels.path) if travels.path and not arrived else call
    central = decided_where(policy, intent.mesh.decide)
    trying = unjudged((*policy.deny, *policy.allow)) if central is None and policy.is_http else ()
    return Told(
        found=found,
        asked=asked,
        journey=travels,
        explanation=explained_by(policy, arriving),
        records=tuple(records),
        central="" if central is None else central.why,
        unjudged=tuple(each.name for each in trying),
    )


def is_plain(call: Call) -> bool:
    """Whether it comes from nobody in particular."""
    return call.caller == ANYBODY


async def open_emergencies(socket: Path) -> tuple[Emergency, ...]:
    """What break-glass permits on a server now."""
    from vestibule.calls.unix import unix_channel
    from vestibule.net.grpc import Client
    from vestibule.wire.gen.vestibule.admin.v1 import break_glass_pb2 as wire

    channel = unix_channel(socket)
    try:
        client = Client(channel, wire.DESCRIPTOR.services_by_name["BreakGlassAdmin"])
        response = await client.unary("List", wire.ListEmergenciesRequest())
    except VestibuleError:
        return ()  # a server that knows none
    finally:
        channel.close()
    return tuple(_emergency(each) for each in response.emergencies if each.open)


def _emergency(each: Any) -> Emergency:
    return Emergency(
        id=each.id,
        callers=tuple(each.callers),
        service=each.service,
        port=each.port,
        method=each.method,
        path=each.path,
        reason=each.reason,
        ticket=each.ticket,
        approver=each.approver,
        opener=each.opener,
        opened_at=datetime.fromtimestamp(each.opened_at, UTC),
        expires_at=datetime.fromtimestamp(each.expires_at, UTC),
    )
