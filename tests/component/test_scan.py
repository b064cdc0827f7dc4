"""Scans of real endpoints: good, careless, without TLS, and such as mean harm."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from tests.component.scan_targets import (
    careless,
    drip,
    endpoint,
    flood,
    fresh,
    hang_up,
    http,
    noise,
    silence,
)
from tests.mtls_lab import Held
from tests.ports import free_port

from vestibule.clock import SystemClock
from vestibule.diagnose.scan import Authorities, Pace, Settings, foreign_identity, scan
from vestibule.posture import (
    Facts,
    Judged,
    Mutual,
    Outcome,
    Plain,
    Profile,
    Target,
    judge,
)
from vestibule.sdk import authorize_ids, server_context
from vestibule.spiffe import SpiffeId
from vestibule.testing import TestAuthority

CLOCK = SystemClock()
WEB = SpiffeId.parse("spiffe://example.org/ns/prod/sa/web")
ME = "spiffe://example.org/ns/prod/sa/me"
PATIENT = 20.0
"""Seconds: only endpoints that never answer are waited for so long, and none of those is scanned with it."""


@dataclass
class Lab:
    """An authority, and endpoints of its trust domain."""

    authority: TestAuthority
    stack: AsyncExitStack

    async def open(self, handler: Any, tls: ssl.SSLContext | None = None) -> Target:
        return await self.stack.enter_async_context(endpoint(handler, tls))

    def careless(self, **choices: Any) -> ssl.SSLContext:
        return careless(self.authority, fresh(self.authority), **choices)

    def settings(self, timeout: float = PATIENT, **more: Any) -> Settings:
        known = {
            "timeout": timeout,
            "pace": Pace(1000),
            "clock": CLOCK,
            "authorities": Authorities(bundles={self.authority.trust_domain: self.authority.bundle}),
            "foreign": foreign_identity(CLOCK.now()),
            "own": self.authority.svid(ME),
        }
        return Settings(**{**known, **more})

    async def scan(self, *targets: Target, **settings: Any) -> tuple[Facts, ...]:
        return await scan(targets, self.settings(**settings), concurrency=20)

    async def judged(self, target: Target, **settings: Any) -> Judged:
        (facts,) = await self.scan(target, **settings)
        return judge(facts, Profile.SERVICE, CLOCK.now())


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with AsyncExitStack() as stack:
        yield Lab(TestAuthority(), stack)


def codes(judged: Judged) -> set[str]:
    return {each.code.code for each in judged.findings}


# ------------------------------------------------------------------------------------------------ good


async def test_the_librarys_server_is_without_fault(lab: Lab) -> None:
    context = server_context(Held(lab.authority, WEB), authorize_ids(ME))
    context.set_alpn_protocols(["http/1.1"])
    judged = await lab.judged(await lab.open(http, context))
    assert judged.findings == ()
    assert judged.mutual is Mutual.ENFORCED
    tls = judged.facts.tls
    assert tls is not None
    assert tls.versions == ("TLSv1.3",)
    assert tls.alpn == "http/1.1"
    assert tls.trust.verified
    assert [each.spiffe_id for each in tls.chain][:1] == ["spiffe://example.org/ns/prod/sa/web"]
    clients = tls.clients
    assert clients.foreign is not None
    assert clients.own is not None
    assert clients.without.refused
    assert clients.foreign.refused
    assert (clients.own.outcome, clients.own.detail) == (Outcome.SERVED, "HTTP/1.1 200 OK")


async def test_an_identity_that_is_not_wanted_is_told_to_be_refused(lab: Lab) -> None:
    context = server_context(Held(lab.authority, WEB), authorize_ids("spiffe://example.org/other"))
    judged = await lab.judged(await lab.open(http, context))
    assert codes(judged) == {"VST2486"}
    assert judged.mutual is Mutual.ENFORCED


async def test_http2_is_spoken_where_it_is_chosen(lab: Lab) -> None:
    async def http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while data := await reader.read(4096):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    connection.send_headers(event.stream_id or 1, [(":status", "204")], end_stream=True)
            writer.write(connection.data_to_send())
            await writer.drain()

    context = lab.careless(lowest=ssl.TLSVersion.TLSv1_3, clients=ssl.CERT_OPTIONAL)
    context.set_alpn_protocols(["h2"])
    (facts, plain) = await lab.scan(await lab.open(http2, context), await lab.open(http2))
    assert facts.tls is not None
    assert facts.tls.alpn == "h2"
    assert facts.tls.clients.without.detail == "HTTP/2 204"
    assert plain.plaintext.kind is Plain.HTTP2
    assert judge(plain, Profile.SERVICE, CLOCK.now()).mutual is Mutual.PLAINTEXT


# ------------------------------------------------------------------------------------------------ careless


async def test_a_lax_endpoint_is_told_all_that_it_lets_through(lab: Lab) -> None:
    lax = lab.careless(lowest=ssl.TLSVersion.TLSv1, clients=ssl.CERT_OPTIONAL)
    judged = await lab.judged(await lab.open(http, lax))
    assert codes(judged) == {"VST2475", "VST2476", "VST2485"}
    assert judged.mutual is Mutual.NOT_ENFORCED
    tls = judged.facts.tls
    assert tls is not None
    assert tls.versions == ("TLSv1.3", "TLSv1.2", "TLSv1.1", "TLSv1")
    assert any("_anon_" in each for each in tls.weak_ciphers)
    assert tls.clients.foreign is not None
    assert tls.clients.foreign.refused  # it believes not just anybody
    assert not tls.resumes  # of callers that nobody knows nobody asks


async def test_that_no_certificate_is_asked_for_is_told(lab: Lab) -> None:
    judged = await lab.judged(await lab.open(http, lab.careless(ciphers="ECDHE+AESGCM")))
    assert codes(judged) == {"VST2484"}
    assert judged.mutual is Mutual.NOT_ASKED


async def test_an_endpoint_of_tls_12_that_insists_is_known_to_insist(lab: Lab) -> None:
    old = lab.careless(highest=ssl.TLSVersion.TLSv1_2, clients=ssl.CERT_REQUIRED, ciphers="ECDHE+AESGCM")
    judged = await lab.judged(await lab.open(http, old))
    assert codes(judged) == {"VST2477", "VST2487"}
    assert judged.mutual is Mutual.ENFORCED


async def test_an_endpoint_of_tls_10_alone_is_seen(lab: Lab) -> None:
    old = lab.careless(lowest=ssl.TLSVersion.TLSv1, highest=ssl.TLSVersion.TLSv1)
    judged = await lab.judged(await lab.open(http, old))
    assert {"VST2475", "VST2477", "VST2484"} <= codes(judged)
    assert judged.facts.tls is not None
    assert judged.facts.tls.versions == ("TLSv1",)


async def test_another_authoritys_certificate_is_told(lab: Lab) -> None:
    stranger = TestAuthority()
    context = careless(stranger, fresh(stranger), lowest=ssl.TLSVersion.TLSv1_3, clients=ssl.CERT_REQUIRED)
    judged = await lab.judged(await lab.open(http, context))
    assert codes(judged) == {"VST2479", "VST2486"}


# ------------------------------------------------------------------------------------------------ without TLS


async def test_an_endpoint_without_tls_is_told(lab: Lab) -> None:
    judged = await lab.judged(await lab.open(http))
    assert codes(judged) == {"VST2473"}
    assert judged.mutual is Mutual.PLAINTEXT
    assert judged.facts.plaintext.detail == "HTTP/1.1 200 OK"


async def test_a_port_that_speaks_both_is_told(lab: Lab) -> None:
    inner = await lab.open(http, server_context(Held(lab.authority, WEB), authorize_ids(ME)))

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(4096)
        if not first.startswith(b"\x16"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.drain()
            return
        theirs, ours = await asyncio.open_connection(inner.host, inner.port)
        ours.write(first)

        async def back() -> None:
            while data := await theirs.read(4096):
                writer.write(data)
            writer.close()

        task = asyncio.create_task(back())
        try:
            while data := await reader.read(4096):
                ours.write(data)
        finally:
            task.cancel()
            ours.close()

    judged = await lab.judged(await lab.open(both))
    assert codes(judged) == {"VST2474"}
    assert judged.mutual is Mutual.PLAINTEXT


async def test_nobody_home_is_told_and_nothing_else(lab: Lab) -> None:
    judged = await lab.judged(Target(host="127.0.0.1", port=free_port()))
    assert codes(judged) == {"VST2472"}
    assert judged.facts.unreachable == "Connection refused"


async def test_a_name_that_nobody_has_is_told(lab: Lab) -> None:
    judged = await lab.judged(Target(host="vestibule-scan.invalid", port=443))
    assert codes(judged) == {"VST2472"}


# ------------------------------------------------------------------------------------------------ harm


async def test_endpoints_that_mean_harm_cost_little_and_are_told(lab: Lab) -> None:
    handlers: tuple[Any, ...] = (silence, noise, flood, drip, hang_up)
    targets = [await lab.open(each) for each in handlers]
    threads = threading.active_count()
    async with asyncio.timeout(120):
        found = await lab.scan(*targets, timeout=2.0)
    for facts in found:
        judged = judge(facts, Profile.SERVICE, CLOCK.now())
        # A machine that stood still for seconds may have met nobody at all.
        assert codes(judged) <= {"VST2488", "VST2472"}
        assert judged.findings
        assert judged.mutual is Mutual.UNKNOWN
    assert threading.active_count() <= threads + 1  # asyncio's own, for names
    assert [each for each in asyncio.all_tasks() if each.get_name().startswith("scan-")] == []


@pytest.mark.parametrize("handler", [silence, flood, hang_up])
async def test_harm_after_a_handshake_is_survived_too(lab: Lab, handler: Any) -> None:
    context = lab.careless(lowest=ssl.TLSVersion.TLSv1_3)
    async with asyncio.timeout(120):
        (facts,) = await lab.scan(await lab.open(handler, context))
    assert facts.tls is not None
    assert facts.tls.versions == ("TLSv1.3",)
    assert facts.troubles == ()


async def test_a_scan_that_is_given_up_leaves_nothing_open(lab: Lab) -> None:
    targets = [await lab.open(silence) for _ in range(5)]
    before = len(asyncio.all_tasks())
    task = asyncio.create_task(lab.scan(*targets))
    async with asyncio.timeout(60):
        while len(asyncio.all_tasks()) < before + 6:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each for each in asyncio.all_tasks() if each.get_name().startswith("scan-")] == []


async def test_connections_keep_the_pace(lab: Lab) -> None:
    pace, loop = Pace(200), asyncio.get_running_loop()
    begun = loop.time()
    await asyncio.gather(*(pace.turn() for _ in range(21)))
    assert loop.time() - begun >= 0.1


# ------------------------------------------------------------------------------------------------ STARTTLS


async def test_postgres_is_asked_for_tls_first(lab: Lab) -> None:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4))
        assert b"\0vestibule-scan\0" in await reader.readexactly(length - 4)
        peer = writer.get_extra_info("ssl_object").getpeercert(True)
        error = b"SFATAL\0C28000\0Mconnection requires a valid client certificate\0\0"
        writer.write(b"R\0\0\0\x08\0\0\0\0" if peer else b"E" + (len(error) + 4).to_bytes(4) + error)
        await writer.drain()

    # As PostgreSQL does: whoever has no certificate is let in by TLS, and refused by the rules for logins.
    inner = await lab.open(session, lab.careless(lowest=ssl.TLSVersion.TLSv1_3, clients=ssl.CERT_OPTIONAL))

    async def database(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == bytes.fromhex("0000000804d2162f")
        writer.write(b"S")
        theirs, ours = await asyncio.open_connection(inner.host, inner.port)
        await asyncio.gather(pump(reader, ours), pump(theirs, writer))

    async def without(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(b"N")
        await writer.drain()

    found, plain = await lab.scan(await lab.open(database), await lab.open(without), starttls="postgres")
    assert judge(found, Profile.SERVICE, CLOCK.now()).mutual is Mutual.ABOVE_TLS
    assert found.tls is not None
    clients = found.tls.clients
    assert clients.without.detail == "connection requires a valid client certificate"
    assert clients.foreign is not None
    assert clients.foreign.refused
    assert clients.own is not None
    assert clients.own.let_in
    assert found.tls.versions == ("TLSv1.3",)
    assert codes(judge(plain, Profile.SERVICE, CLOCK.now())) == {"VST2473"}


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction of a connection that is passed on."""
    try:
        while data := await reader.read(4096):
            writer.write(data)
    except OSError:
        pass
    finally:
        writer.close()


async def test_mail_is_asked_for_tls_first(lab: Lab) -> None:
    async def mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220-mail\r\n220 ready\r\n")
        assert (await reader.readline()).startswith(b"EHLO ")
        writer.write(b"250-mail\r\n250 HELP\r\n")
        assert await reader.readline() == b"STARTTLS\r\n"
        writer.write(b"454 TLS not available\r\n")
        await writer.drain()

    judged = await lab.judged(await lab.open(mail), starttls="smtp")
    assert codes(judged) == {"VST2473"}
    assert judged.facts.plaintext.detail == "454 TLS not available"
