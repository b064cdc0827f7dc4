"""Trust domains side by side in one process: real servers with bundle endpoints, real agents, real sockets."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.component.server_lab import short_directory
from tests.ports import free_port

from vestibule.agent.bootstrap import FirstTrust
from vestibule.app.agent import AgentSettings, run_agent
from vestibule.app.server import Ready, run_server
from vestibule.app.server_settings import ServerSettings
from vestibule.calls.unix import unix_channel
from vestibule.net.grpc import Client
from vestibule.pki.bundles import to_jwks
from vestibule.processes import Shutdown
from vestibule.records import Address
from vestibule.spiffe import JwtAuthority, SpiffeId, TrustBundle, TrustDomain
from vestibule.wire.gen.spire import (
    agent_pb2,
    bundle_pb2,
    entry_pb2,
    svid_pb2,
    trustdomain_pb2,
    types_pb2,
)
from vestibule.wire.gen.vestibule.admin.v1 import federation_pb2

ME = f"unix:uid:{os.geteuid()}"
FAST: dict[str, Any] = {
    "federation_permit_local": True,
    "federation_shortest_refresh": timedelta(seconds=1),
}


@dataclass
class Domain:
    """One trust domain: its server, which can be stopped and started again on the same ports, and its agents."""

    name: str
    directory: Path
    options: dict[str, Any] = field(default_factory=dict)
    # Not ones that the kernel gives away while the server is down.
    port: int = field(default_factory=free_port)
    endpoint_port: int = field(default_factory=free_port)
    ready: Ready | None = None
    serving: asyncio.Task[None] | None = None
    shutdown: Shutdown = field(default_factory=Shutdown)
    agents: list[tuple[asyncio.Task[None], Shutdown]] = field(default_factory=list)

    @property
    def trust_domain(self) -> TrustDomain:
        return TrustDomain.parse(self.name)

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "server.sock"

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.endpoint_port}/"

    @property
    def server_id(self) -> str:
        return f"spiffe://{self.name}/spire/server"

    async def start(self) -> None:
        settings = ServerSettings(
            trust_domain=self.trust_domain,
            data_dir=self.directory / "data",
            socket_path=self.socket,
            bind_address="127.0.0.1",
            bind_port=self.port,
            health_port=None,
            federation_bundle_endpoint_address="127.0.0.1",
            federation_bundle_endpoint_port=self.endpoint_port,
            drain=timedelta(seconds=1),
            **(FAST | self.options),
        )
        ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self.shutdown = Shutdown()
        self.serving = asyncio.create_task(
            run_server(settings, on_ready=ready.set_result, shutdown=self.shutdown)
        )
        await either(self.serving, ready)
        if self.serving.done():
            await self.serving
        self.ready = ready.result()

    async def stop(self) -> None:
        if self.serving is not None:
            self.shutdown.request()
            await asyncio.wait_for(self.serving, 60)
            self.serving = None

    async def call(self, descriptor: Any, service: str, method: str, request: Any) -> Any:
        channel = unix_channel(self.socket)
        try:
            return await Client(channel, descriptor.services_by_name[service]).unary(method, request)
        finally:
            channel.close()

    async def bundles(self, method: str, request: Any) -> Any:
        return await self.call(bundle_pb2.DESCRIPTOR, "Bundle", method, request)

    async def domains(self, method: str, request: Any) -> Any:
        return await self.call(trustdomain_pb2.DESCRIPTOR, "TrustDomain", method, request)

    async def own(self) -> types_pb2.Bundle:
        return await self.bundles("GetBundle", bundle_pb2.GetBundleRequest())  # type: ignore[no-any-return]

    async def bundle(self) -> TrustBundle:
        return value_of(await self.own())

    async def federated(self, partner: Domain) -> types_pb2.Bundle:
        request = bundle_pb2.GetFederatedBundleRequest(trust_domain=partner.name)
        return await self.bundles("GetFederatedBundle", request)  # type: ignore[no-any-return]

    async def federate(self, partner: Domain, *, web: bool = False, bundle: bool = True) -> None:
        relationship = types_pb2.FederationRelationship(
            trust_domain=partner.name, bundle_endpoint_url=partner.url
        )
        if web:
            relationship.https_web.SetInParent()
        else:
            relationship.https_spiffe.endpoint_spiffe_id = partner.server_id
            if bundle:
                relationship.trust_domain_bundle.CopyFrom(await partner.own())
        request = trustdomain_pb2.BatchCreateFederationRelationshipRequest(
            federation_relationships=[relationship]
        )
        answer = await self.domains("BatchCreateFederationRelationship", request)
        assert answer.results[0].status.code == 0, answer.results[0].status.message

    async def status(self, partner: Domain) -> federation_pb2.RelationshipStatus:
        answer = await self.call(
            federation_pb2.DESCRIPTOR,
            "FederationAdmin",
            "GetFederationStatus",
            federation_pb2.GetFederationStatusRequest(),
        )
        [line] = [each for each in answer.relationships if each.trust_domain == partner.name]
        return line  # type: ignore[no-any-return]

    async def entry(self, agent: SpiffeId, path: str, *federates_with: str, **fields: Any) -> str:
        kind, _, value = ME.partition(":")
        entry = types_pb2.Entry(
            spiffe_id=types_pb2.SPIFFEID(trust_domain=self.name, path=path),
            parent_id=types_pb2.SPIFFEID(trust_domain=self.name, path=agent.path),
            selectors=[types_pb2.Selector(type=kind, value=value)],
            federates_with=federates_with,
            **fields,
        )
        request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
        answer = await self.call(entry_pb2.DESCRIPTOR, "Entry", "BatchCreateEntry", request)
        assert answer.results[0].status.code == 0, answer.results[0].status.message
        return str(answer.results[0].entry.id)

    async def update_entry(self, entry_id: str, *federates_with: str) -> None:
        request = entry_pb2.BatchUpdateEntryRequest(
            entries=[types_pb2.Entry(id=entry_id, federates_with=federates_with)],
            input_mask=types_pb2.EntryMask(federates_with=True),
        )
        answer = await self.call(entry_pb2.DESCRIPTOR, "Entry", "BatchUpdateEntry", request)
        assert answer.results[0].status.code == 0, answer.results[0].status.message

    async def mint_jwt(self, path: str, audience: str) -> str:
        request = svid_pb2.MintJWTSVIDRequest(
            id=types_pb2.SPIFFEID(trust_domain=self.name, path=path), audience=[audience]
        )
        answer = await self.call(svid_pb2.DESCRIPTOR, "SVID", "MintJWTSVID", request)
        return str(answer.svid.token)

    @property
    def agent_socket(self) -> Path:
        return self.directory / "agent.sock"

    @property
    def agent_address(self) -> str:
        return f"unix://{self.agent_socket}"

    async def agent(self) -> SpiffeId:
        """An agent that has joined; it can be stopped and started again."""
        token = self.directory / f"token-{time.monotonic_ns()}"
        request = agent_pb2.CreateJoinTokenRequest(ttl=600)
        answer = await self.call(agent_pb2.DESCRIPTOR, "Agent", "CreateJoinToken", request)
        token.touch(0o600)
        token.write_text(answer.value + "\n")
        bundle = self.directory / "own.json"
        bundle.write_bytes(to_jwks(await self.bundle()))
        return await self.restart_agent(join_token_file=token, first_trust=FirstTrust(bundle_file=bundle))

    async def restart_agent(self, **given: Any) -> SpiffeId:
        """Again, with what it has on disk."""
        settings = AgentSettings(
            trust_domain=self.trust_domain,
            server=Address(host="127.0.0.1", port=self.port),
            data_dir=self.directory / "agent",
            socket_path=self.agent_socket,
            admin_socket_path=self.directory / "agent-admin.sock",
            **given,
        )
        ready: asyncio.Future[SpiffeId] = asyncio.get_running_loop().create_future()
        shutdown = Shutdown()
        task = asyncio.create_task(run_agent(settings, on_ready=ready.set_result, shutdown=shutdown))
        self.agents.append((task, shutdown))
        await either(task, ready)
        if task.done():
            await task
        return ready.result()

    async def stop_agents(self) -> None:
        for task, shutdown in self.agents:
            if not task.done():
                shutdown.request()
                await asyncio.wait_for(task, 60)
        self.agents.clear()


async def either(*futures: asyncio.Future[Any]) -> None:
    async with asyncio.timeout(60):
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def value_of(message: types_pb2.Bundle) -> TrustBundle:
    return TrustBundle(
        trust_domain=TrustDomain.parse(message.trust_domain),
        x509_authorities=tuple(each.asn1 for each in message.x509_authorities),
        jwt_authorities=tuple(
            JwtAuthority(key_id=each.key_id, public_key=each.public_key) for each in message.jwt_authorities
        ),
        sequence=message.sequence_number,
        refresh_hint=message.refresh_hint,
    )


@asynccontextmanager
async def domains(**options: dict[str, Any]) -> AsyncIterator[list[Domain]]:
    """A trust domain ``NAME.org`` for each keyword, running."""
    with short_directory() as directory:
        made = [Domain(f"{name}.org", directory / name, given) for name, given in options.items()]
        try:
            for each in made:
                each.directory.mkdir()
                await each.start()
            yield made
        finally:
            for each in made:
                await each.stop_agents()
                await each.stop()


async def until(holds: Callable[[], Awaitable[Any]], within: float = 90.0) -> Any:
    """What ``holds`` gives once it is true; polled with a deadline."""
    async with asyncio.timeout(within):
        while not (found := await holds()):
            await asyncio.sleep(0.05)
        return found
