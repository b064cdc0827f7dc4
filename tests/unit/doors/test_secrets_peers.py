"""Servers unseal each other over mutual TLS, and nobody else is answered."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from vestibule.calls.channel import ServerChannel
from vestibule.calls.secrets_peers import SecretsPeer
from vestibule.clock import SystemClock
from vestibule.doors.access import Access
from vestibule.doors.secrets_peers import Answers, SecretsPeersDoor
from vestibule.errors import VestibuleError
from vestibule.identity.administration import NOTHING
from vestibule.identity.beacon import Beacon
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.tls import ServerTls
from vestibule.records import Address
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, X509Svid
from vestibule.testing import TestAuthority

OURS = TestAuthority("example.org")
SERVER = OURS.svid("/spire/server")
KEY = bytes(range(32))


class Echo:
    """Answers with what it was told."""

    async def answer(self, public_key: bytes, caller: str) -> bytes:
        return public_key + caller.encode()


class Nobody:
    """Stands for services that are not asked."""

    def __init__(self) -> None:
        self.departures = Beacon()

    def rpc(self, *_: object) -> None:
        """Nobody counts."""


@asynccontextmanager
async def serving(
    answers: Answers | None, svid: X509Svid = SERVER, revocations: Revocations | None = None
) -> AsyncIterator[Address]:
    access = Access(
        cast(Any, Nobody()),
        lambda trust_domain: OURS.bundle if trust_domain == OURS.bundle.trust_domain else None,
        SystemClock(),
        Nobody(),
        lambda _: (),
        lambda _: NOTHING,
        lambda: revocations or Revocations(),
        server=SERVER.spiffe_id,
    )
    server = GrpcServer([access.guard(SecretsPeersDoor(answers).servable())])
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await server.listen(sock, tls=ServerTls(svid, OURS.bundle).context)
    try:
        yield Address(host="127.0.0.1", port=port)
    finally:
        await server.close()


async def asked(address: Address, svid: X509Svid | None = SERVER) -> bytes:
    return await SecretsPeer(
        lambda: ServerChannel(address, bundle=lambda: OURS.bundle, svid=lambda: svid, clock=SystemClock())
    ).unseal(KEY)


async def refusal(address: Address, svid: X509Svid | None = SERVER) -> str:
    with pytest.raises(VestibuleError) as error:
        await asked(address, svid)
    return f"{error.value.code.code} {error.value}"


async def test_a_server_is_answered() -> None:
    async with serving(Echo()) as address:
        assert await asked(address) == KEY + b"spiffe://example.org/spire/server"


async def test_nobody_else_is() -> None:
    async with serving(Echo()) as address:
        for svid in (OURS.svid("/ns/prod/sa/web"), OURS.svid("/vestibule/secrets"), None):
            assert "VST2323" in await refusal(address, svid)
        await refusal(address, TestAuthority("example.org").svid("/spire/server"))


async def test_a_revoked_server_is_not() -> None:
    now = SystemClock().now()
    revoked = Revocation(target=RevokedIdentity(spiffe_id=SERVER.spiffe_id), at=now, version=1)
    async with serving(Echo(), revocations=Revocations(1, (revoked,))) as address:
        assert "VST2322" in await refusal(address)


async def test_only_a_server_is_asked() -> None:
    async with serving(Echo(), OURS.svid("/ns/prod/sa/web")) as address:
        assert "VST2315" in await refusal(address)


async def test_where_it_is_not_configured_nothing_is_given() -> None:
    async with serving(None) as address:
        assert "VST5030" in await refusal(address)
