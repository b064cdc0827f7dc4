"""Rules about TCP: denials go first, and what ends does so by the proxy's own clock."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tests.e2e.mesh_lab import Echo, Lab, Proxy, client_tls, intent_of, rule, service, spiffe_id, until

from vestibule.policy import Effect, IdentityMatch

TOMORROW = datetime.now(UTC) + timedelta(days=1)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
BELOW = "spiffe://example.org/ns/prod/**"
ALLOW = (
    replace(rule("db/ended", "late"), expires=YESTERDAY),
    replace(rule("db/lasting", "web"), expires=TOMORROW),
    replace(
        rule("db/members"),
        callers=(
            IdentityMatch(id=spiffe_id("former"), until=YESTERDAY),
            IdentityMatch(id=spiffe_id("member"), until=TOMORROW),
        ),
    ),
    rule("db/below", "spiffe://example.org/ns/prod/sa/batch/**"),
)
DENY = (
    replace(rule("db/no-batch", "batch"), effect=Effect.DENY),
    replace(rule("db/was-denied", "web"), effect=Effect.DENY, expires=YESTERDAY),
)


async def _greeting(lab: Lab, proxy: Proxy, caller: str) -> bytes:
    address = proxy.instance.ingress["sql"]
    tls = client_tls(lab.issue(spiffe_id(caller)), lab.directory)
    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
    writer.write(b"hello")
    try:
        with suppress(ConnectionError, ssl.SSLError):
            return await asyncio.wait_for(reader.read(100), 60)
        return b""
    finally:
        writer.transport.abort()


async def test_denials_and_ends_hold_for_connections_and_say_their_names() -> None:
    database = replace(service("db", *ALLOW, sql="tcp"), deny=DENY)
    async with Lab(intent_of(database)) as lab:
        echo = Echo("db")
        await echo.start()
        lab.also(echo.stop)
        db = await lab.add("db", apps={"sql": echo.address})
        await lab.ready()
        for caller in ("web", "member", "batch/one"):
            assert await _greeting(lab, db, caller) == b"db:hello", caller
        for caller in ("late", "former", "batch", "stranger"):
            assert await _greeting(lab, db, caller) == b"", caller

        def denials() -> list[str]:
            found = (each.common_properties.connection_termination_details for _, each in db.connections)
            return [each for each in found if each]

        await until(lambda: len(denials()) == 4, "the log of connections")
        assert denials().count("rbac_access_denied_matched_policy[db/no-batch]") == 1
        assert not db.refused
