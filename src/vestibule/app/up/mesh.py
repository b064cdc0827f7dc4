"""A whole mesh on this machine: server, agent, and a sidecar with its app for each instance.

Everything is started at once, since most of a start is loading code; each part waits for what it needs.  What
dies is started again.  The end is in order: sidecars leave and drain, then the agent, then the server.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, Final

from vestibule.app.up import commands
from vestibule.app.up.agent import AgentPart
from vestibule.app.up.kept import Kept
from vestibule.app.up.operator import Operator
from vestibule.app.up.places import Places
from vestibule.app.up.plan import InstancePlan, Plan
from vestibule.app.up.sidecars import SidecarPart
from vestibule.app.up.timeline import Timeline
from vestibule.cli.run_state import RunState
from vestibule.errors import VestibuleError
from vestibule.pki.bundles import to_pem
from vestibule.processes import BoundedFile, Ledger, ReadyLine, Spec, procfs, reserve, reserve_preferably
from vestibule.spiffe import SpiffeId

SERVER_READY: Final = "vestibule server ready:"
SECRETS_PORT: Final = 8200
TOKENS_PORT: Final = 8300


class Mesh:
    """``run`` starts and holds it; ``ready`` is set once every instance takes calls."""

    def __init__(self, plan: Plan, places: Places, ledger: Ledger, timeline: Timeline) -> None:
        self.plan = plan
        self.places = places
        self.timeline = timeline
        self.ready = asyncio.Event()
        self.entry_ids: dict[str, str] = {}
        self.operator = Operator(places.server_socket)
        self._agent_id: SpiffeId | None = None
        self._registered = asyncio.Event()
        # All of them held, since server and Envoy may share them: a server comes back at the port where its agent
        # looks for it, and the sidecars that start beside it choose others.
        self._port, self._health = reserve(commands.HOST), reserve(commands.HOST)
        self._secrets = reserve_preferably(commands.HOST, SECRETS_PORT)
        self._tokens = reserve_preferably(commands.HOST, TOKENS_PORT)
        self.server = Kept(self._server_spec(), ledger)
        self.sidecars = tuple(
            SidecarPart(places, ledger, instance, plan.directory) for instance in plan.instances
        )
        self.gateways = tuple(
            SidecarPart(places, ledger, InstancePlan(name=name, service=name), plan.directory)
            for name in plan.gateways
        )
        self._agent = AgentPart(
            places,
            ledger,
            self.operator,
            trust_domain=plan.intent.mesh.trust_domain.name,
            server_port=self._port.port,
            keys={each.key: each.service for each in self.proxies},
            joinable=self.server.became_ready,
            joined=self._register,
            locality=plan.locality,
        )

    @property
    def agent(self) -> Kept:
        return self._agent.kept

    @property
    def parts(self) -> tuple[Kept, ...]:
        """Every supervised process, in the order in which they depend on each other."""
        return (self.server, self.agent, *(each.kept for each in self.proxies))

    @property
    def proxies(self) -> tuple[SidecarPart, ...]:
        """The sidecars of services, and the gateways."""
        return (*self.sidecars, *self.gateways)

    @property
    def access_log(self) -> Path:
        """Where the agent keeps the access records of all proxies."""
        return self.places.agent_data / "access.jsonl"

    def sidecar_of(self, service: str) -> SidecarPart:
        """The first instance of a service."""
        return next(each for each in self.sidecars if each.service == service)

    def announce(self) -> None:
        """Leave a note for the other commands.  It is written before anything is started, also for our successor."""
        RunState(
            pid=os.getpid(),
            start_time=procfs.start_time(os.getpid()) or 0,
            intent=self.plan.directory,
            runtime=self.places.runtime,
            server_socket=self.places.server_socket,
            agent_socket=self.places.agent_socket,
            admin_socket=self.places.admin_socket,
            access_log=self.access_log,
            trust_bundle=self.places.trust_bundle,
            server_address=f"{commands.HOST}:{self._port.port}",
            health_address=f"{commands.HOST}:{self._health.port}",
            secrets_address=f"{commands.HOST}:{self._secrets.port}",
            tokens_address=f"{commands.HOST}:{self._tokens.port}",
        ).write(self.places.state)

    async def run(self) -> None:
        """Hold everything until ``stop``.  Raises: what keeps a part from ever being ready (VST70nn, VST73nn)."""
        self.announce()
        try:
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(self._wait_until_ready(), name="wait-until-ready")
                running = [
                    tasks.create_task(self.server.run(), name="server"),
                    tasks.create_task(self._agent.run(), name="agent"),
                    *(tasks.create_task(each.kept.run(), name=each.kept.name) for each in self.proxies),
                ]
                await asyncio.wait(running)
                waiting.cancel()
        except BaseExceptionGroup as errors:
            raise first_foreseen(errors) from None
        finally:
            self.operator.close()
            for each in (self._port, self._health, self._secrets, self._tokens):
                each.release()

    async def stop(self) -> None:
        """End everything in order."""
        await asyncio.gather(*(each.kept.stop() for each in self.proxies))
        await self.agent.stop()
        await self.server.stop()

    def kill(self) -> None:
        """End everything now."""
        for part in reversed(self.parts):
            part.kill()

    async def _wait_until_ready(self) -> None:
        await self.server.became_ready()
        self.timeline.reached("server")
        self.places.trust_bundle.write_bytes(to_pem(await self.operator.bundle()))
        await self.agent.became_ready()
        self.timeline.reached("agent")
        await self._registered.wait()
        self.timeline.reached("entries")
        for each in self.proxies:
            await each.kept.became_ready()
        self.timeline.reached("sidecars")
        self.ready.set()

    async def _register(self, agent: SpiffeId) -> None:
        """Entries for the agent as which it joined; after a mere restart there is nothing to do.

        An agent that goes on with what it kept is ready before the server is.
        """
        if agent == self._agent_id:
            return
        await self.server.became_ready()
        self.entry_ids = await self.operator.register(agent, self.plan.identities)
        self._agent_id = agent
        self._registered.set()
        await self.operator.remove_agents_except(agent)

    def _server_spec(self) -> Spec:
        command = commands.server(
            self.places,
            trust_domain=self.plan.intent.mesh.trust_domain.name,
            intent=self.plan.committed or self.plan.directory,
            chosen=self.plan.environment,
            port=self._port.port,
            health_port=self._health.port,
            secrets_port=self._secrets.port,
            tokens_port=self._tokens.port,
        )
        return Spec(
            name="server",
            command=lambda: command,
            ready=ReadyLine(SERVER_READY),
            # It reads the whole intent before: ten thousand rules take a busy machine long.
            ready_within=120.0,
            attempts=1,
            log=BoundedFile(self.places.logs / "server.log"),
            grace=10.0,
        )


def first_foreseen(errors: BaseExceptionGroup[Any]) -> BaseException:
    """The error to show for a group: a foreseen one, unless something unforeseen happened."""
    foreseen, others = errors.split(VestibuleError)
    if foreseen is None or others is not None:
        return errors
    error = foreseen.exceptions[0]
    return first_foreseen(error) if isinstance(error, BaseExceptionGroup) else error
