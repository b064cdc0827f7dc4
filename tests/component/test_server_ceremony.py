"""A server below an offline root: it waits, is answered, issues, and is warned of."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.component.server_lab import running, short_directory
from tests.component.test_server_process import arguments, finished, start
from tests.ports import free_port
from tests.unit.identity.ca.lab import Asking, RootLab

from vestibule.app.server_settings import KeyStorage, Upstream
from vestibule.net.grpc import Client
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.pki.pem import pem_block
from vestibule.wire.gen.vestibule.admin.v1 import ceremony_pb2

PASSPHRASE = "correct horse battery staple"


async def done(*words: str, code: int = 0) -> str:
    found, out, err = await finished(*words)
    assert found == code, out + err
    return out + err


async def root(directory: Path, name: str = "root") -> tuple[str, ...]:
    """An offline root, and the options by which it signs."""
    secret = directory / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    options = ("--dir", str(directory / name), "--passphrase-file", str(secret))
    await done("ca", "init", "--name", name, "--trust-domain", "example.org", *options)
    return options


@pytest.mark.timeout(120)
async def test_a_server_waits_for_the_root_and_issues_when_it_was_answered() -> None:
    with short_directory() as directory:
        signing = await root(directory)
        request, answer = directory / "request.csr", directory / "answer.pem"
        socket = ("--server-socket", str(directory / "run" / "server.sock"))
        roots = directory / "root" / "root.pem"
        options = ("--upstream", "ceremony", "--upstream-roots", str(roots))
        process = await start(*arguments(directory, *options))
        assert process.stdout is not None
        try:
            async with asyncio.timeout(60):
                while not (directory / "run" / "server.sock").exists():
                    await asyncio.sleep(0.05)
                await done("ca", "request", "--server", *socket, "--out", str(request))
                refused = await done("ca", "install", str(request), "--server", *socket, code=2)
                assert "VST1032" in refused
                await done("ca", "sign", str(request), "--out", str(answer), *signing)
                told = json.loads(await done("ca", "install", str(answer), "--server", *socket, "-o", "json"))
                assert told["data"]["name"].startswith("prod-")
                line = (await process.stdout.readline()).decode()
                assert line.startswith("vestibule server ready:")
                bundle = await done("bundle", "show", *socket)
                assert bundle.strip() == roots.read_text().strip()
                again = await done("ca", "install", str(answer), "--server", *socket, code=4)
                assert "VST1387" in again
                transcripts = (directory / "root", directory / "data" / "ceremony")
                files = [str(each / "transcript.txt") for each in transcripts]
                witnessed = await done("ca", "transcript", "verify", *files, "--root", str(roots))
                assert "requested, signed" in witnessed
                assert ", installed" in witnessed
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = await process.communicate()
        assert b"waiting for the ceremony" in err
        assert b"Traceback" not in err
        assert process.returncode == 0


def fetched(url: str) -> tuple[int, str]:
    """A page, as soon as somebody serves it."""
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = httpx.get(url, timeout=60)
        except httpx.ConnectError:
            assert time.monotonic() < deadline, f"nobody serves {url}"
            time.sleep(0.05)
        else:
            return answer.status_code, answer.text


async def test_below_an_intermediate_in_files_a_server_issues_and_its_bundle_is_the_root() -> None:
    with short_directory() as directory:
        lab = await RootLab(directory / "root").made(now=datetime.now(UTC))
        asking, key = Asking(directory / "prod"), generate_key()
        asking.keys.hold("prod", key)
        now = datetime.now(UTC)
        chain, private = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(await lab.answers(await asking.asks("prod", now, key=False), now))
        private.touch(mode=0o600)
        private.write_bytes(pem_block("PRIVATE KEY", key_to_pkcs8(key)))
        given = {"upstream_cert": chain, "upstream_key": private, "upstream_roots": lab.pem}
        async with running(directory, upstream=Upstream.DISK, **given) as server:
            agent = await server.agent()
            assert agent.svid is not None
            assert agent.bundle.x509_authorities == (lab.der,)
            assert len(agent.svid.chain) == 3
            renewed = await agent.renew()
            assert verify_x509_svid(renewed.chain, agent.bundle, datetime.now(UTC)) == renewed.spiffe_id


async def test_a_server_that_signed_for_itself_goes_on_until_it_can_move_below_the_root() -> None:
    with short_directory() as directory:
        lab = await RootLab(directory / "root").made(now=datetime.now(UTC))
        async with running(directory) as server:
            agent = await server.agent()
            (own,) = agent.bundle.x509_authorities
        given = {"upstream": Upstream.CEREMONY, "upstream_roots": lab.pem, "key_storage": KeyStorage.DISK}
        async with running(directory, **given) as server:
            ceremony = Client(server.operator.channel, ceremony_pb2.DESCRIPTOR.services_by_name["Ceremony"])
            asked = await ceremony.unary("MakeRequest", ceremony_pb2.MakeCeremonyRequest())
            assert asked.state == "waiting"
            answer = await lab.answers(bytes(asked.request), datetime.now(UTC))
            taken = await ceremony.unary("Deliver", ceremony_pb2.DeliverRequest(answer=answer))
            assert (taken.state, taken.request_name, taken.warning) == ("issuing", "", "")
            agent = await server.agent()
            async with asyncio.timeout(60):
                while len((await agent.renew()).chain) != 3:
                    await asyncio.sleep(0.2)
            assert own != lab.der


async def test_a_waiting_server_ends_on_a_signal() -> None:
    with short_directory() as directory:
        await root(directory)
        port = free_port()
        options = ("--upstream", "ceremony", "--upstream-roots", str(directory / "root" / "root.pem"))
        process = await start(*arguments(directory, *options, "--health", f"127.0.0.1:{port}"))
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"waiting for the ceremony" not in await process.stderr.readline():
                pass
            status, body = await asyncio.to_thread(fetched, f"http://127.0.0.1:{port}/ready")
            assert (status, "waiting for the ceremony" in body) == (503, True)
            status, body = await asyncio.to_thread(fetched, f"http://127.0.0.1:{port}/metrics")
            assert (status, "vestibule_ceremony_request_waiting 1.0" in body) == (200, True)
            process.send_signal(signal.SIGTERM)
            out, err = await process.communicate()
        assert (process.returncode, out) == (0, b"")
        assert b"Traceback" not in err
