"""Scans of other people's servers: nginx, as it is set up well, carelessly, and not at all."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from tests.ports import free_port

from vestibule.clock import SystemClock
from vestibule.diagnose.scan import Authorities, Pace, Settings, foreign_identity, scan
from vestibule.pki.pem import CERTIFICATE, pem_block
from vestibule.posture import Judged, Mutual, Profile, Target, judge
from vestibule.testing import TestAuthority

PATIENCE = 60.0
CLOCK = SystemClock()
CONFIGURATION = """
daemon off;
pid {path}/nginx.pid;
error_log {path}/log;
worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {path}/b; proxy_temp_path {path}/p; fastcgi_temp_path {path}/f;
    uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;
    ssl_certificate {path}/cert.pem;
    ssl_certificate_key {path}/key.pem;
    ssl_client_certificate {path}/bundle.pem;
    ssl_protocols TLSv1.3;
    ssl_session_tickets off;
    ssl_session_cache off;
    server {{ listen 127.0.0.1:{good} ssl; ssl_verify_client on; return 200 ok; }}
    server {{ listen 127.0.0.1:{forgetful} ssl; ssl_verify_client on; return 200 ok;
             ssl_session_tickets on; ssl_session_cache shared:sessions:1m; }}
    server {{ listen 127.0.0.1:{optional} ssl; ssl_verify_client optional; return 200 ok; }}
    server {{ listen 127.0.0.1:{any} ssl; ssl_verify_client optional_no_ca;
             if ($ssl_client_verify = NONE) {{ return 403; }} return 200 ok; }}
    server {{ listen 127.0.0.1:{off} ssl; return 200 ok; }}
    server {{ listen 127.0.0.1:{plain}; return 301 https://elsewhere.internal/; }}
}}
"""
NAMES = ("good", "forgetful", "optional", "any", "off", "plain")


@pytest.fixture
async def judged() -> AsyncIterator[dict[str, Judged]]:
    """What is to be said about each of the servers of one nginx."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed")
    directory = Path(tempfile.mkdtemp(prefix="vn", dir="/tmp"))
    directory.chmod(0o755)  # its workers may be of another user
    authority, ports = TestAuthority(), {name: free_port() for name in NAMES}
    write_files(directory, authority)
    (directory / "nginx.conf").write_text(CONFIGURATION.format(path=directory, **ports))
    with (directory / "out").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(found, "-e", str(directory / "log"), "-c", str(directory / "nginx.conf")),
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
        )
    try:
        await listening(process, ports["plain"], directory)
        yield await judge_all(authority, ports)
    finally:
        process.terminate()
        await process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def write_files(directory: Path, authority: TestAuthority) -> None:
    svid = authority.svid("/ns/prod/sa/web")
    key = load_der_private_key(svid.key, None)
    (directory / "cert.pem").write_bytes(b"".join(pem_block(CERTIFICATE, der) for der in svid.chain))
    (directory / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "bundle.pem").write_bytes(pem_block(CERTIFICATE, authority.certificate))


async def listening(process: Process, port: int, directory: Path) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            assert process.returncode is None, (directory / "log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            return


async def judge_all(authority: TestAuthority, ports: dict[str, int]) -> dict[str, Judged]:
    settings = Settings(
        timeout=20.0,
        pace=Pace(1000),
        clock=CLOCK,
        authorities=Authorities(bundles={authority.trust_domain: authority.bundle}),
        foreign=foreign_identity(CLOCK.now()),
        own=authority.svid("/ns/prod/sa/me"),
    )
    targets = [Target(host="127.0.0.1", port=ports[name]) for name in NAMES]
    facts = await scan(targets, settings, concurrency=len(targets))
    return {name: judge(each, Profile.SERVICE, each.seen) for name, each in zip(NAMES, facts, strict=True)}


async def test_nginx_is_told_what_it_lets_through(judged: dict[str, Judged]) -> None:
    found = {name: (each.mutual, {one.code.code for one in each.findings}) for name, each in judged.items()}
    assert found == {
        "good": (Mutual.ABOVE_TLS, {"VST2485"}),  # as information: who has none is refused, by HTTP
        "forgetful": (Mutual.ABOVE_TLS, {"VST2485", "VST2487"}),
        "optional": (Mutual.NOT_ENFORCED, {"VST2485"}),
        "any": (Mutual.NOT_ENFORCED, {"VST2485", "VST2489"}),
        "off": (Mutual.NOT_ASKED, {"VST2484"}),
        "plain": (Mutual.PLAINTEXT, {"VST2473"}),
    }
    good = judged["good"].facts.tls
    assert good is not None
    assert good.clients.own is not None
    assert good.clients.own.let_in
    assert [each.severity.value for each in judged["good"].findings] == ["info"]
