"""Two server processes on one PostgreSQL: both issue, one is killed, the database goes and comes back."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from tests.component.server_lab import DOMAIN, Agent, Calls, Lab, short_directory
from tests.component.test_server_process import PROGRAM
from tests.postgres import Postgres

from vestibule.app.server import Ready
from vestibule.calls.unix import unix_channel
from vestibule.errors import VestibuleError
from vestibule.pki.chains import verify_x509_svid
from vestibule.processes import Shutdown
from vestibule.spiffe import SpiffeId, TrustBundle

pytestmark = pytest.mark.timeout(180)
SECONDS = 60
VARIABLE = "VESTIBULE_TEST_DATABASE"
ALIAS = SpiffeId.parse("spiffe://example.org/node/one")


class Server(Lab):
    """A server process, as the lab's clients see one."""

    process: asyncio.subprocess.Process

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def is_ready(self) -> tuple[bool, str]:
        """What ``/ready`` says."""
        try:
            with urllib.request.urlopen(f"http://{self.ready.health}/ready", timeout=60) as answer:
                return True, answer.read().decode()
        except urllib.error.HTTPError as error:
            return False, error.read().decode()


@asynccontextmanager
async def server(directory: Path, conninfo: str) -> AsyncIterator[Server]:
    directory.mkdir(exist_ok=True)
    arguments = [
        *("server", "run", "--trust-domain", str(DOMAIN), "--data-dir", str(directory / "data")),
        *("--socket", str(directory / "s.sock"), "--bind", "127.0.0.1:0", "--health", "127.0.0.1:0"),
        *("--database", f"env:{VARIABLE}"),
    ]
    directory.chmod(0o700)
    with (directory / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE, stderr=log,
            env=os.environ | {VARIABLE: conninfo},
        )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(SECONDS):
            line = (await process.stdout.readline()).decode()
        found = dict(re.findall(r"(\w+)=(\S+)", line))
        assert found, (directory / "log").read_text()
        path = directory / "s.sock"
        ready = Ready(trust_domain=DOMAIN, grpc=found["grpc"], socket=path, health=found["health"], seconds=0)
        calls = Calls(unix_channel(path))
        serving = cast("asyncio.Task[None]", None)
        made = Server(ready, Shutdown(), serving, calls, directory)
        made.process = process
        yield made
        for channel in (calls.channel, *made.channels):
            channel.close()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def until(holds: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(SECONDS):
        while not (found := await holds()):
            await asyncio.sleep(0.05)
    return found


async def the_same_bundle(one: Server, other: Server, authorities: int) -> TrustBundle:
    async def same() -> TrustBundle | None:
        first, second = await one.bundle(), await other.bundle()
        return first if first == second and len(first.x509_authorities) == authorities else None

    return cast(TrustBundle, await until(same))


async def issued(agent: Agent, entry_id: str) -> tuple[bytes, ...]:
    """A new SVID for an entry, once its server knows it."""

    async def ask() -> tuple[bytes, ...] | None:
        result = await agent.new_svid(entry_id)
        return tuple(result.svid.cert_chain) if result.status.code == 0 else None

    return cast("tuple[bytes, ...]", await until(ask))


async def test_two_servers_share_a_database_and_outlive_each_other(postgres: Postgres) -> None:
    conninfo = postgres.conninfo(postgres.new_database())
    with short_directory() as directory:
        async with server(directory / "a", conninfo) as a, server(directory / "b", conninfo) as b:
            # Both authorities are in the one bundle, at both servers.
            both = await the_same_bundle(a, b, 2)

            # A token made at one works at the other, once.
            token = await a.token()
            agent = await b.stranger()
            agent.use(await agent.attest(token))
            with pytest.raises(VestibuleError, match="used before"):
                await (await a.stranger()).attest(token)

            # The agent is known at both, and so is an entry, wherever it was made; both issue at once.
            at_a = await a.stranger(agent.svid)
            ids = [
                await one.entry(f"/{name}", agent.id) for one, name in ((a, "made-at-a"), (b, "made-at-b"))
            ]
            chains = await asyncio.gather(
                *(issued(caller, entry_id) for caller in (agent, at_a) for entry_id in ids * 3)
            )
            for chain in chains:
                verify_x509_svid(chain, both, datetime.now(UTC))
            signers = {chain[0] for chain in chains}
            assert len(signers) == len(chains)

            # Killed at once, in the middle of its work: the other goes on, alone.
            busy = [asyncio.ensure_future(a.token()) for _ in range(5)]
            a.process.kill()
            await a.process.wait()
            await asyncio.gather(*busy, return_exceptions=True)
            later = await b.entry("/later", agent.id)
            verify_x509_svid(await issued(agent, later), both, datetime.now(UTC))

            # Back in its place it is who it was.
            async with server(directory / "a", conninfo) as again:
                assert await the_same_bundle(again, b, 2) == both
                back = await again.stranger(agent.svid)
                verify_x509_svid(await issued(back, later), both, datetime.now(UTC))

                await database_goes_and_comes_back(postgres, again, b, agent, later)

        told = "".join((directory / name / "log").read_text() for name in "ab")
        assert "secret" not in told
        assert "Traceback" not in told
        for name in "ab":
            log = (directory / name / "data" / "audit.jsonl").read_text().splitlines()
            assert any(json.loads(line)["action"].startswith("authority.") for line in log[:20])


async def database_goes_and_comes_back(
    postgres: Postgres, one: Server, other: Server, agent: Agent, entry_id: str
) -> None:
    async def named() -> bool:
        ready, told = await asyncio.to_thread(one.is_ready)
        return not ready and "VST8006" in told

    async def recovered() -> bool:
        answers = [await asyncio.to_thread(each.is_ready) for each in (one, other)]
        return all(ready for ready, _ in answers)

    await until(recovered)
    postgres.stop()
    try:
        await until(named)
        with pytest.raises(VestibuleError, match="VST8006"):
            await one.token()
    finally:
        postgres.start()
    await until(recovered)
    await issued(agent, entry_id)
    assert one.process.returncode is None
    assert other.process.returncode is None
