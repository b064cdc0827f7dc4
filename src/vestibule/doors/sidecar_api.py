"""The door for sidecars (vestibule.node.v1.Sidecar), on the agent's public socket.

One stream per sidecar.  What came in over it (processes vouched for, the instance) ends when it ends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from vestibule.agent.sidecars import Attachment, Done, Event, Grants, Session, Sidecars, Taken, Welcomed
from vestibule.agent.sidecars.codes import OUT_OF_STEP
from vestibule.agent.sidecars.sessions import SUPERVISED
from vestibule.calls.printed_uses import printed_from_wire
from vestibule.calls.traffic_reports import traffic_from_wire
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Servable, Stream, serve
from vestibule.net.peer import Peer, peer_of
from vestibule.records import Address, Boundary, CheckView, Health, Instance, PrintedUse, ServiceView
from vestibule.spiffe import Selector, SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

SERVICE: Final = wire.DESCRIPTOR.services_by_name["Sidecar"]
MAX_NAME: Final = 255
_INSTANCE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # as the server's discovery wants it
MAX_UNTOLD: Final = 256
"""A sidecar that says more and more without reading the answers is cut off."""
LONGEST_DRAIN: Final = 30.0
"""Seconds that a sidecar may wait for its callers."""


class SidecarDoor:
    """Attests who attaches, then lets its session speak."""

    def __init__(
        self,
        sidecars: Sidecars,
        grants: Grants,
        attest: Callable[[Peer], Awaitable[frozenset[Selector]]],
    ) -> None:
        self._sidecars = sidecars
        self._grants = grants
        self._attest = attest

    def servable(self) -> Servable:
        return serve(SERVICE, self)

    async def attach(self, stream: Stream) -> None:
        """Sidecar.Attach.  Raises: VST2130, VST2134 and what attestation raises."""
        session = Session(self._sidecars, await self._attachment(stream))
        running = asyncio.create_task(session.run(), name=f"sidecar-{session.service}")
        telling = asyncio.create_task(_tell(stream, session), name=f"tell-{session.service}")
        hearing = asyncio.create_task(_hear(stream, session), name=f"hear-{session.service}")
        tasks = (running, telling, hearing)
        try:
            # Whichever ends first ends the stream: the sidecar left, cannot be told, or its session failed.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    async def _attachment(self, stream: Stream) -> Attachment:
        message = await stream.recv_message()
        if message is None or message.WhichOneof("step") != "hello":
            raise OUT_OF_STEP.error("the first message of a sidecar is its Hello")
        hello, peer = message.hello, peer_of(stream)
        if not hello.service or not hello.instance_id:
            raise OUT_OF_STEP.error("a Hello names the service and the instance")
        if len(hello.service) > MAX_NAME or not _INSTANCE_ID.fullmatch(hello.instance_id):
            raise OUT_OF_STEP.error("the service's name is too long, or the instance's ID is none")
        if hello.supervisor_key:
            self._grants.check(hello.supervisor_key, hello.service)
            selectors = frozenset({Selector(SUPERVISED, f"service:{hello.service}")})
        else:
            selectors = await self._attest(peer)
        process = (peer.pid, peer.start_time)
        return Attachment(hello.service, hello.instance_id, process, selectors)


async def _hear(stream: Stream, session: Session) -> None:
    while (message := await stream.recv_message()) is not None:
        if session.events.qsize() > MAX_UNTOLD:
            raise OUT_OF_STEP.error("a sidecar reads the answers to its steps")
        try:
            await _step(message, session)
        except VestibuleError as problem:
            session.events.put_nowait(problem)


async def _step(message: wire.AttachRequest, session: Session) -> None:
    match message.WhichOneof("step"):
        case "vouch":
            session.vouch((message.vouch.pid, message.vouch.start_time), message.vouch.role)
        case "withdraw":
            session.withdraw(message.withdraw.pid)
        case "register":
            session.register(_instance(message.register.instance, session))
        case "deregister":
            await session.deregister()
        case "drain":
            await session.drain(min(message.drain.wait_ms / 1000, LONGEST_DRAIN))
        case "uses":
            await session.used(message.uses.number, _uses(message.uses))
        case "traffic":
            session.count(traffic_from_wire(message.traffic))
        case other:
            raise OUT_OF_STEP.error(f"a sidecar cannot send {other or 'an empty step'} now")


def _uses(message: wire.AttachRequest.Uses) -> tuple[PrintedUse, ...]:
    try:
        return printed_from_wire(message.uses)
    except (ValueError, OverflowError) as error:
        raise OUT_OF_STEP.error(f"what the sidecar says of uses of break-glass: {error}") from error


async def _tell(stream: Stream, session: Session) -> None:
    while True:
        await stream.send_message(_response(await session.events.get()))


def _response(event: Event) -> wire.AttachResponse:
    match event:
        case Welcomed(spiffe_id):
            welcome = wire.AttachResponse.Welcome(
                spiffe_id=str(spiffe_id), trust_domain=str(spiffe_id.trust_domain)
            )
            return wire.AttachResponse(welcome=welcome)
        case Taken(number):
            return wire.AttachResponse(taken=wire.AttachResponse.Taken(number=number))
        case Done(what):
            return wire.AttachResponse(done=wire.AttachResponse.Done(what=what))
        case ServiceView():
            # Where rules are written is for the agent, which logs.
            return wire.AttachResponse(service=view_to_wire(replace(event, places={})))
        case VestibuleError():
            problem = wire.AttachResponse.Problem(
                code=event.code.code, message=event.message, advice=event.advice
            )
            return wire.AttachResponse(problem=problem)


def view_to_wire(view: ServiceView) -> wire.ServiceView:
    """A service's description as agents and sidecars receive it."""
    return wire.ServiceView(
        service=view.service,
        spiffe_id=str(view.spiffe_id),
        ports=[
            wire.ServiceView.Port(
                name=port.name,
                protocol=port.protocol,
                listen=str(port.listen) if port.listen is not None else "",
                certificate=port.certificate,
                key=port.key,
            )
            for port in view.ports
        ],
        upstreams=[
            wire.ServiceView.Upstream(name=up.name, service=up.service, port=up.port, protocol=up.protocol)
            for up in view.upstreams
        ],
        intent_version=view.intent_version,
        intent_commit=view.intent_commit,
        places=view.places,
        mesh=view.mesh,
        environment=view.environment,
        check=_check(view.check) if view.check is not None else None,
    )


def _check(check: CheckView) -> wire.ServiceView.Check:
    return wire.ServiceView.Check(
        kind=check.kind,
        port=check.port,
        path=check.path,
        grpc_service=check.grpc_service,
        every_ms=round(check.every * 1000),
        timeout_ms=round(check.timeout * 1000),
        unhealthy=check.unhealthy,
        healthy=check.healthy,
    )


def _instance(message: wire.Instance, session: Session) -> Instance:
    # Whose instance it is follows from the session; the message cannot say otherwise.
    identity = session.spiffe_id or SpiffeId.parse(message.spiffe_id)
    return instance_from_wire(message, identity, identity)


def instance_from_wire(message: wire.Instance, spiffe_id: SpiffeId, agent_id: SpiffeId) -> Instance:
    """An instance with the identity and agent that were attested.  Raises: VST2134 for a malformed address."""
    try:
        return Instance(
            id=message.id,
            service=message.service,
            spiffe_id=spiffe_id,
            agent_id=agent_id,
            version=message.version or "v1",
            ingress={name: Address.parse(text) for name, text in message.ingress.items()},
            apps={name: Address.parse(text) for name, text in message.apps.items()},
            egress=Address.parse(message.egress) if message.egress else None,
            upstreams={name: Address.parse(text) for name, text in message.upstreams.items()},
            boundary=Boundary(message.boundary or Boundary.TRUST.value),
            locality=message.locality,
            health=Health(message.health or Health.UNKNOWN.value),
        )
    except ValueError as error:
        raise OUT_OF_STEP.error(
            f"the instance {message.id!r} has an address, boundary or health that is none: {error}"
        ) from error
