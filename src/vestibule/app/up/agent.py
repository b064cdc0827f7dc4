"""The agent of a run, and what its supervisor owes it after every start.

A new agent process gets a bundle and a join token to join with (it needs them only if it cannot go on with what it
kept), the keys of the sidecars that are ours, and entries under whatever identity it then has.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import grpclib.client

from vestibule.app.up import commands
from vestibule.app.up.kept import Kept
from vestibule.app.up.operator import Operator
from vestibule.app.up.places import Places
from vestibule.calls.unix import connected_channel
from vestibule.errors import Kind, VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.bundles import to_pem
from vestibule.processes import BoundedFile, Child, Command, Ledger, ReadyLine, Spec
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

READY: Final = "agent ready:"
RETRY_EVERY: Final = 0.1

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Life:
    """What we hold of one agent process: our end of supervision, and where it reads what it joins with."""

    supervision: grpclib.client.Channel
    bundle: int
    token: int

    def feed(self, bundle: bytes, token: bytes) -> None:
        """Give it what it joins with.  Pipes hold 64 KiB unread, which a bundle of a few authorities fits into."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.bundle, bundle)
            os.write(self.token, token)
        self.starve()

    def starve(self) -> None:
        """There is nothing (more) to read."""
        for descriptor in (self.bundle, self.token):
            if descriptor >= 0:
                os.close(descriptor)
        self.bundle = self.token = -1

    def end(self) -> None:
        self.starve()
        self.supervision.close()


class AgentPart:
    """Keeps the agent running and supplied.

    ``joinable`` returns once the server takes new agents.  ``joined`` hears the agent's identity after each start.
    ``keys`` are the sidecars' supervisor keys, each with its service.
    """

    def __init__(
        self,
        places: Places,
        ledger: Ledger,
        operator: Operator,
        *,
        trust_domain: str,
        server_port: int,
        keys: Mapping[bytes, str],
        joinable: Callable[[], Awaitable[None]],
        joined: Callable[[SpiffeId], Awaitable[None]],
        locality: str = "",
    ) -> None:
        self._places = places
        self._operator = operator
        self._trust_domain = trust_domain
        self._server_port = server_port
        self._keys = keys
        self._joinable = joinable
        self._joined = joined
        self._locality = locality
        self._life: _Life | None = None
        self._tending: asyncio.Task[None] | None = None
        spec = Spec(
            name="agent",
            command=self._command,
            ready=ReadyLine(READY),
            log=BoundedFile(places.logs / "agent.log"),
            grace=5.0,
        )
        self.kept = Kept(spec, ledger, on_start=self._started)

    async def run(self) -> None:
        """Keep it running.  Raises: as ``Kept.run``."""
        try:
            await self.kept.run()
        finally:
            if self._tending is not None:
                self._tending.cancel()
                await asyncio.gather(self._tending, return_exceptions=True)
            self._end_life()

    def _command(self) -> Command:
        self._end_life()
        ours, theirs = socket.socketpair()
        (bundle, bundle_in), (token, token_in) = os.pipe(), os.pipe()
        self._life = _Life(supervision=connected_channel(ours), bundle=bundle_in, token=token_in)
        return commands.agent(
            self._places,
            trust_domain=self._trust_domain,
            server_port=self._server_port,
            supervisor=theirs.detach(),
            bundle=bundle,
            token=token,
            locality=self._locality,
        )

    def _started(self, _: Child) -> None:
        if self._tending is not None:
            self._tending.cancel()
        self._tending = asyncio.create_task(self._tend(), name="tend-agent")

    async def _tend(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_insist(self._feed), name="feed-agent")
            tasks.create_task(_insist(self._grant), name="grant-keys")
            tasks.create_task(_insist(self._greet), name="greet-agent")

    async def _feed(self) -> None:
        life = self._life
        assert life is not None
        await self._joinable()
        bundle, token = await self._operator.bundle(), await self._operator.join_token()
        life.feed(to_pem(bundle), token.encode())

    async def _grant(self) -> None:
        assert self._life is not None
        client = Client(self._life.supervision, node_pb2.DESCRIPTOR.services_by_name["Supervisor"])
        for key, service in self._keys.items():
            digest = hashlib.sha256(key).digest()
            await client.unary("Grant", node_pb2.GrantRequest(key_sha256=digest, service=service))

    async def _greet(self) -> None:
        await self.kept.became_ready()
        # The line names the agent's SPIFFE ID first, then its socket.
        await self._joined(SpiffeId.parse(self.kept.ready_line.removeprefix(READY).split()[0]))

    def _end_life(self) -> None:
        if self._life is not None:
            self._life.end()
            self._life = None


async def _insist(step: Callable[[], Awaitable[None]]) -> None:
    """Take a step, again and again while the other side is away; the end of the agent's life ends this, too."""
    while True:
        try:
            await step()
        except VestibuleError as error:
            if error.code.kind is not Kind.UNAVAILABLE:
                _log.error("tending the agent: %s (%s)", error, error.advice)
                return
            _log.info("tending the agent: %s", error)
            await asyncio.sleep(RETRY_EVERY)
        else:
            return
