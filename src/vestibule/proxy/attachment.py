"""A sidecar's place at its agent: one stream that says who we are, whom we vouch for, and what is up.

What the agent should know is kept here as a wish; the stream carries it over, and carries all of it again after
the agent was restarted.  Nothing waits for the agent to come back, and nothing that runs is stopped by its absence.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import vestibule
from vestibule.calls.mesh_api import instance_to_wire, view_from_wire
from vestibule.calls.printed_uses import printed_to_wire
from vestibule.calls.traffic_reports import traffic_to_wire
from vestibule.calls.unix import unix_channel
from vestibule.errors import CATALOGUE, ErrorCode, Fault, Kind, VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.net.grpc import Client, Stream
from vestibule.processes import Backoff, Child
from vestibule.records import Instance, PrintedUse, ProxyTraffic, ServiceView
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

SIDECAR: Final = wire.DESCRIPTOR.services_by_name["Sidecar"]
_CROWDED: Final = 8
_TO_AND_FRO: Final = 1.0
"""Seconds that an answer of the server may take beside what it waits for."""
_BACKOFF: Final = Backoff(first=0.1, longest=2.0, steady=5.0)
_AWAY: Final = 0.2
"""Seconds between looks at a socket where nobody listens: the agent is being restarted, and proxies wait for it."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Attachment:
    """Keeps the sidecar attached while ``run`` runs.

    ``view`` is the newest description of the service and ``problem`` the newest refusal; ``changed`` is replaced
    and set whenever anything here changes.  ``registered`` says whether the server has taken the instance as it is now,
    ``welcomes`` how often the agent has welcomed us, 0 while it is not there.  ``on_taken`` hears what it took.
    """

    socket: Path
    service: str
    instance_id: str
    supervisor_key: bytes | None = field(default=None, repr=False)
    spiffe_id: str | None = None
    view: ServiceView | None = None
    problem: VestibuleError | None = None
    attached: bool = False
    registered: bool = False
    welcomes: int = 0
    on_taken: Callable[[int], None] = lambda _number: None
    _met: int = 0
    _vouched: dict[int, wire.AttachRequest.Vouch] = field(default_factory=dict)
    _instance: Instance | None = None
    _sent: Instance | None = None
    _pending: bool = False
    _outbox: asyncio.Queue[wire.AttachRequest] | None = None
    _left: asyncio.Event = field(default_factory=asyncio.Event)
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Attach, and attach again, until cancelled.  Raises: VST2310 for an impossible socket path."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began, away = loop.time(), False
            try:
                await self._attach_once()
                _log.warning("the agent ended the stream; attaching again")
            except VestibuleError as error:
                away = error.code is UNREACHABLE
                self._complain(error)
            finally:
                self.attached = self.registered = self._pending = False
                self.welcomes = 0
                self._outbox = self._sent = None
                self._tell()
            failures = _BACKOFF.failures(failures, loop.time() - began)
            pause = _BACKOFF.delay(failures, random.random())  # noqa: S311 - jitter
            if away:
                # To find nobody at home costs next to nothing, and says nothing of those who come next.
                failures, pause = 0, min(pause, _AWAY)
            await asyncio.sleep(pause)

    async def changed(self) -> None:
        """Return at the next change."""
        await self._changed.wait()

    def vouch(self, child: Child, role: str) -> None:
        """The agent shall give this process the service's identity, from now until it is withdrawn."""
        vouch = wire.AttachRequest.Vouch(pid=child.pid, start_time=child.start_time, role=role)
        self._vouched[child.pid] = vouch
        self._send(wire.AttachRequest(vouch=vouch))

    def withdraw(self, child: Child) -> None:
        """The process ended."""
        if self._vouched.pop(child.pid, None) is not None:
            self._send(wire.AttachRequest(withdraw=wire.AttachRequest.Withdraw(pid=child.pid)))

    def register(self, instance: Instance) -> None:
        """The server shall know the instance like this; replaces what it knew before."""
        if instance == self._instance:
            return
        self._instance = instance
        self.registered = False
        self._announce()

    def count(self, traffic: ProxyTraffic) -> None:
        """What the proxy has counted; said now or not at all, since the next says more."""
        outbox = self._outbox
        if self.attached and outbox is not None and outbox.qsize() < _CROWDED:
            outbox.put_nowait(wire.AttachRequest(traffic=traffic_to_wire(traffic)))

    def hand_over(self, number: int, uses: Sequence[PrintedUse]) -> None:
        """What break-glass let through; ``on_taken`` hears the number once the agent has it.

        An agent that does not read is not told more and more: whoever hears nothing tells it again.
        """
        if self._outbox is None or self._outbox.qsize() >= _CROWDED:
            return
        self._send(
            wire.AttachRequest(uses=wire.AttachRequest.Uses(number=number, uses=map(printed_to_wire, uses)))
        )

    async def deregister(self, within: float) -> bool:
        """Callers shall leave the instance.  False when the agent could not confirm it in time (seconds)."""
        self._instance = self._sent = None
        self.registered = self._pending = False
        if not self.attached:
            return False
        self._left.clear()
        self._send(wire.AttachRequest(deregister=wire.AttachRequest.Deregister()))
        try:
            async with asyncio.timeout(within):
                return await self._left.wait()
        except TimeoutError:
            return False

    async def drain(self, within: float) -> None:
        """Callers shall leave the instance, which stays registered; returns once they have, or after ``within``."""
        if not self.attached:
            return
        self._drained.clear()
        self._send(wire.AttachRequest(drain=wire.AttachRequest.Drain(wait_ms=round(within * 1000))))
        with suppress(TimeoutError):
            async with asyncio.timeout(within + _TO_AND_FRO):
                await self._drained.wait()

    async def _attach_once(self) -> None:
        channel = unix_channel(self.socket)
        try:
            async with Client(channel, SIDECAR).stream("Attach") as stream:
                outbox: asyncio.Queue[wire.AttachRequest] = asyncio.Queue()
                self._outbox = outbox
                await stream.send_message(self._hello())
                # Vouched processes come back first: an Envoy that asks meanwhile would be refused.
                for vouch in self._vouched.values():
                    outbox.put_nowait(wire.AttachRequest(vouch=vouch))
                sending = asyncio.create_task(_send_all(stream, outbox), name="sidecar-outbox")
                try:
                    while (message := await stream.recv_message()) is not None:
                        self._hear(message)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        finally:
            channel.close()

    def _hello(self) -> wire.AttachRequest:
        return wire.AttachRequest(
            hello=wire.AttachRequest.Hello(
                service=self.service,
                supervisor_key=self.supervisor_key or b"",
                version=vestibule.__version__,
                instance_id=self.instance_id,
            )
        )

    def _hear(self, message: wire.AttachResponse) -> None:
        match message.WhichOneof("step"):
            case "welcome":
                again = "again " if self.spiffe_id is not None else ""
                _log.info("attached to the agent %sas %s", again, message.welcome.spiffe_id)
                self.spiffe_id = message.welcome.spiffe_id
                self.attached, self.problem = True, None
                self._met += 1
                self.welcomes = self._met
                self._announce()
            case "service":
                self.view = view_from_wire(message.service)
            case "taken":
                self.on_taken(message.taken.number)
            case "done":
                self._done(message.done.what)
            case "problem":
                problem = message.problem
                self._complain(_code(problem.code).error(problem.message, advice=problem.advice or None))
                self._pending = False
                self._announce()
            case _:
                # A newer agent may say more than we know; what we know still holds.
                return
        self._tell()

    def _done(self, what: str) -> None:
        if what == "register":
            self.registered = self._instance is not None and self._sent == self._instance
            self._pending = False
            self._announce()
        elif what == "deregister":
            self._left.set()
        elif what == "drain":
            self._drained.set()

    def _announce(self) -> None:
        """Send the instance, one version at a time: a confirmation does not say which one it means."""
        if self.attached and not self._pending and self._instance not in (None, self._sent):
            assert self._instance is not None
            self._sent, self._pending = self._instance, True
            self._send(wire.AttachRequest(register=_register(self._instance)))

    def _complain(self, error: VestibuleError) -> None:
        if self.problem is None or str(self.problem) != str(error):
            _log.warning("agent: %s", error)
        self.problem = error

    def _send(self, message: wire.AttachRequest) -> None:
        if self._outbox is not None:
            self._outbox.put_nowait(message)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def _send_all(stream: Stream, outbox: asyncio.Queue[wire.AttachRequest]) -> None:
    while True:
        await stream.send_message(await outbox.get())


def _register(instance: Instance) -> wire.AttachRequest.Register:
    return wire.AttachRequest.Register(instance=instance_to_wire(instance))


def _code(code: str) -> ErrorCode:
    """The code of a refusal; one that belongs to a room we did not load is shown all the same."""
    return CATALOGUE.get(code) or ErrorCode(
        code=code or "VST9000",
        name="told-by-the-agent",
        kind=Kind.PRECONDITION,
        fault=Fault.OPERATOR,
        meaning="The agent refused a step of the sidecar.",
        advice="Look for the same moment in the agent's log.",
    )
