"""Server and agent with a clock that is two hours wrong: named, survived, recovered.  The clock is shifted, not the
certificates: a preloaded library adds seconds to what the programs read as the time.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.component.server_lab import short_directory
from tests.crash.clients import operator
from tests.crash.programs import Field, Program
from tests.ports import free_port

from vestibule.calls.identity_api import IdentityApi
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi
from vestibule.doors.agent_admin import SERVICE as AGENT_ADMIN
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client
from vestibule.pki.bundles import to_jwks
from vestibule.spiffe import TrustDomain
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

pytestmark = pytest.mark.timeout(150)
HERE = Path(__file__).parent
TD = TrustDomain.parse("example.org")
HOURS = 2 * 3600


@pytest.fixture(scope="module")
def library() -> Iterator[Path]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("a C compiler (Debian: apt-get install gcc libc6-dev) is not installed")
    with short_directory() as directory:
        built = directory / "shifted_clock.so"
        source = HERE / "shifted_clock.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", built, source, "-ldl"], check=True)
        yield built


@dataclass
class Shifted:
    """A program and its clock."""

    program: Program
    file: Path

    def shift(self, seconds: int) -> None:
        scratch = self.file.with_suffix(".new")
        scratch.write_text(str(seconds))
        scratch.replace(self.file)


@dataclass
class World:
    server: Shifted
    agent: Shifted
    place: Field

    async def status(self) -> admin_pb2.AgentStatus:
        channel = unix_channel(self.place.admin_socket)
        try:
            found: admin_pb2.AgentStatus = await Client(channel, AGENT_ADMIN).unary(
                "GetStatus", admin_pb2.GetAgentStatusRequest()
            )
            return found
        finally:
            channel.close()

    async def until_status(self, holds: object, what: str) -> admin_pb2.AgentStatus:
        assert callable(holds)
        found: admin_pb2.AgentStatus | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(50):
                while not holds(found := await self.status()):
                    await asyncio.sleep(0.2)
                assert found is not None
                return found
        raise AssertionError(f"not {what}: {found}")

    async def serves(self) -> None:
        """A workload gets a certificate that is valid by the right time."""
        async with asyncio.timeout(60):
            while True:
                channel = unix_channel(self.place.agent_socket)
                with suppress(VestibuleError):
                    if (await WorkloadApi(channel).fetch()).svids:
                        channel.close()
                        return
                channel.close()
                await asyncio.sleep(0.2)


def shifted(program: Program, library: Path, file: Path) -> Shifted:
    program.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(file)}
    one = Shifted(program, file)
    one.shift(0)
    return one


@pytest.fixture
async def world(library: Path) -> object:
    with short_directory() as directory:
        place = Field(directory, free_port(), lifetimes=("--ca-ttl", "24h"))
        server = shifted(place.server(), library, directory / "server.clock")
        server.program.start()
        agent: Shifted | None = None
        try:
            await server.program.until_ready()
            token, bundle = directory / "token", directory / "bundle.json"
            async with operator(place) as calls:
                made = await calls.agents.unary("CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=600))
                bundle.write_bytes(to_jwks(await IdentityApi(calls.channel, TD).bundle()))
                token.touch(0o600)
                token.write_text(made.value)
                entry = types_pb2.Entry(
                    spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path="/web"),
                    parent_id=types_pb2.SPIFFEID(
                        trust_domain="example.org", path=f"/spire/agent/join_token/{made.value}"
                    ),
                    selectors=[types_pb2.Selector(type="unix", value=f"uid:{os.geteuid()}")],
                )
                request = entry_pb2.BatchCreateEntryRequest(entries=[entry])
                await calls.entries.unary("BatchCreateEntry", request)
            agent = shifted(place.agent(token, bundle), library, directory / "agent.clock")
            agent.program.start()
            await agent.program.until_ready()
            made_world = World(server, agent, place)
            await made_world.serves()
            yield made_world
        finally:
            for each in (server, agent):
                if each is not None and each.program.process is not None:
                    each.program.kill()


def test_the_library_shifts_the_wall_clock_and_nothing_else(library: Path, tmp_path: Path) -> None:
    file = tmp_path / "clock"
    file.write_text(str(HOURS))
    script = "import time; print(int(time.time()), int(time.monotonic()))"
    environment = dict(os.environ, LD_PRELOAD=str(library), SHIFTED_CLOCK=str(file))
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    wall, monotonic = map(int, ended.stdout.split())
    import time

    assert abs(wall - time.time() - HOURS) < 30
    assert abs(monotonic - time.monotonic()) < 30


@pytest.mark.parametrize("hours", [2, -2])
async def test_an_agent_whose_clock_is_wrong_names_it_and_recovers(world: World, hours: int) -> None:
    world.agent.shift(hours * 3600)
    await world.until_status(
        lambda found: found.HasField("clock_skew") and abs(found.clock_skew.seconds - hours * 3600) < 60,
        "named",
    )
    assert world.agent.program.process is not None
    assert world.agent.program.process.poll() is None
    if hours > 0:
        # By its clock, everything has expired: nothing is served, and the reason is said.
        await world.until_status(lambda found: "clock is 7" in found.server_error, "explained")
    world.agent.shift(0)
    await world.until_status(
        lambda found: (
            found.server_connected and not found.server_error and abs(found.clock_skew.seconds) < 60
        ),
        "recovered",
    )
    await world.serves()
    assert world.agent.program.process.poll() is None


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_server_whose_clock_is_wrong_is_named_by_its_agents_and_recovers(
    world: World, hours: int
) -> None:
    world.server.shift(hours * 3600)
    await world.until_status(
        lambda found: found.HasField("clock_skew") and abs(found.clock_skew.seconds + hours * 3600) < 60,
        "named",
    )
    assert world.server.program.process is not None
    assert world.server.program.process.poll() is None
    # Workloads keep what they have.
    await world.serves()
    world.server.shift(0)
    await world.until_status(
        lambda found: (
            found.server_connected and not found.server_error and abs(found.clock_skew.seconds) < 60
        ),
        "recovered",
    )
    await world.serves()
    assert world.server.program.process.poll() is None
