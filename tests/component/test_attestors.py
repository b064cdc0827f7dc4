"""A real agent that proves its node to a real server in other ways than by a join token."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.component.server_lab import DOMAIN, Calls, wire_entry
from tests.unit.attest.node.clouds import Amazon, Company, new_key

from vestibule.agent.bootstrap import FirstTrust
from vestibule.app.agent import AgentSettings, run_agent
from vestibule.app.attestor_choices import choices_of, parse_choice
from vestibule.app.server import Ready, run_server
from vestibule.app.server_settings import ServerSettings
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi
from vestibule.errors import VestibuleError
from vestibule.processes import Shutdown
from vestibule.records import Address
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.spire import agent_pb2, entry_pb2


@pytest.fixture
def directory() -> Any:
    with tempfile.TemporaryDirectory(prefix="va-") as path:
        yield Path(path)


@asynccontextmanager
async def running(start: Callable[[Callable[[Any], None], Shutdown], Any]) -> AsyncIterator[Any]:
    """A server or agent until it is ready, and stopped at the end; what it raises before is raised."""
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    shutdown = Shutdown()
    task = asyncio.create_task(start(ready.set_result, shutdown))
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED, timeout=60)
        if task.done():
            await task
        yield ready.result()
    finally:
        shutdown.request()
        await asyncio.wait({task}, timeout=60)


def server(directory: Path, attestors: Any, **more: Any) -> Any:
    settings = ServerSettings(
        trust_domain=DOMAIN,
        data_dir=directory / "server",
        socket_path=directory / "s" / "server.sock",
        bind_address="127.0.0.1",
        bind_port=0,
        health_port=None,
        node_attestors=choices_of(attestors),
        **more,
    )
    return running(lambda ready, shutdown: run_server(settings, on_ready=ready, shutdown=shutdown))


def agent(directory: Path, ready: Ready, attestor: str, name: str = "agent") -> Any:
    settings = AgentSettings(
        trust_domain=DOMAIN,
        server=Address.parse(ready.grpc),
        data_dir=directory / name,
        socket_path=directory / f"{name}.sock",
        admin_socket_path=directory / f"{name}-admin.sock",
        first_trust=FirstTrust(insecure=True),
        node_attestor=parse_choice(attestor),
    )
    return running(lambda ready, shutdown: run_agent(settings, on_ready=ready, shutdown=shutdown))


async def agents(directory: Path) -> list[Any]:
    channel = unix_channel(directory / "s" / "server.sock")
    try:
        return list((await Calls(channel).agents.unary("ListAgents", agent_pb2.ListAgentsRequest())).agents)
    finally:
        channel.close()


async def test_an_agent_with_a_certificate_joins_serves_and_attests_again(directory: Path) -> None:
    company, key = Company(), new_key()
    company.write(directory, key)
    attestors = {"x509pop": {"ca_file": str(directory / "ca.pem")}}
    chosen = f"x509pop=certificate_file={directory}/node.pem,key_file={directory}/node.key"
    short = {"agent_ttl": timedelta(seconds=8)}
    async with server(directory, attestors, **short) as ready, agent(directory, ready, chosen) as spiffe_id:
        assert spiffe_id.path.startswith("/spire/agent/x509pop/")
        # An entry below an alias by node selectors reaches the workloads of every such node.
        await create(directory, "/nodes/company", "/spire/server", "x509pop:subject:cn:node-1")
        await create(directory, "/orders", "/nodes/company", f"unix:uid:{(await asyncio.to_thread(uid))}")
        channel = unix_channel(directory / "agent.sock")
        try:
            await until(lambda: has_svid(channel, "/orders"))
        finally:
            channel.close()
        first = (await agents(directory))[0]
        assert (first.attestation_type, first.can_reattest) == ("x509pop", True)

        async def is_renewed() -> bool:
            return bool((await agents(directory))[0].x509svid_serial_number != first.x509svid_serial_number)

        await until(is_renewed)
        assert len(await agents(directory)) == 1


async def test_an_instance_joins_once_until_it_is_evicted(directory: Path) -> None:
    amazon = Amazon()
    amazon.write(directory / "aws")
    attestors = {"aws_iid": {"accounts": ["123456789012"], "certificates": str(directory / "aws")}}
    async with amazon.metadata().on_tcp() as port, server(directory, attestors) as ready:
        chosen = f"aws_iid=metadata=127.0.0.1:{port}"
        async with agent(directory, ready, chosen) as spiffe_id:
            assert spiffe_id.path == "/spire/agent/aws_iid/123456789012/eu-central-1/i-0123456789"
        with pytest.raises(VestibuleError, match="VST2005"):
            async with agent(directory, ready, chosen, "other"):
                pass
        async with agent(directory, ready, chosen) as again:
            assert again == spiffe_id


async def test_an_attestor_that_the_server_does_not_have_is_named(directory: Path) -> None:
    company = Company()
    company.write(directory, new_key())
    async with server(directory, {"join_token": None}) as ready:
        chosen = f"x509pop=certificate_file={directory}/node.pem,key_file={directory}/node.key"
        with pytest.raises(VestibuleError, match="x509pop"):
            async with agent(directory, ready, chosen):
                pass


def uid() -> int:
    import os

    return os.geteuid()


async def create(directory: Path, path: str, parent: str, selector: str) -> None:
    channel = unix_channel(directory / "s" / "server.sock")
    try:
        request = entry_pb2.BatchCreateEntryRequest(entries=[wire_entry(path, parent, selector)])
        answer = await Calls(channel).entries.unary("BatchCreateEntry", request)
        assert answer.results[0].status.code == 0, answer.results[0].status.message
    finally:
        channel.close()


async def has_svid(channel: Any, path: str) -> bool:
    try:
        found = await WorkloadApi(channel).fetch()
    except VestibuleError:
        return False
    return SpiffeId.of(DOMAIN, path) in [svid.spiffe_id for svid in found.svids]


async def until(holds: Callable[[], Any]) -> None:
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while not await holds():
        assert datetime.now(UTC) < deadline
        await asyncio.sleep(0.05)
