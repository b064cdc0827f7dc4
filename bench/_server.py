"""Servers under measurement, ours or SPIRE's, and an agent's client of either: they speak the same protocol."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vestibule.app.up.operator import Operator
from vestibule.attest.node.join_token import JoinTokenProof
from vestibule.calls.channel import ServerChannel
from vestibule.calls.identity_api import IdentityApi
from vestibule.calls.unix import unix_channel
from vestibule.clock import SystemClock
from vestibule.net.grpc import Client
from vestibule.pki.chains import leaf_facts
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.records import Address
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.wire.gen.spire import entry_pb2, types_pb2

TRUST_DOMAIN = TrustDomain.parse("bench.example")
ENTRY = entry_pb2.DESCRIPTOR.services_by_name["Entry"]
WITHIN = 30.0
PAGE = 500


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come up within {WITHIN:.0f} s")
        time.sleep(0.02)


@dataclass
class Server:
    """A server process, the operator's way into it, and one attested agent."""

    pid: int
    port: int
    socket: Path
    bundle: TrustBundle | None = None
    svid: X509Svid | None = None
    _channels: list[ServerChannel] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[IdentityApi]:
        """A client with the agent's certificate, or with none before it has one."""
        channel = ServerChannel(
            Address(host="127.0.0.1", port=self.port),
            bundle=lambda: self.bundle,
            svid=lambda: self.svid,
            clock=SystemClock(),
        )
        try:
            yield IdentityApi(channel, TRUST_DOMAIN)
        finally:
            channel.close()

    async def join(self) -> SpiffeId:
        """Attest one agent by a join token; its ID."""
        with Operator(self.socket) as operator:
            token, self.bundle = await operator.join_token(), await operator.bundle()
        key = generate_key()
        async with self.agent() as anonymous:
            chain = await anonymous.attest(JoinTokenProof(token), make_csr(key))
        facts = leaf_facts(chain[0])
        self.svid = X509Svid(
            spiffe_id=facts.spiffe_id,
            chain=chain,
            key=key_to_pkcs8(key),
            serial=int(facts.serial),
            not_before=facts.not_before,
            not_after=facts.not_after,
        )
        return facts.spiffe_id

    async def prepare(self, count: int) -> list[str]:
        """An agent with so many entries of its own; their ids, as the agent sees them."""
        parent = await self.join()
        channel = unix_channel(self.socket)
        try:
            client = Client(channel, ENTRY)
            for start in range(0, count, PAGE):
                numbers = range(start, min(start + PAGE, count))
                entries = [
                    entry_for(parent, f"/ns/bench/sa/s{number}", f"uid:{100_000 + number}")
                    for number in numbers
                ]
                answer = await client.unary(
                    "BatchCreateEntry", entry_pb2.BatchCreateEntryRequest(entries=entries), timeout=60
                )
                assert all(result.status.code == 0 for result in answer.results), answer.results[0].status
        finally:
            channel.close()
        return await self._entitled(count)

    async def _entitled(self, count: int) -> list[str]:
        deadline = time.monotonic() + WITHIN
        async with self.agent() as agent:
            while len(found := await agent.authorized_entries({})) < count:
                if time.monotonic() > deadline:
                    raise SystemExit(f"the agent sees {len(found)} of {count} entries")
                time.sleep(0.5)
        return sorted(found)


def entry_for(parent: SpiffeId, path: str, selector: str) -> types_pb2.Entry:
    """An entry with one selector of the ``unix`` attestor."""
    domain = str(TRUST_DOMAIN)
    return types_pb2.Entry(
        spiffe_id=types_pb2.SPIFFEID(trust_domain=domain, path=path),
        parent_id=types_pb2.SPIFFEID(trust_domain=domain, path=parent.path),
        selectors=[types_pb2.Selector(type="unix", value=selector)],
    )


@contextlib.contextmanager
def vestibule(directory: Path, port: int, *options: str) -> Iterator[Server]:
    """Our server in a new directory."""
    directory.mkdir()
    command = [sys.executable, "-m", "vestibule", "server", "run", "--trust-domain", str(TRUST_DOMAIN)]
    # As for SPIRE below: an agent that asks for all it can get is not what the limits are for.
    command += [
        "--ratelimit-attestation",
        "0",
        "--ratelimit-signing",
        "0",
        "--health",
        "off",
        "--data-dir",
        f"{directory}/data",
        "--socket",
        f"{directory}/server.sock",
        *options,
    ]
    with _running([*command, "--bind", f"127.0.0.1:{port}"], directory, port) as server:
        yield server


@contextlib.contextmanager
def spire(binary: Path, directory: Path, port: int) -> Iterator[Server]:
    """A spire-server in a new directory, with its defaults: SQLite, keys in memory, join tokens."""
    directory.mkdir()
    config = directory / "server.json"
    config.write_text(SPIRE % {"directory": directory, "port": port, "trust_domain": TRUST_DOMAIN})
    with _running([str(binary), "run", "-config", str(config)], directory, port) as server:
        yield server


SPIRE = """{
  "server": {
    "bind_address": "127.0.0.1", "bind_port": "%(port)d", "trust_domain": "%(trust_domain)s",
    "data_dir": "%(directory)s/data", "socket_path": "%(directory)s/server.sock", "log_level": "INFO",
    "ratelimit": {"attestation": false, "signing": false}
  },
  "plugins": {
    "DataStore": [{"sql": {"plugin_data": {
      "database_type": "sqlite3", "connection_string": "%(directory)s/data.sqlite3"}}}],
    "KeyManager": [{"memory": {"plugin_data": {}}}],
    "NodeAttestor": [{"join_token": {"plugin_data": {}}}]
  }
}
"""


_prctl = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1


def _until_we_end() -> None:
    """The kernel stops the server when the benchmark ends, however that comes about."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextlib.contextmanager
def _running(command: list[str], directory: Path, port: int) -> Iterator[Server]:
    sock = directory / "server.sock"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=_until_we_end)
        try:
            until(lambda: sock.exists() or process.poll() is not None, command[0])
            if process.poll() is not None:
                raise SystemExit((directory / "log").read_text())
            yield Server(process.pid, port, sock)
        finally:
            process.terminate()
            process.wait(30)
