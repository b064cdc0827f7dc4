"""A real server in this process, on free ports with real TLS, and the clients that talk to it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.app.server import Ready, run_server
from vestibule.app.server_settings import ServerSettings
from vestibule.calls.channel import ServerChannel
from vestibule.calls.unix import unix_channel
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.chains import leaf_facts
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.processes import Shutdown
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.wire.gen.spire import agent_pb2, bundle_pb2, entry_pb2, svid_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

DOMAIN = TrustDomain.parse("example.org")


def wire_id(spiffe_id: SpiffeId | str) -> types_pb2.SPIFFEID:
    """An ID, or a path in the server's trust domain, as SPIRE's messages hold it."""
    if isinstance(spiffe_id, str):
        return types_pb2.SPIFFEID(trust_domain=str(DOMAIN), path=spiffe_id)
    return types_pb2.SPIFFEID(trust_domain=str(spiffe_id.trust_domain), path=spiffe_id.path)


def wire_entry(
    path: str, parent: SpiffeId | str, selector: str = "unix:uid:1", **fields: Any
) -> types_pb2.Entry:
    kind, _, value = selector.partition(":")
    return types_pb2.Entry(
        spiffe_id=wire_id(path),
        parent_id=wire_id(parent),
        selectors=[types_pb2.Selector(type=kind, value=value)],
        **fields,
    )


class Calls:
    """The server's services over one channel."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.agents = Client(channel, agent_pb2.DESCRIPTOR.services_by_name["Agent"])
        self.entries = Client(channel, entry_pb2.DESCRIPTOR.services_by_name["Entry"])
        self.svids = Client(channel, svid_pb2.DESCRIPTOR.services_by_name["SVID"])
        self.bundles = Client(channel, bundle_pb2.DESCRIPTOR.services_by_name["Bundle"])
        self.node = Client(channel, node_pb2.DESCRIPTOR.services_by_name["Node"])
        self.admin = Client(channel, admin_pb2.DESCRIPTOR.services_by_name["ServerAdmin"])


class Agent(Calls):
    """An agent by hand: a key, an SVID, a connection."""

    def __init__(self, lab: Lab, svid: X509Svid | None, bundle: TrustBundle) -> None:
        self.svid, self.bundle = svid, bundle
        address = Address.parse(lab.ready.grpc)
        super().__init__(
            ServerChannel(address, bundle=lambda: self.bundle, svid=lambda: self.svid, clock=SystemClock())
        )

    @property
    def id(self) -> SpiffeId:
        assert self.svid is not None
        return self.svid.spiffe_id

    async def attest(self, token: str, csr: bytes | None = None) -> X509Svid:
        key = generate_key()
        request = agent_pb2.AttestAgentRequest(
            params=agent_pb2.AttestAgentRequest.Params(
                data=types_pb2.AttestationData(type="join_token", payload=token.encode()),
                params=agent_pb2.AgentX509SVIDParams(csr=csr or make_csr(key)),
            )
        )
        async with self.agents.stream("AttestAgent", timeout=45) as stream:
            await stream.send_message(request)
            answer = await stream.recv_message()
            await stream.end()
        assert answer is not None
        return svid_of(answer.result.svid.cert_chain, key)

    async def renew(self) -> X509Svid:
        key = generate_key()
        request = agent_pb2.RenewAgentRequest(params=agent_pb2.AgentX509SVIDParams(csr=make_csr(key)))
        answer = await self.agents.unary("RenewAgent", request)
        return svid_of(answer.svid.cert_chain, key)

    def use(self, svid: X509Svid) -> None:
        """Connect with another SVID from now on."""
        self.svid = svid
        self.channel.renew()

    async def new_svid(self, entry_id: str, csr: bytes | None = None) -> Any:
        params = [svid_pb2.NewX509SVIDParams(entry_id=entry_id, csr=csr or make_csr(generate_key()))]
        request = svid_pb2.BatchNewX509SVIDRequest(params=params)
        return (await self.svids.unary("BatchNewX509SVID", request)).results[0]


def svid_of(chain: Any, key: EllipticCurvePrivateKey) -> X509Svid:
    facts = leaf_facts(chain[0])
    return X509Svid(
        spiffe_id=facts.spiffe_id,
        chain=tuple(chain),
        key=key_to_pkcs8(key),
        serial=int(facts.serial),
        not_before=facts.not_before,
        not_after=facts.not_after,
    )


@dataclass
class Lab:
    """One running server."""

    ready: Ready
    shutdown: Shutdown
    serving: asyncio.Task[None]
    operator: Calls
    directory: Path
    channels: list[Any] = field(default_factory=list)

    async def bundle(self) -> TrustBundle:
        answer = await self.operator.bundles.unary("GetBundle", bundle_pb2.GetBundleRequest())
        return TrustBundle(
            trust_domain=DOMAIN,
            x509_authorities=tuple(each.asn1 for each in answer.x509_authorities),
            sequence=answer.sequence_number,
        )

    async def stranger(self, svid: X509Svid | None = None) -> Agent:
        """A client with any SVID, or none."""
        agent = Agent(self, svid, await self.bundle())
        self.channels.append(agent.channel)
        return agent

    async def token(self, token: str = "", ttl: int = 600) -> str:
        request = agent_pb2.CreateJoinTokenRequest(ttl=ttl, token=token)
        return str((await self.operator.agents.unary("CreateJoinToken", request)).value)

    async def agent(self) -> Agent:
        """An agent that has joined."""
        agent = await self.stranger()
        agent.use(await agent.attest(await self.token()))
        return agent

    async def create(self, *entries: types_pb2.Entry) -> list[Any]:
        request = entry_pb2.BatchCreateEntryRequest(entries=entries)
        return list((await self.operator.entries.unary("BatchCreateEntry", request)).results)

    async def entry(self, path: str, parent: SpiffeId | str, **fields: Any) -> str:
        [result] = await self.create(wire_entry(path, parent, **fields))
        assert result.status.code == 0, result.status.message
        return str(result.entry.id)


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a socket's name."""
    directory = Path(tempfile.mkdtemp(prefix="vs-", dir="/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def settings_in(directory: Path, **given: Any) -> ServerSettings:
    values: dict[str, Any] = {
        "trust_domain": DOMAIN,
        "data_dir": directory / "data",
        "socket_path": directory / "run" / "server.sock",
        "bind_address": "127.0.0.1",
        "bind_port": 0,
        "health_port": 0,
        "drain": timedelta(seconds=2),
    }
    return ServerSettings(**(values | given))


@asynccontextmanager
async def running(directory: Path, **given: Any) -> AsyncIterator[Lab]:
    """A server, from ready until the block ends; its own failure is raised."""
    shutdown, ready = Shutdown(), asyncio.get_running_loop().create_future()
    settings = settings_in(directory, **given)
    serving = asyncio.create_task(run_server(settings, on_ready=ready.set_result, shutdown=shutdown))
    async with asyncio.timeout(60):
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        await serving
    lab = Lab(ready.result(), shutdown, serving, Calls(unix_channel(settings.socket_path)), directory)
    try:
        yield lab
    finally:
        for channel in (lab.operator.channel, *lab.channels):
            channel.close()
        shutdown.request()
        async with asyncio.timeout(60):
            await serving


def grpc_error(error: VestibuleError) -> GRPCError:
    """What came over the wire."""
    cause = error.__cause__
    assert isinstance(cause, GRPCError)
    return cause


def denial_reason(error: VestibuleError) -> int:
    """The reason in ``PermissionDeniedDetails``, as SPIRE's agents read it."""
    cause = grpc_error(error)
    assert cause.status is Status.PERMISSION_DENIED
    name = types_pb2.PermissionDeniedDetails.DESCRIPTOR.full_name
    [packed] = [value for kind, value in cause.details or () if kind == name]
    return types_pb2.PermissionDeniedDetails.FromString(packed).reason
