"""TLS contexts against each other and against strangers, over real sockets."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import uvloop

from vestibule.errors import VestibuleError
from vestibule.net.tls import load_svid
from vestibule.sdk import (
    SpiffeId,
    TrustBundle,
    TrustDomain,
    X509Context,
    X509Svid,
    authorize_ids,
    authorize_member_of,
    client_context,
    peer_id,
    server_context,
)
from vestibule.sdk.codes import NO_BUNDLE, NO_PEER_CERTIFICATE, NO_SVID
from vestibule.spiffe import Revocations
from vestibule.testing import TestAuthority

ORDERS = SpiffeId.parse("spiffe://example.org/orders")
PAYMENTS = SpiffeId.parse("spiffe://example.org/payments")
EVERYBODY = authorize_member_of("example.org")


@dataclass
class Holder:
    """A source without a Workload API."""

    held: X509Context | None
    revocations: Revocations = field(default_factory=Revocations)

    @classmethod
    def of(cls, svid: X509Svid, *bundles: TrustBundle) -> Holder:
        return cls(X509Context(svids=(svid,), bundles=bundles))

    @property
    def context(self) -> X509Context:
        if self.held is None:
            raise NO_SVID.error("nothing is held")
        return self.held

    @property
    def svid(self) -> X509Svid:
        return self.context.svids[0]

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle:
        for each in self.context.bundles:
            if each.trust_domain == TrustDomain.parse(str(trust_domain)):
                return each
        raise NO_BUNDLE.error(f"no bundle of {trust_domain}")

    def become(self, context: X509Context | None) -> None:
        self.held = context


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority("example.org")


@pytest.fixture
def orders(authority: TestAuthority) -> Holder:
    return Holder.of(authority.svid(ORDERS), authority.bundle)


@pytest.fixture
def payments(authority: TestAuthority) -> Holder:
    return Holder.of(authority.svid(PAYMENTS), authority.bundle)


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that answers each line with the SPIFFE ID of its peer."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while await reader.readline():
                writer.write(f"{peer_id(writer.get_extra_info('ssl_object'))}\n".encode())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def call(port: int, context: ssl.SSLContext) -> tuple[str, SpiffeId]:
    """Who the server says we are, and who we see that it is."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="")
    try:
        seen = peer_id(writer.get_extra_info("ssl_object"))
        writer.write(b"who am I?\n")
        answer = await asyncio.wait_for(reader.readline(), 60)
        if not answer:
            raise ConnectionResetError("closed by the server")
        return answer.decode().strip(), seen
    finally:
        writer.close()


async def refused_by_server(port: int, context: ssl.SSLContext) -> None:
    """With TLS 1.3 a client hears of its refusal at its first read."""
    with pytest.raises(OSError):
        await call(port, context)


async def test_both_sides_know_each_other(orders: Holder, payments: Holder) -> None:
    async with echo(server_context(payments, authorize_ids(ORDERS))) as port:
        seen = await call(port, client_context(orders, authorize_ids(PAYMENTS)))
    assert seen == (str(ORDERS), PAYMENTS)


def test_it_works_on_uvloop_as_on_asyncio(orders: Holder, payments: Holder) -> None:
    async def main() -> tuple[str, SpiffeId]:
        async with echo(server_context(payments, authorize_ids(ORDERS))) as port:
            context = client_context(orders, authorize_ids(ORDERS))
            with pytest.raises(ssl.SSLCertVerificationError, match="VST2404"):
                await call(port, context)
            return await call(port, client_context(orders, authorize_ids(PAYMENTS)))

    assert uvloop.run(main()) == (str(ORDERS), PAYMENTS)


async def test_a_client_refuses_a_server_it_does_not_want(orders: Holder, payments: Holder) -> None:
    async with echo(server_context(payments, EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"VST2404.*payments.*orders") as raised:
            await call(port, client_context(orders, authorize_ids(ORDERS)))
    assert "VST2404" in raised.value.verify_message


async def test_a_server_refuses_a_client_it_does_not_want(orders: Holder, payments: Holder) -> None:
    async with echo(server_context(payments, authorize_ids(PAYMENTS))) as port:
        await refused_by_server(port, client_context(orders, EVERYBODY))


async def test_an_authorizer_that_would_have_to_be_awaited_lets_nobody_in(
    orders: Holder, payments: Holder
) -> None:
    async def wants(_: SpiffeId) -> bool:
        return True

    undecided: Any = wants
    async with echo(server_context(payments, undecided)) as port:
        await refused_by_server(port, client_context(orders, EVERYBODY))
    async with echo(server_context(payments, EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="VST2404"):
            await call(port, client_context(orders, undecided))


async def test_the_right_name_from_the_wrong_authority_is_refused(orders: Holder, payments: Holder) -> None:
    foreign = TestAuthority("example.org")
    impostor = Holder.of(foreign.svid(PAYMENTS), *orders.context.bundles)
    async with echo(server_context(impostor, EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(port, client_context(orders, EVERYBODY))
    caller = Holder.of(foreign.svid(ORDERS), *orders.context.bundles)
    async with echo(server_context(payments, EVERYBODY)) as port:
        await refused_by_server(port, client_context(caller, EVERYBODY))


async def test_a_federated_authority_cannot_speak_for_our_trust_domain(
    authority: TestAuthority, orders: Holder
) -> None:
    """Both authorities are in the TLS stack's store, which alone would be content."""
    partner = TestAuthority("partner.example")
    trusting = Holder.of(orders.svid, authority.bundle, partner.bundle)
    chain_of_partner = partner.svid(PAYMENTS)
    impostor = Holder.of(chain_of_partner, authority.bundle, partner.bundle)
    async with echo(server_context(impostor, EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError, match=r"VST100[67]"):
            await call(port, client_context(trusting, EVERYBODY))


async def test_a_federated_peer_is_verified_against_its_own_bundle(
    authority: TestAuthority, orders: Holder
) -> None:
    partner = TestAuthority("partner.example")
    reports = Holder.of(partner.svid("/reports"), partner.bundle, authority.bundle)
    trusting = Holder.of(orders.svid, authority.bundle, partner.bundle)
    async with echo(server_context(reports, EVERYBODY)) as port:
        seen = await call(port, client_context(trusting, authorize_member_of("partner.example")))
    assert seen == (str(ORDERS), SpiffeId.parse("spiffe://partner.example/reports"))


async def test_an_expired_certificate_is_refused() -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    authority = TestAuthority("example.org", now=an_hour_ago)
    orders = Holder.of(authority.svid(ORDERS), authority.bundle)
    expired = authority.svid(PAYMENTS, ttl=timedelta(seconds=1), now=an_hour_ago)
    old = Holder.of(expired, authority.bundle)
    async with echo(server_context(old, EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(port, client_context(orders, EVERYBODY))


async def test_a_client_without_a_certificate_is_refused(payments: Holder) -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.verify_mode = ssl.CERT_NONE
    async with echo(server_context(payments, EVERYBODY)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anonymous)
        with suppress(OSError):
            assert await reader.readline() == b""
        writer.close()


async def test_an_ordinary_web_certificate_is_no_identity(authority: TestAuthority, orders: Holder) -> None:
    """A certificate of the right authority, but of no workload: the authority's own."""
    from vestibule.pki.keys import key_to_pkcs8

    own = replace(
        orders.svid, chain=(authority.certificate,), key=key_to_pkcs8(authority.key), spiffe_id=PAYMENTS
    )
    async with echo(server_context(Holder.of(own, authority.bundle), EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(port, client_context(orders, EVERYBODY))


async def test_a_rotation_shows_at_the_next_connection(
    authority: TestAuthority, orders: Holder, payments: Holder
) -> None:
    serving, calling = server_context(payments, EVERYBODY), client_context(orders, EVERYBODY)
    serials = []
    async with echo(serving) as port:
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=calling, server_hostname="")
            serials.append(_serial(writer))
            writer.close()
            payments.become(replace(payments.context, svids=(authority.svid(PAYMENTS),)))
    assert len(set(serials)) == 3


async def test_an_authority_that_left_the_bundle_is_not_trusted_any_more(
    orders: Holder, payments: Holder
) -> None:
    calling = client_context(orders, EVERYBODY)
    async with echo(server_context(payments, EVERYBODY)) as port:
        await call(port, calling)
        newer = TestAuthority("example.org")
        orders.become(X509Context(svids=orders.context.svids, bundles=(newer.bundle,)))
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(port, calling)


async def test_without_an_svid_clients_raise_and_servers_refuse_in_the_handshake(
    orders: Holder, payments: Holder
) -> None:
    serving, calling = server_context(payments, EVERYBODY), client_context(orders, EVERYBODY)
    async with echo(serving) as port:
        payments.become(None)
        await refused_by_server(port, calling)
        orders.become(None)
        with pytest.raises(ssl.SSLError, match="VST2402"):
            await call(port, calling)


async def test_what_other_code_sets_on_a_context_weakens_nothing(orders: Holder, payments: Holder) -> None:
    calling = client_context(orders, authorize_ids(ORDERS))
    calling.check_hostname = False
    calling.verify_mode = ssl.CERT_NONE
    async with echo(server_context(payments, EVERYBODY)) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await call(port, calling)


async def test_the_application_chooses_its_protocols(orders: Holder, payments: Holder) -> None:
    serving, calling = server_context(payments, EVERYBODY), client_context(orders, EVERYBODY)
    serving.set_alpn_protocols(["h2", "http/1.1"])
    calling.set_alpn_protocols(["http/1.1"])
    async with echo(serving) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=calling, server_hostname="")
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        writer.close()


@pytest.mark.parametrize("method", ["read", "write"])
def test_no_byte_passes_before_the_peer_is_known(orders: Holder, payments: Holder, method: str) -> None:
    """OpenSSL completes a handshake inside of a read or write; a peer must not slip in that way."""
    unwanted = authorize_ids(ORDERS)
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    client = client_context(orders, unwanted).wrap_bio(client_in, client_out)
    server = server_context(payments, EVERYBODY).wrap_bio(server_in, server_out, server_side=True)
    use = (lambda: client.read(1)) if method == "read" else (lambda: client.write(b"secret"))
    with pytest.raises(ssl.SSLWantReadError):
        use()
    server_in.write(client_out.read())
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client_in.write(server_out.read())
    with pytest.raises(ssl.SSLCertVerificationError, match="VST2404"):
        use()
    with pytest.raises(VestibuleError) as raised:
        peer_id(client)
    assert raised.value.code is NO_PEER_CERTIFICATE


# ------------------------------------------------------------------------------------ other libraries


class Page(http.server.BaseHTTPRequestHandler):
    """Names the caller; a blocking server of the standard library."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        assert isinstance(self.connection, ssl.SSLSocket)
        body = str(peer_id(self.connection)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A refused handshake is what some tests are for."""


@contextmanager
def web_server(context: ssl.SSLContext, *, at_once: bool = True) -> Iterator[int]:
    server = QuietServer(("127.0.0.1", 0), Page)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=at_once)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("at_once", [True, False])
def test_blocking_servers_and_clients_of_the_standard_library_work(
    authority: TestAuthority, orders: Holder, payments: Holder, at_once: bool
) -> None:
    context = client_context(orders, authorize_ids(PAYMENTS))
    with web_server(server_context(payments, authorize_ids(ORDERS)), at_once=at_once) as port:
        for _ in range(2):
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
            connection.request("GET", "/")
            assert connection.getresponse().read().decode() == str(ORDERS)
            assert connection.sock is not None
            assert peer_id(connection.sock) == PAYMENTS
            connection.close()
            # The listening socket follows, too.
            payments.become(replace(payments.context, svids=(authority.svid(PAYMENTS),)))


@pytest.mark.parametrize("at_once", [True, False])
def test_blocking_servers_refuse_whom_they_do_not_want(
    orders: Holder, payments: Holder, at_once: bool
) -> None:
    serving = server_context(payments, authorize_ids(PAYMENTS))
    with web_server(serving, at_once=at_once) as port, pytest.raises(OSError):
        _get(port, client_context(orders, EVERYBODY))


async def test_httpx_works(orders: Holder, payments: Holder) -> None:
    with web_server(server_context(payments, authorize_ids(ORDERS))) as port:
        async with httpx.AsyncClient(
            verify=client_context(orders, authorize_ids(PAYMENTS)), timeout=60
        ) as client:
            assert (await client.get(f"https://127.0.0.1:{port}/")).text == str(ORDERS)
        async with httpx.AsyncClient(
            verify=client_context(orders, authorize_ids(ORDERS)), timeout=60
        ) as client:
            with pytest.raises(httpx.ConnectError, match="VST2404"):
                await client.get(f"https://127.0.0.1:{port}/")
        context = client_context(orders, authorize_ids(ORDERS))
        with (
            httpx.Client(verify=context, timeout=60) as blocking,
            pytest.raises(httpx.ConnectError, match="VST2404"),
        ):
            await asyncio.to_thread(blocking.get, f"https://127.0.0.1:{port}/")


def test_a_connection_of_another_context_has_no_peer(authority: TestAuthority, payments: Holder) -> None:
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_svid(plain, payments.svid)
    with pytest.raises(VestibuleError) as raised:
        peer_id(plain.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True))
    assert raised.value.code is NO_PEER_CERTIFICATE


def _get(port: int, context: ssl.SSLContext) -> str:
    with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw) as tls:
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if not (answer := tls.recv(4096)):
            raise ConnectionResetError("closed by the server")
        return answer.decode()


def _serial(writer: asyncio.StreamWriter) -> int:
    from cryptography import x509

    der = writer.get_extra_info("ssl_object").getpeercert(True)
    return x509.load_der_x509_certificate(der).serial_number
