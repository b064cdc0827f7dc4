"""A partner trust domain whose authority mints our IDs: refused wherever a chain or a token is checked.

The bundle endpoint's client stands in ``tests/unit/calls/test_bundle_endpoint.py``, Envoy in
``tests/e2e/test_federated_envoys.py``.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest
from tests.component.federation_lab import Domain, domains, until
from tests.component.test_federation import fetched
from tests.component.test_sdk import ask, echo

from vestibule.calls.channel import ServerChannel
from vestibule.calls.identity_api import IdentityApi
from vestibule.cli.bundle_files import to_message
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.net.codes import SERVER_NOT_TRUSTED
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.listen import listen_tcp
from vestibule.net.tls import ServerTls, load_svid
from vestibule.records import Address
from vestibule.sdk import (
    X509Source,
    authorize_ids,
    authorize_member_of,
    client_context,
    fetch_jwt_bundles,
    server_context,
    validate_jwt_svid,
    verify_jwt_svid,
)
from vestibule.spiffe import X509Svid
from vestibule.testing import TestAuthority
from vestibule.wire.gen.spire import bundle_pb2

MINT = TestAuthority("mint.org")
OURS = "spiffe://east.org/server"


@pytest.fixture
async def east() -> AsyncIterator[Domain]:
    """A trust domain that federates with the partner, and a workload of it that does."""
    async with domains(east={}) as [east]:
        request = bundle_pb2.BatchSetFederatedBundleRequest(bundle=[to_message(MINT.jwt_bundle)])
        answer = await east.bundles("BatchSetFederatedBundle", request)
        assert answer.results[0].status.code == 0
        agent = await east.agent()
        await east.entry(agent, "/server", "mint.org")
        await until(lambda: fetched(east))
        yield east


@pytest.mark.parametrize(
    "minted", ["spiffe://east.org/spire/agent/join_token/x", "spiffe://mint.org/spire/agent/join_token/x"]
)
async def test_on_the_servers_port(east: Domain, minted: str) -> None:
    """Neither an agent's ID of ours that the partner minted, nor the partner's own: federation opens no door here."""
    bundle = await east.bundle()
    svid = MINT.svid(minted)
    address = Address(host="127.0.0.1", port=east.port)
    channel = ServerChannel(address, bundle=lambda: bundle, svid=lambda: svid, clock=SystemClock())
    try:
        with pytest.raises(VestibuleError):
            await IdentityApi(channel, east.trust_domain).bundle()
    finally:
        channel.close()


async def test_at_the_agents_upstream(east: Domain) -> None:
    """Whoever stands at the server's address with the server's ID, minted by the partner, is not the server."""
    bundle = await east.bundle()
    impostor = MINT.svid("spiffe://east.org/spire/server")
    sock = listen_tcp("127.0.0.1", 0)
    server = GrpcServer([])
    await server.listen(sock, tls=ServerTls(impostor, MINT.bundle).context)
    address = Address(host="127.0.0.1", port=sock.getsockname()[1])
    channel = ServerChannel(address, bundle=lambda: bundle, svid=lambda: None, clock=SystemClock())
    try:
        with pytest.raises(VestibuleError) as raised:
            await IdentityApi(channel, east.trust_domain).bundle()
        assert raised.value.code is SERVER_NOT_TRUSTED
    finally:
        channel.close()
        await server.close()


async def test_in_tokens(east: Domain) -> None:
    theirs = MINT.jwt_svid("/caller", "billing").token
    forged = MINT.jwt_svid(OURS, "billing").token
    svid = await validate_jwt_svid(theirs, "billing", address=east.agent_address)
    assert str(svid.spiffe_id) == "spiffe://mint.org/caller"
    with pytest.raises(VestibuleError):
        await validate_jwt_svid(forged, "billing", address=east.agent_address)
    bundles = await fetch_jwt_bundles(east.agent_address)
    assert verify_jwt_svid(theirs, "billing", bundles).spiffe_id == svid.spiffe_id
    with pytest.raises(VestibuleError):
        verify_jwt_svid(forged, "billing", bundles)


async def test_in_the_sdk_on_both_sides(east: Domain) -> None:
    async with X509Source(east.agent_address) as source:
        serving = server_context(source, authorize_ids(OURS, "spiffe://mint.org/caller"))
        async with echo(serving) as port:
            assert await ask(port, showing(MINT.svid("/caller"))) == "spiffe://mint.org/caller"
            assert await refused(port, showing(MINT.svid(OURS)))
            assert await refused(port, showing(TestAuthority("mint.org").svid("/caller")))
        for shown, welcome in ((MINT.svid("/caller"), True), (MINT.svid(OURS), False)):
            async with echo(impostor(shown)) as port:
                calling = client_context(source, authorize_member_of("mint.org" if welcome else "east.org"))
                if welcome:
                    await ask(port, calling)
                else:
                    with pytest.raises(ssl.SSLError):
                        await ask(port, calling)


def showing(svid: X509Svid) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    load_svid(context, svid)
    return context


def impostor(svid: X509Svid) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_svid(context, svid)
    return context


async def refused(port: int, context: ssl.SSLContext) -> bool:
    try:
        return await ask(port, context) == ""
    except OSError:
        return True
