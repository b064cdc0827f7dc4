"""What a handshake that fails says, to either side: which check it was, what was expected, and what was found."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.sdk.test_tls import EVERYBODY, ORDERS, PAYMENTS, Holder, call

from vestibule.errors import ErrorCode, VestibuleError
from vestibule.net.tls import load_svid, trust
from vestibule.pki import profiles
from vestibule.pki.codes import NOT_AN_SVID, REVOKED, UNTRUSTED_CHAIN
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.sdk import X509Svid, authorize_ids, client_context, connection_of, reason, server_context
from vestibule.sdk.codes import (
    NO_BUNDLE,
    NO_PEER_CERTIFICATE,
    NO_SVID,
    NOT_AUTHORIZED,
    NOT_TLS,
    REFUSED_BY_PEER,
)
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity
from vestibule.testing import TestAuthority

NOW = datetime.now(UTC)
AUTHORITY = TestAuthority("example.org", now=NOW - timedelta(days=2), ttl=timedelta(days=30))
STRANGER = TestAuthority("example.org")
PARTNER = TestAuthority("partner.example")

Broken = tuple[ErrorCode, tuple[str, ...], X509Svid]


def with_names(*names: x509.GeneralName) -> X509Svid:
    """An SVID whose subject alternative names are these."""
    key = generate_key()
    valid = profiles.lifetime(NOW, timedelta(hours=1))
    builder = profiles.svid(PAYMENTS, key.public_key(), valid, AUTHORITY.issuer)
    kept = [each for each in builder._extensions if not isinstance(each.value, x509.SubjectAlternativeName)]
    builder._extensions = kept
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    leaf = builder.sign(AUTHORITY.key, SHA256()).public_bytes(Encoding.DER)
    return replace(AUTHORITY.svid(PAYMENTS), chain=(leaf,), key=key_to_pkcs8(key))


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


STRANGE = AUTHORITY.svid("/unwanted")
BROKEN: dict[str, Callable[[], Broken]] = {
    "authority": lambda: (UNTRUSTED_CHAIN, ("payments", "example.org"), STRANGER.svid(PAYMENTS)),
    "trust domain": lambda: (NO_BUNDLE, ("partner.example",), PARTNER.svid("/reports")),
    "expired": lambda: (
        UNTRUSTED_CHAIN,
        ("expired at", "s ago by the clock here"),
        AUTHORITY.svid(PAYMENTS, ttl=timedelta(minutes=5), now=NOW - timedelta(hours=1)),
    ),
    "not yet valid": lambda: (
        UNTRUSTED_CHAIN,
        ("not valid before", "the clock here says", "one of the two clocks is wrong"),
        AUTHORITY.svid(PAYMENTS, now=NOW + timedelta(hours=1)),
    ),
    "two SPIFFE IDs": lambda: (
        NOT_AN_SVID,
        ("not an SVID",),
        with_names(uri(str(PAYMENTS)), uri(str(ORDERS))),
    ),
    "no SPIFFE ID": lambda: (NOT_AN_SVID, ("no SPIFFE ID",), with_names(x509.DNSName("payments"))),
    "revoked": lambda: (REVOKED, ("does not count",), AUTHORITY.svid("spiffe://example.org/revoked")),
    "not wanted": lambda: (
        NOT_AUTHORIZED,
        ("unwanted", "only these are wanted", "payments"),
        AUTHORITY.svid("/unwanted"),
    ),
}
REVOKED_ONE = Revocations(
    version=1,
    entries=(
        Revocation(target=RevokedIdentity(spiffe_id=AUTHORITY.svid("/revoked").spiffe_id), at=NOW, version=1),
    ),
)
WANTED = authorize_ids(ORDERS, PAYMENTS, "spiffe://example.org/revoked")


def judge() -> Holder:
    holder = Holder.of(AUTHORITY.svid(ORDERS), AUTHORITY.bundle)
    holder.revocations = REVOKED_ONE
    return holder


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[Exception | None, Exception | None]:
    """A handshake in memory, and what it raised on either side."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    ends = [client.wrap_bio(client_in, client_out), server.wrap_bio(server_in, server_out, server_side=True)]
    raised: list[Exception | None] = [None, None]
    for _ in range(4):
        for number, end in enumerate(ends):
            if raised[number] is None:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLError as error:
                    raised[number] = error
        server_in.write(client_out.read())
        client_in.write(server_out.read())
    return raised[0], raised[1]


async def closed(writer: asyncio.StreamWriter) -> None:
    """Nothing of it is left for the next test."""
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("judging", ["client", "server"])
def test_a_refusal_names_the_check_and_what_was_found(what: str, judging: str) -> None:
    code, words, svid = BROKEN[what]()
    peer = Holder.of(svid, AUTHORITY.bundle)
    if judging == "client":
        error, _ = shake(client_context(judge(), WANTED), server_context(peer, EVERYBODY))
    else:
        _, error = shake(client_context(peer, EVERYBODY), server_context(judge(), WANTED))
    assert isinstance(error, ssl.SSLCertVerificationError)
    found = reason(error)
    assert found is not None
    assert found.code is code
    assert all(word in found.message for word in words), found.message
    assert found.code.code in str(error)
    assert found.code.code in error.verify_message


def test_a_clock_that_is_wrong_by_less_than_the_backdate_breaks_nothing() -> None:
    """The peer's certificate was made by a clock that goes fast by 20 s; profiles backdate more than that."""
    ahead = AUTHORITY.svid(PAYMENTS, now=datetime.now(UTC) + timedelta(seconds=20))
    assert shake(
        client_context(judge(), WANTED), server_context(Holder.of(ahead, AUTHORITY.bundle), EVERYBODY)
    ) == (
        None,
        None,
    )


def test_the_difference_of_the_clocks_is_told_in_seconds() -> None:
    ahead = AUTHORITY.svid(PAYMENTS, now=datetime.now(UTC) + timedelta(seconds=1000))
    error, _ = shake(
        client_context(judge(), WANTED), server_context(Holder.of(ahead, AUTHORITY.bundle), EVERYBODY)
    )
    found = reason(error)
    assert found is not None
    seconds = int(found.message.rpartition(" s less")[0].rpartition(", ")[2])
    backdate = 1000 - (ahead.not_before - datetime.now(UTC)).total_seconds()
    assert 1000 - backdate - 60 < seconds <= 1000


def test_an_authority_that_expired_is_no_authority() -> None:
    old = TestAuthority("example.org", now=NOW - timedelta(days=2), ttl=timedelta(days=1))
    late = replace(old.issuer, not_after=NOW + timedelta(days=1))
    old.issuer = late
    peer = Holder.of(old.svid(PAYMENTS), old.bundle)
    error, _ = shake(
        client_context(Holder.of(AUTHORITY.svid(ORDERS), old.bundle), WANTED), server_context(peer, EVERYBODY)
    )
    found = reason(error)
    assert found is not None
    assert found.code is UNTRUSTED_CHAIN


def test_an_empty_bundle_trusts_nobody() -> None:
    empty = Holder.of(AUTHORITY.svid(ORDERS), replace(AUTHORITY.bundle, x509_authorities=()))
    peer = Holder.of(AUTHORITY.svid(PAYMENTS), AUTHORITY.bundle)
    error, _ = shake(client_context(empty, WANTED), server_context(peer, EVERYBODY))
    found = reason(error)
    assert found is not None
    assert found.code is UNTRUSTED_CHAIN
    assert "has no authorities" in found.message
    _, error = shake(client_context(peer, EVERYBODY), server_context(empty, WANTED))
    found = reason(error)
    assert found is not None
    assert found.code in (UNTRUSTED_CHAIN, NO_PEER_CERTIFICATE)


def test_a_caller_without_a_certificate_is_told_from_one_with_a_wrong_one() -> None:
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.verify_mode = ssl.CERT_NONE
    _, error = shake(anonymous, server_context(judge(), WANTED))
    found = reason(error)
    assert found is not None
    assert found.code is NO_PEER_CERTIFICATE


def test_what_speaks_no_tls_1_3_is_told() -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname = False
    old.verify_mode = ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    _, error = shake(old, server_context(judge(), WANTED))
    found = reason(error)
    assert found is not None
    assert found.code is NOT_TLS


def test_a_server_writes_down_whom_it_refused(caplog: pytest.LogCaptureFixture) -> None:
    peer = Holder.of(AUTHORITY.svid("/unwanted"), AUTHORITY.bundle)
    with caplog.at_level(logging.INFO, "vestibule.sdk.tls"):
        shake(client_context(peer, EVERYBODY), server_context(judge(), WANTED))
    (record,) = [each for each in caplog.records if each.name == "vestibule.sdk.tls"]
    assert "VST2404 the peer is spiffe://example.org/unwanted" in record.message


def test_a_client_that_a_stranger_refused_learns_what_it_showed() -> None:
    """A server of somebody else, which refuses with an alert of TLS: with TLS 1.3 after the client's handshake."""
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_svid(strict, AUTHORITY.svid(PAYMENTS))
    trust(strict, PARTNER.bundle.x509_authorities)
    strict.verify_mode = ssl.CERT_REQUIRED
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    calling = client_context(Holder.of(AUTHORITY.svid(ORDERS), AUTHORITY.bundle), EVERYBODY)
    client = calling.wrap_bio(client_in, client_out)
    server = strict.wrap_bio(server_in, server_out, server_side=True)
    for _ in range(2):
        with suppress(ssl.SSLWantReadError):
            client.read(1)
        server_in.write(client_out.read())
        with suppress(ssl.SSLError):
            server.do_handshake()
        client_in.write(server_out.read())
    with pytest.raises(ssl.SSLError) as raised:
        client.read(1)
    found = reason(raised.value)
    assert found is not None
    assert found.code is REFUSED_BY_PEER
    assert "spiffe://example.org/orders" in found.message
    assert "unknown ca" in found.message


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 4096, b"\xff" * 4096])
async def test_a_server_that_speaks_something_else_is_no_riddle(garbage: bytes) -> None:
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            # All that came is read: closing over it would be a reset, which may overtake what was said.
            await reader.read(65536)
            writer.write(garbage)
            await writer.drain()
            await reader.read()
        await closed(writer)
        over.set()

    calling = client_context(judge(), WANTED)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        with pytest.raises(OSError) as raised:
            await call(server.sockets[0].getsockname()[1], calling)
        await asyncio.wait_for(over.wait(), 60)
    found = reason(raised.value)
    assert found is not None
    assert found.code is NOT_TLS


def test_without_an_svid_the_reason_is_there_too() -> None:
    holder, peer = judge(), Holder.of(AUTHORITY.svid(PAYMENTS), AUTHORITY.bundle)
    holder.become(None)
    error, _ = shake(client_context(holder, WANTED), server_context(peer, EVERYBODY))
    found = reason(error)
    assert isinstance(found, VestibuleError)
    assert found.code is NO_SVID


async def test_what_a_handshake_settled_is_there_on_both_sides() -> None:
    orders, payments = AUTHORITY.svid(ORDERS), AUTHORITY.svid(PAYMENTS, ttl=timedelta(minutes=7))
    seen = []
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(connection_of(writer.get_extra_info("ssl_object")))
        writer.write(b"hello\n")
        await closed(writer)
        over.set()

    serving = server_context(Holder.of(payments, AUTHORITY.bundle), EVERYBODY)
    calling = client_context(Holder.of(orders, AUTHORITY.bundle), EVERYBODY)
    before = datetime.now(UTC)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=serving) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=calling, server_hostname="")
        mine = connection_of(writer.get_extra_info("ssl_object"))
        assert await reader.readline() == b"hello\n"
        await closed(writer)
        await asyncio.wait_for(over.wait(), 60)
    (theirs,) = seen
    assert (mine.own, mine.peer) == (ORDERS, PAYMENTS) == (theirs.peer, theirs.own)
    assert mine.ends == theirs.ends == payments.not_after
    assert before <= mine.made <= datetime.now(UTC)
    # What goes over the wire may have the authority's own certificate behind it.
    assert mine.chain[0] == payments.chain[0] == theirs.own_chain[0]
    assert theirs.chain[0] == orders.chain[0] == mine.own_chain[0]
