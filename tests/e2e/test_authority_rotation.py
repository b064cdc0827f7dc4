"""The authority is replaced by force, prepare to revoke, while services call each other through real Envoys."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from cryptography import x509
from tests.component.authority_lab import Operator
from tests.e2e.test_up import SHOP, Up, up

from vestibule.pki.certificates import load_certificate


@dataclass
class Calls:
    """What became of the calls so far."""

    succeeded: int = 0
    failed: list[str] = field(default_factory=list)


@asynccontextmanager
async def calling(running: Up) -> AsyncIterator[Calls]:
    """web calls orders, without a pause, each time on a new connection to its own proxy."""
    calls, egress = Calls(), running.envelope["data"]["egress"]["web"]

    async def go_on() -> None:
        while True:
            async with httpx.AsyncClient(proxy=f"http://{egress}", timeout=60) as client:
                try:
                    answer = await client.get("http://orders/orders/7")
                except httpx.HTTPError as error:
                    calls.failed.append(repr(error))
                    continue
                if answer.status_code == 200:
                    calls.succeeded += 1
                else:
                    calls.failed.append(f"{answer.status_code} {answer.text[:200]}")

    tasks = [asyncio.create_task(go_on()) for _ in range(2)]
    try:
        yield calls
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def shown_by(directory: Path, service: str) -> str:
    """Who signed the certificate that a service's proxy shows now, by the identifier of the signer's key."""
    log = (directory / ".vestibule" / "logs" / f"{service}.log").read_text()
    host, _, port = re.findall(r"ingress\S*=([\d.:]+)", log)[-1].rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    found = load_certificate(leaf).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return (found.value.key_identifier or b"").hex()


async def until_all_show(directory: Path, authority: str) -> None:
    async with asyncio.timeout(150):
        for service in ("orders", "payments", "reports", "web"):
            while await shown_by(directory, service) != authority:
                await asyncio.sleep(0.1)


async def until_more(calls: Calls, by: int = 20) -> None:
    wanted = calls.succeeded + by
    async with asyncio.timeout(150):
        while calls.succeeded < wanted:
            await asyncio.sleep(0.05)


async def test_no_call_fails_while_the_authority_is_replaced_by_force(tmp_path: Path) -> None:
    async with up(tmp_path, str(SHOP)) as running:
        operator = Operator(running.note.server_socket)
        async with calling(running) as calls:
            await until_more(calls)
            first = await operator.active()
            second = await operator.prepare()
            await until_more(calls)
            await operator.step("Activate", second)
            await operator.step("Taint", first)
            await until_all_show(tmp_path, second)
            await until_more(calls)
            await operator.step("Revoke", first)
            await until_more(calls, 50)
        assert calls.failed == []
        assert len((await operator.bundle()).x509_authorities) == 1
