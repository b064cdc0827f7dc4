"""The drill: an offline root, an intermediate by ceremony, load, and the day on which the intermediate is stolen.

Server, agents and their sockets are real processes; the requests go over mutual TLS between two workloads, a new
connection each, from the first SVID to the last.  What operators type is what ``docs/runbooks`` says.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tests.component.authority_lab import until as until_within
from tests.component.server_lab import short_directory
from tests.component.test_sdk import ask, echo

from vestibule.app.main import cli
from vestibule.errors import VestibuleError
from vestibule.pki.certificates import load_certificate
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.crls import read_crl
from vestibule.pki.pem import CERTIFICATE, CRL, pem_blocks
from vestibule.sdk import SpiffeId, X509Source, authorize_ids, client_context, server_context
from vestibule.spiffe import TrustDomain, X509Svid

DOMAIN = TrustDomain.parse("example.org")
PASSPHRASE = "correct horse battery staple"
PROGRAM = "from vestibule.app.main import main; main()"
WEB, API = SpiffeId.of(DOMAIN, "/web"), SpiffeId.of(DOMAIN, "/api")


async def typed(*words: str | Path | TrustDomain) -> Any:
    """What an operator types, answered in JSON; in a thread of this process, which starts sooner than a new one."""

    def run() -> tuple[object, str]:
        with redirect_stdout(StringIO()) as output:
            try:
                cli.main([*map(str, words), "--output", "json"])
            except SystemExit as end:
                return end.code, output.getvalue()
        return 0, output.getvalue()

    code, output = await asyncio.to_thread(run)
    assert not code, f"{words}: {output}"
    return json.loads(output)["data"]


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline that a machine meets which does much else."""
    await until_within(holds, what, 120)


@asynccontextmanager
async def process(log: Path, *words: str | Path | TrustDomain) -> AsyncIterator[asyncio.subprocess.Process]:
    """A part of Vestibule as a process of its own; standard error is in ``log``."""
    with log.open("wb") as file:
        running = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, *map(str, words)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
        )
    try:
        yield running
    finally:
        if running.returncode is None:
            running.terminate()
        await running.communicate()
    assert b"Traceback" not in log.read_bytes(), log.read_text()


async def ready(running: asyncio.subprocess.Process) -> str:
    """Its one line."""
    assert running.stdout is not None
    async with asyncio.timeout(60):
        return (await running.stdout.readline()).decode()


@dataclass
class Load:
    """What became of the requests so far."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


@asynccontextmanager
async def load(calling: X509Source, called: X509Source) -> AsyncIterator[Load]:
    """Requests from one workload to the other, each on a connection of its own, until the block ends."""
    found = Load()
    client = client_context(calling, authorize_ids(API))

    async def go_on(port: int) -> None:
        while True:
            try:
                assert await ask(port, client) == str(WEB)
                found.answered += 1
            except (OSError, ssl.SSLError, VestibuleError, AssertionError) as error:
                found.failures.append(repr(error))
            await asyncio.sleep(0.01)

    async with echo(server_context(called, authorize_ids(WEB))) as port:
        task = asyncio.create_task(go_on(port))
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass
class Drill:
    """The places of the drill, and its ceremonies."""

    directory: Path

    def __post_init__(self) -> None:
        self.roots = self.directory / "roots.pem"
        self.server_socket = self.directory / "run" / "server.sock"
        self.secret = self.directory / "passphrase"
        self.secret.touch(mode=0o600)
        self.secret.write_text(PASSPHRASE)

    async def root(self, name: str) -> str:
        """A root; returns the identifier of its key."""
        options = ("--dir", self.directory / name, "--passphrase-file", self.secret)
        made = await typed("ca", "init", "--name", name, "--trust-domain", DOMAIN, *options)
        return str(made["key_id"])

    def trust(self, *names: str) -> None:
        """Put the certificates of these roots where the server looks."""
        pems = [(self.directory / name / "root.pem").read_bytes() for name in names]
        fresh = self.roots.with_suffix(".new")
        fresh.write_bytes(b"".join(pems))
        fresh.rename(self.roots)

    async def ceremony(self, root: str, name: str) -> None:
        """Request, signature, installation."""
        request, answer = self.directory / f"{name}.csr", self.directory / f"{name}.pem"
        asked = await self.at_server("ca", "request", "--server", "--name", name, "--out", request)
        assert asked["name"] == name
        options = ("--dir", self.directory / root, "--passphrase-file", self.secret, "--out", answer)
        await typed("ca", "sign", request, "--expect-key", asked["key_id"], *options)
        await self.at_server("ca", "install", answer, "--server")

    async def at_server(self, *words: str | Path | TrustDomain) -> Any:
        return await typed(*words, "--server-socket", self.server_socket)

    async def next_authority(self) -> None:
        """The server signs with an authority below its newest intermediate."""
        prepared = await self.at_server("authority", "x509", "prepare")
        await self.at_server("authority", "x509", "activate", prepared["authority_id"])

    async def agent(self, stack: AsyncExitStack, name: str, address: str, path: str) -> X509Source:
        """An agent on a node of its own, and the workload beside it."""
        place = self.directory / name
        place.mkdir()
        token = place / "token"
        await self.at_server("token", "generate", "--write", token)
        words = ("agent", "run", "--trust-domain", DOMAIN, "--server", address, "--data-dir", place / "data")
        sockets = ("--socket", place / "a.sock", "--admin-socket", place / "admin.sock", "--health", "off")
        trust = ("--join-token-file", token, "--trust-bundle", self.roots)
        agent = await stack.enter_async_context(process(place / "log", *words, *sockets, *trust))
        assert "ready" in await ready(agent), (place / "log").read_text()
        (listed,) = [
            each["spiffe_id"] for each in await self.at_server("agent", "list")
            if each["spiffe_id"] not in self.known
        ]  # fmt: skip
        self.known.add(listed)
        entry = ("--spiffe-id", f"{DOMAIN.id}{path}", "--parent-id", listed, "--selector", "unix:uid:0")
        await self.at_server("entry", "create", *entry)
        return await stack.enter_async_context(X509Source(f"unix://{place / 'a.sock'}"))

    known: set[str] = field(default_factory=set)


def below(svid: X509Svid, root: bytes) -> bool:
    """Whether an SVID's chain ends below this root."""
    return load_certificate(svid.chain[-1]).issuer == load_certificate(root).subject


@pytest.mark.timeout(300)
async def test_a_stolen_intermediate_is_replaced_and_cut_off_without_a_failed_request() -> None:
    with short_directory() as directory:
        drill = Drill(directory)
        first_root = await drill.root("root-a")
        await drill.root("root-b")
        drill.trust("root-a", "root-b")  # the second one waits in every bundle for the day that it is needed
        ders = {name: pem_blocks((directory / name / "root.pem").read_bytes(), CERTIFICATE)[0] for name in
                ("root-a", "root-b")}  # fmt: skip
        async with AsyncExitStack() as stack:
            words = ("server", "run", "--trust-domain", DOMAIN, "--data-dir", directory / "data")
            places = ("--socket", drill.server_socket, "--bind", "127.0.0.1:0", "--health", "off")
            above = ("--upstream", "ceremony", "--upstream-roots", drill.roots)
            server = await stack.enter_async_context(process(directory / "log", *words, *places, *above))
            await until(drill.server_socket.exists, "the server's private socket")
            waiting = await drill.at_server("ca", "request", "--server", "--out", directory / "first.csr")
            answer = directory / "first.pem"
            signing = ("--dir", directory / "root-a", "--passphrase-file", drill.secret, "--out", answer)
            await typed("ca", "sign", directory / "first.csr", "--expect-key", waiting["key_id"], *signing)
            await drill.at_server("ca", "install", answer, "--server")
            address = (await ready(server)).split("grpc=")[1].split()[0]

            web = await drill.agent(stack, "a", address, "/web")
            api = await drill.agent(stack, "b", address, "/api")
            both = (web, api)
            assert all(below(each.svid, ders["root-a"]) for each in both)
            async with load(web, api) as requests:
                await until(lambda: requests.answered > 20, "the load flows")

                # The quarter is over: another intermediate below the same root.  Nobody has to do anything.
                await drill.ceremony("root-a", "prod-next")
                await drill.next_authority()
                stolen = web.svid

                # 1. A new intermediate, below the other root; the server's authority below it signs from now on.
                await drill.ceremony("root-b", "prod-emergency")
                await drill.next_authority()
                # 2. Everybody replaces what leads to the stolen one.
                await drill.at_server("authority", "upstream", "taint", first_root)
                await until(lambda: all(below(each.svid, ders["root-b"]) for each in both), "all is renewed")
                # 3. It is worth nothing any more: out of the bundle, out of the roots, on the root's list.
                await drill.at_server("authority", "upstream", "revoke", first_root)
                await until(
                    lambda: all(each.bundle(DOMAIN).x509_authorities == (ders["root-b"],) for each in both),
                    "the first root is in no bundle",
                )
                drill.trust("root-b")
                revoking = ("--dir", directory / "root-a", "--passphrase-file", drill.secret)
                await typed("ca", "revoke", waiting["name"], "--reason", "superseded", *revoking)
                await typed("ca", "revoke", "prod-next", "--reason", "keyCompromise", *revoking)
                await typed("ca", "crl", "--out", directory / "root-a.crl", *revoking)
                answered = requests.answered
                await until(lambda: requests.answered > answered + 20, "the load still flows")
            assert not requests.failures, requests.failures[:3]

            with pytest.raises(VestibuleError, match="VST1007"):
                verify_x509_svid(stolen.chain, api.bundle(DOMAIN), datetime.now(UTC))
            (crl,) = pem_blocks((directory / "root-a.crl").read_bytes(), CRL)
            for issued in (answer, directory / "prod-next.pem"):
                intermediate = load_certificate(pem_blocks(issued.read_bytes(), CERTIFICATE)[0])
                assert read_crl(crl, load_certificate(ders["root-a"])).revokes(intermediate.serial_number)
