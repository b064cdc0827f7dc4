"""A sidecar at the agent's public socket: real sockets, real processes, a server that is a double."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3 import als_pb2

from vestibule.agent.sidecars import Checks, Grants, Sidecars, ViewCache
from vestibule.attest.workload.supervised import Vouched, is_descendant
from vestibule.calls.app_checks import ask
from vestibule.calls.unix import unix_channel
from vestibule.doors.access_entries import Reporter
from vestibule.doors.als import SERVICE as ACCESS_LOGS
from vestibule.doors.als import AccessLogDoor
from vestibule.doors.sidecar_api import SERVICE as SIDECAR
from vestibule.doors.sidecar_api import SidecarDoor
from vestibule.errors import Kind, VestibuleError
from vestibule.net.grpc import Client, Stream
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.peer import Peer, ProcessHandle, peer_of
from vestibule.net.unix import PUBLIC, listen_unix
from vestibule.observe.access_log import AccessLog
from vestibule.records import Instance, Lease, PortView, PrintedUse, ServiceView
from vestibule.spiffe import Selector, SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import node_pb2 as wire

WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
KEY = b"k" * 32


class Upstream:
    """The server's part: one service, and whatever is registered."""

    def __init__(self) -> None:
        self.instances: dict[str, Instance] = {}
        self.drained: list[str] = []

    async def describe(self, spiffe_id: SpiffeId) -> ServiceView | None:
        return ServiceView(
            service="web",
            spiffe_id=spiffe_id,
            ports=(PortView(name="http", protocol="http"),),
            upstreams=(),
            intent_version="v",
            mesh="shop",
            environment="prod",
        )

    async def register(self, instance: Instance, state: bytes) -> float:
        self.instances[instance.id] = instance
        return 30.0

    async def renew(self, leases: Iterable[Lease]) -> tuple[float, frozenset[str]]:
        return 30.0, frozenset()

    async def drain(self, instance_id: str, spiffe_id: SpiffeId, within: float) -> int:
        self.drained.append(instance_id)
        return 0

    async def deregister(self, instance_id: str, spiffe_id: SpiffeId) -> None:
        self.instances.pop(instance_id, None)


class Agent:
    """The doors under test on a socket of their own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "agent.sock"
        self.upstream = Upstream()
        self.vouched = Vouched(ProcessHandle)
        self.grants = Grants()
        self.grants.grant(hashlib.sha256(KEY).digest(), "web")
        self.access_log = AccessLog(directory / "access.jsonl")
        self.sidecars = Sidecars(
            upstream=self.upstream,
            identities=lambda selectors: [WEB] if Selector("supervised", "service:web") in selectors else [],
            vouched=self.vouched,
            is_descendant=partial(is_descendant, ProcessHandle),
            views=ViewCache(directory / "views.json"),
            checks=Checks(ask),
        )

    async def attest(self, peer: Peer) -> frozenset[Selector]:
        return frozenset({Selector("unix", f"uid:{peer.uid}")})

    def reporter_of(self, stream: Stream) -> Reporter:
        peer = peer_of(stream)
        session = self.sidecars.session_of((peer.pid, peer.start_time))
        return Reporter(session.service, str(session.spiffe_id), session.instance_id)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        doors = [
            SidecarDoor(self.sidecars, self.grants, self.attest).servable(),
            AccessLogDoor(self.reporter_of, self.access_log).servable(),
        ]
        server = GrpcServer(doors)
        listener = listen_unix(self.path, PUBLIC)
        await server.listen(listener.sock)
        try:
            yield
        finally:
            await server.close()
            listener.close()

    @asynccontextmanager
    async def attached(self, instance_id: str = "i-1", **hello: Any) -> AsyncIterator[Stream]:
        channel = unix_channel(self.path)
        try:
            async with Client(channel, SIDECAR).stream("Attach", timeout=45) as stream:
                said = wire.AttachRequest.Hello(service="web", instance_id=instance_id, **hello)
                await stream.send_message(wire.AttachRequest(hello=said))
                yield stream
                await stream.cancel()
        finally:
            channel.close()


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    with tempfile.TemporaryDirectory(prefix="vst") as directory:
        agent = Agent(Path(directory))
        async with agent.serving():
            yield agent


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def start_time(pid: int) -> int:
    handle = ProcessHandle(pid)
    try:
        return handle.start_time
    finally:
        handle.close()


def vouch(pid: int, role: str = "envoy") -> wire.AttachRequest:
    return wire.AttachRequest(vouch=wire.AttachRequest.Vouch(pid=pid, start_time=start_time(pid), role=role))


async def until_gone(agent: Agent) -> None:
    async with asyncio.timeout(60):
        while agent.sidecars.sessions:
            await asyncio.sleep(0.01)


async def test_a_granted_key_is_welcomed_and_its_envoy_becomes_a_known_proxy(
    agent: Agent, child: subprocess.Popen[bytes]
) -> None:
    async with agent.attached(supervisor_key=KEY) as stream:
        assert (await stream.recv_message()).welcome.spiffe_id == str(WEB)
        assert (await stream.recv_message()).service.ports[0].name == "http"
        await stream.send_message(vouch(child.pid))
        assert (await stream.recv_message()).done.what == "vouch"
        process = (child.pid, start_time(child.pid))
        assert agent.sidecars.proxy_of(process).spiffe_id == WEB
        instance = wire.Instance(id="i-1", service="web", ingress={"http": "127.0.0.1:7001"})
        await stream.send_message(wire.AttachRequest(register=wire.AttachRequest.Register(instance=instance)))
        assert (await stream.recv_message()).done.what == "register"
        assert agent.upstream.instances["i-1"].spiffe_id == WEB
    await until_gone(agent)
    assert agent.upstream.instances == {}
    with pytest.raises(VestibuleError):
        agent.sidecars.proxy_of(process)


async def test_a_wrong_key_is_refused_with_a_code_and_without_the_key(agent: Agent) -> None:
    with pytest.raises(VestibuleError) as caught:
        async with agent.attached(supervisor_key=b"guess" * 7) as stream:
            await stream.recv_message()
    assert caught.value.code.code == "VST2130"
    assert "guess" not in str(caught.value)


async def test_without_a_key_the_kernel_attests_and_the_reason_names_what_it_found(agent: Agent) -> None:
    async with agent.attached() as stream:
        problem = (await stream.recv_message()).problem
        assert problem.code == "VST2131"
        assert f"unix:uid:{os.getuid()}" in problem.message


async def test_a_process_that_the_sidecar_did_not_start_is_not_vouched_for(agent: Agent) -> None:
    async with agent.attached(supervisor_key=KEY) as stream:
        await stream.recv_message(), await stream.recv_message()
        await stream.send_message(vouch(os.getppid()))
        assert (await stream.recv_message()).problem.code == "VST2132"
        bad = wire.Instance(id="i-1", service="web", ingress={"http": "nowhere"})
        await stream.send_message(wire.AttachRequest(register=wire.AttachRequest.Register(instance=bad)))
        assert (await stream.recv_message()).problem.code == "VST2134"


async def test_a_stranger_who_names_a_service_cannot_make_his_processes_that_service(
    agent: Agent, child: subprocess.Popen[bytes]
) -> None:
    handle = ProcessHandle(child.pid)
    async with agent.attached() as stream:  # no key, and no entry for what the kernel attests
        assert (await stream.recv_message()).problem.code == "VST2131"
        await stream.send_message(vouch(child.pid))
        await stream.send_message(wire.AttachRequest(deregister=wire.AttachRequest.Deregister()))
        assert (await stream.recv_message()).done.what == "deregister"
        assert agent.vouched.selectors_for(handle) == frozenset()
        with pytest.raises(VestibuleError):
            agent.sidecars.session_of((handle.pid, handle.start_time))
    handle.close()


async def test_who_floods_the_agent_and_reads_nothing_is_cut_off(agent: Agent) -> None:
    with pytest.raises(VestibuleError) as caught:  # noqa: PT012
        async with agent.attached(supervisor_key=KEY) as stream:
            stranger = vouch(os.getppid())
            for _ in range(20_000):
                await stream.send_message(stranger)
            while await stream.recv_message() is not None:
                pass
    assert caught.value.code.code in ("VST2134", "VST2300")


@pytest.mark.parametrize("instance_id", ["a\nb", "ü", "../x", "x" * 129, " "])
async def test_an_instance_id_that_no_stream_could_carry_is_refused(agent: Agent, instance_id: str) -> None:
    with pytest.raises(VestibuleError) as caught:
        async with agent.attached(instance_id=instance_id, supervisor_key=KEY) as stream:
            await stream.recv_message()
    assert caught.value.code.code == "VST2134"


async def test_who_does_not_say_hello_first_is_out_of_step(agent: Agent) -> None:
    channel = unix_channel(agent.path)
    try:
        with pytest.raises(VestibuleError) as caught:  # noqa: PT012
            async with Client(channel, SIDECAR).stream("Attach", timeout=45) as stream:
                await stream.send_message(wire.AttachRequest(deregister=wire.AttachRequest.Deregister()))
                await stream.recv_message()
        assert caught.value.code.code == "VST2134"
    finally:
        channel.close()


async def test_access_logs_of_a_stranger_are_not_taken_whatever_they_claim(agent: Agent) -> None:
    channel = unix_channel(agent.path)
    message = als_pb2.StreamAccessLogsMessage()
    message.identifier.node.id = "web"
    message.identifier.log_name = "vestibule/inbound/web/http"
    message.http_logs.log_entry.append(HTTPAccessLogEntry())
    try:
        with pytest.raises(VestibuleError) as caught:  # noqa: PT012
            async with Client(channel, ACCESS_LOGS).stream("StreamAccessLogs", timeout=45) as stream:
                await stream.send_message(message, end=True)
                await stream.recv_message()
        assert caught.value.code.code == "VST2133"
        assert not agent.access_log.edges
    finally:
        channel.close()


async def test_a_stopping_agent_ends_the_stream_as_unavailable(agent: Agent) -> None:
    other = Agent(agent.path.parent)
    other.path = agent.path.with_name("b.sock")
    serving = other.serving()
    await serving.__aenter__()
    with pytest.raises(VestibuleError) as caught:  # noqa: PT012
        async with other.attached(supervisor_key=KEY) as stream:
            await stream.recv_message(), await stream.recv_message()
            await serving.__aexit__(None, None, None)
            while await stream.recv_message() is not None:
                pass
    assert caught.value.code.kind is Kind.UNAVAILABLE


async def test_a_sidecar_that_stops_is_answered_once_its_callers_have_left(agent: Agent) -> None:
    async with agent.attached(supervisor_key=KEY) as stream:
        await stream.recv_message(), await stream.recv_message()
        instance = wire.Instance(id="i-1", service="web", apps={"http": "127.0.0.1:7002"})
        await stream.send_message(wire.AttachRequest(register=wire.AttachRequest.Register(instance=instance)))
        assert (await stream.recv_message()).done.what == "register"
        await stream.send_message(wire.AttachRequest(drain=wire.AttachRequest.Drain(wait_ms=100)))
        assert (await stream.recv_message()).done.what == "drain"
        assert agent.upstream.drained == ["i-1"]


class Uses:
    """Where uses of break-glass go."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, SpiffeId, str, PrintedUse]] = []

    async def take(
        self, service: str, spiffe_id: SpiffeId, instance_id: str, uses: Sequence[PrintedUse]
    ) -> None:
        self.taken += [(service, spiffe_id, instance_id, use) for use in uses]


def used(rule: str = "break-glass/k7f2m9qa") -> wire.AttachRequest:
    use = wire.PrintedUse(rule=rule, time=1, caller="spiffe://example.org/orders", port="http", count=1)
    return wire.AttachRequest(uses=wire.AttachRequest.Uses(number=7, uses=[use]))


async def test_what_its_proxy_printed_is_taken_under_the_identity_that_was_attested(agent: Agent) -> None:
    uses = agent.sidecars.uses = Uses()
    async with agent.attached(supervisor_key=KEY) as stream:
        await stream.recv_message(), await stream.recv_message()
        await stream.send_message(used())
        assert (await stream.recv_message()).taken.number == 7
        await stream.send_message(used("payments/all"))
        assert (await stream.recv_message()).problem.code == "VST2134"
    ((service, spiffe_id, instance_id, use),) = uses.taken
    assert (service, spiffe_id, instance_id) == ("web", WEB, "i-1")
    assert use.caller == "spiffe://example.org/orders"


async def test_who_speaks_for_no_service_cannot_tell_of_its_uses(agent: Agent) -> None:
    uses = agent.sidecars.uses = Uses()
    async with agent.attached() as stream:
        assert (await stream.recv_message()).problem.code == "VST2131"
        await stream.send_message(used())
        assert (await stream.recv_message()).problem.code == "VST2134"
    assert not uses.taken
