"""The server's TLS and who it finds at the other end, without a network."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from vestibule.errors import VestibuleError
from vestibule.net.caller import Caller, CallerKind, identify
from vestibule.net.peer_chains import peer_chain
from vestibule.net.tls import ServerTls, client_context
from vestibule.pki import profiles
from vestibule.spiffe import SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.testing import TestAuthority

ID = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/a")


class Handshake:
    """Two TLS ends joined by memory."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        self.client = client.wrap_bio(to_client, to_server)
        waiting = [self.client, self.server]
        for _ in range(20):
            for end in tuple(waiting):
                try:
                    end.do_handshake()
                    waiting.remove(end)
                except ssl.SSLWantReadError:
                    continue
        assert not waiting


def stream_of(tls: ssl.SSLObject) -> Any:
    """As much of grpclib's stream as the caller is read from."""
    facts = {"ssl_object": tls, "peername": ("192.0.2.1", 5000), "socket": None}
    transport = SimpleNamespace(get_extra_info=facts.get)
    return SimpleNamespace(peer=SimpleNamespace(_transport=transport))


def called(
    server: ServerTls,
    svid: X509Svid | None,
    trusted: TrustBundle,
    bundle: TrustBundle,
    now: datetime | None = None,
) -> Caller:
    ends = Handshake(server.context, client_context(svid, trusted))

    def bundle_of(domain: TrustDomain) -> TrustBundle | None:
        return bundle if domain == bundle.trust_domain else None

    return identify(stream_of(ends.server), bundle_of, now or datetime.now(UTC))


@pytest.fixture(scope="module")
def ours() -> TestAuthority:
    return TestAuthority("example.org")


@pytest.fixture
def server(ours: TestAuthority) -> ServerTls:
    return ServerTls(ours.svid("/spire/server"), ours.bundle)


def test_a_client_without_a_certificate_is_anonymous(server: ServerTls, ours: TestAuthority) -> None:
    caller = called(server, None, ours.bundle, ours.bundle)
    assert (caller.kind, caller.spiffe_id, str(caller)) == (
        CallerKind.ANONYMOUS,
        None,
        "anonymous:192.0.2.1:5000",
    )


def test_a_client_is_known_by_its_svid(server: ServerTls, ours: TestAuthority) -> None:
    svid = ours.svid(ID)
    caller = called(server, svid, ours.bundle, ours.bundle)
    assert (caller.kind, caller.spiffe_id, caller.serial) == (CallerKind.AGENT, ID, str(svid.serial))
    assert called(server, ours.svid("/web"), ours.bundle, ours.bundle).kind is CallerKind.WORKLOAD


def test_a_client_of_another_authority_fails_the_handshake(server: ServerTls, ours: TestAuthority) -> None:
    with pytest.raises(ssl.SSLError):
        called(server, TestAuthority("example.org").svid(ID), ours.bundle, ours.bundle)


def test_another_trust_domains_authority_cannot_mint_our_agents(ours: TestAuthority) -> None:
    # A TLS stack that knows two trust domains accepts this; the check of every RPC does not.
    partner = TestAuthority("partner.org")
    partner.trust_domain = ours.trust_domain
    partner.issuer = profiles.Issuer.of(partner.certificate, ours.trust_domain)
    forged = partner.svid(ID)
    both = TrustBundle(
        trust_domain=ours.trust_domain,
        x509_authorities=(*ours.bundle.x509_authorities, partner.certificate),
    )
    server = ServerTls(ours.svid("/spire/server"), both)
    with pytest.raises(VestibuleError, match="VST2322"):
        called(server, forged, ours.bundle, ours.bundle)


def test_a_certificate_that_expires_on_an_open_connection_is_refused(
    server: ServerTls, ours: TestAuthority
) -> None:
    later = datetime.now(UTC) + timedelta(hours=2)
    with pytest.raises(VestibuleError, match=r"VST2322.*expired"):
        called(server, ours.svid(ID), ours.bundle, ours.bundle, later)


def test_an_authority_taken_from_the_bundle_is_refused_on_open_connections(
    server: ServerTls, ours: TestAuthority
) -> None:
    with pytest.raises(VestibuleError, match="VST2322"):
        called(server, ours.svid(ID), ours.bundle, TestAuthority("example.org").bundle)


def test_new_certificate_and_bundle_hold_from_the_next_handshake_on(
    server: ServerTls, ours: TestAuthority
) -> None:
    new = TestAuthority("example.org")
    server.update(new.svid("/spire/server"), new.bundle)
    assert called(server, new.svid(ID), new.bundle, new.bundle).spiffe_id == ID
    with pytest.raises(ssl.SSLError):
        called(server, ours.svid(ID), new.bundle, new.bundle)
    with pytest.raises(ssl.SSLError):
        Handshake(server.context, client_context(None, ours.bundle))


def test_the_chain_is_read_leaf_first(server: ServerTls, ours: TestAuthority) -> None:
    svid = ours.svid(ID)
    ends = Handshake(server.context, client_context(svid, ours.bundle))
    # OpenSSL sends the authority along when it knows it.
    assert peer_chain(ends.server) == (*svid.chain, ours.certificate)
    assert peer_chain(ends.client)[1:] == (ours.certificate,)


def test_no_session_is_ever_resumed(server: ServerTls, ours: TestAuthority) -> None:
    client = client_context(ours.svid(ID), ours.bundle)
    client.options &= ~ssl.OP_NO_TICKET
    ends = Handshake(server.context, client)
    ends.server.write(b"x")
    assert ends.client.read(1) == b"x"
    assert ends.client.session is None or not ends.client.session.has_ticket
