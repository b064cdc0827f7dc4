"""From the operator's order to the refusal: a real server and a real agent as processes, and a library client here.

For each of several identities, one order goes to the server's private socket, and four kinds of refusal are polled for
from that instant on, each by its own task:

- issuance: the server mints nothing more for the identity;
- agent: the SVID is gone from the agent's hands, so that no workload and no Envoy is given it;
- token: the agent's ValidateJWTSVID refuses a JWT-SVID of the identity;
- library: a TLS handshake with a peer that still shows the SVID fails (``X509Source`` and its contexts).

Then, in this process alone, what a list of 100,000 revocations costs: one question, one more revocation, and the whole
list from one process' socket to a new follower.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from _comparison import machine
from _deployment import Deployment, create_entries, deployment
from _server import TRUST_DOMAIN

from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.doors.revocation_feed import RevocationFeedDoor
from vestibule.errors import VestibuleError
from vestibule.net.grpc_server import GrpcServer
from vestibule.net.unix import PRIVATE, listen_unix
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.sdk import X509Source, authorize_member_of, client_context, server_context
from vestibule.spiffe import (
    JwtSvid,
    Revocation,
    Revocations,
    RevokedCertificate,
    SpiffeId,
    TrustBundle,
    TrustDomain,
    X509Svid,
)
from vestibule.spiffe.revocations import CertificateFacts
from vestibule.wire.gen.spire import svid_pb2
from vestibule.wire.gen.vestibule.admin.v1 import revocation_pb2

ADMIN = revocation_pb2.DESCRIPTOR.services_by_name["RevocationAdmin"]
SVID = svid_pb2.DESCRIPTOR.services_by_name["SVID"]
LIMIT = 1.0
"""Seconds from the order to the last of the refusals."""
PATIENCE = 30.0
MANY = 100_000
KINDS = ("issuance", "agent", "token", "library")


@dataclass
class Thief:
    """Goes on showing an SVID, whatever is revoked."""

    svid: X509Svid
    context: X509Context
    revocations: Revocations

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle:
        return self.context.bundles[0]


async def refused_after(began: float, refused: Callable[[], Awaitable[bool]]) -> float:
    """Seconds from ``began`` until it is refused."""
    async with asyncio.timeout(PATIENCE):
        while not await refused():
            await asyncio.sleep(0.002)
    return time.monotonic() - began


async def fails(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except (VestibuleError, OSError, ssl.SSLError):
        return True
    return False


async def one(mesh: Deployment, source: X509Source, spiffe_id: SpiffeId) -> dict[str, float]:
    """One identity revoked: seconds until each kind of refusal."""
    held = next(each for each in source.context.svids if each.spiffe_id == spiffe_id)
    thief = Thief(held, source.context, Revocations())
    anyone = authorize_member_of(TRUST_DOMAIN)
    channel = unix_channel(mesh.directory / "agent.sock")
    api = WorkloadApi(channel)
    [token] = await api.fetch_jwt_svids(["bench"], spiffe_id)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    peer = await asyncio.start_server(close, "127.0.0.1", 0, ssl=server_context(thief, anyone))
    port = peer.sockets[0].getsockname()[1]

    async def mint() -> object:
        request = svid_pb2.MintX509SVIDRequest(csr=make_csr(generate_key(), spiffe_id))
        return await mesh.call("server.sock", SVID, "MintX509SVID", request)

    async def handshake() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(source, anyone))
        writer.close()

    async def validate() -> JwtSvid:
        return await api.validate_jwt_svid(token.token, "bench")

    async def gone() -> bool:
        return all(svid.spiffe_id != str(spiffe_id) for svid in (await mesh.agent_status()).svids)

    assert not await fails(handshake)
    assert not await fails(validate)
    try:
        began = time.monotonic()
        order = revocation_pb2.RevokeRequest(identity=str(spiffe_id), reason="keyCompromise")
        _, *seconds = await asyncio.gather(
            mesh.call("server.sock", ADMIN, "Revoke", order),
            refused_after(began, lambda: fails(mint)),
            refused_after(began, gone),
            refused_after(began, lambda: fails(validate)),
            refused_after(began, lambda: fails(handshake)),
        )
    finally:
        peer.close()
        channel.close()
    return dict(zip(KINDS, seconds, strict=True))


async def rounds(mesh: Deployment, count: int) -> list[dict[str, float]]:
    # One more than are revoked: without any identity, this process would be told nothing.
    await create_entries(mesh, count + 1)
    async with X509Source(f"unix://{mesh.directory}/agent.sock") as source:
        ids = [SpiffeId.of(TRUST_DOMAIN, f"/ns/bench/sa/s{number}") for number in range(count)]
        return [await one(mesh, source, each) for each in ids]


class Still:
    """A list that does not change."""

    revision = 0

    def __init__(self, now: Revocations) -> None:
        self.now = now

    async def changed(self, _since: int) -> int:
        return await asyncio.Event().wait() or 0

    def hear(self, _version: int) -> None:
        """Nobody has more."""


async def whole_list(revocations: Revocations) -> float:
    """Seconds until a new follower has it all."""
    with tempfile.TemporaryDirectory() as directory:
        listener = listen_unix(Path(directory) / "s", PRIVATE)
        server = GrpcServer([RevocationFeedDoor(Still(revocations)).servable()])
        await server.listen(listener.sock)
        channel = unix_channel(Path(directory) / "s")
        began, taken = time.monotonic(), Revocations()
        async with contextlib.aclosing(RevocationFeed(channel).watch(0)) as updates:
            found: list[Revocation] = []
            async for update in updates:
                found += update.changes
                if not update.more:
                    taken = taken.merged(found, update.version, datetime.now(UTC))
                    break
        seconds = time.monotonic() - began
        channel.close()
        await server.close()
        listener.close()
    assert len(taken) == len(revocations)
    return seconds


def many() -> None:
    now = datetime.now(UTC)
    made = tuple(
        Revocation(target=RevokedCertificate(authority_id="0a" * 20, serial=n), at=now, version=n)
        for n in range(1, MANY + 1)
    )
    revocations = Revocations(MANY, made)
    facts = CertificateFacts(
        fingerprint="ab" * 32,
        key="cd" * 32,
        authority_id="0a" * 20,
        serial=MANY + 1,
        spiffe_id=SpiffeId.of(TRUST_DOMAIN, "/web"),
        not_before=now,
    )
    began = time.perf_counter()
    for _ in range(10_000):
        revocations.of_certificate(facts, now)
    question = (time.perf_counter() - began) / 10_000
    new = Revocation(target=RevokedCertificate(authority_id="0b", serial=1), at=now, version=MANY + 1)
    began = time.perf_counter()
    revocations.merged([new], MANY + 1, now)
    more = time.perf_counter() - began
    whole = asyncio.run(whole_list(revocations))
    print(
        f"{MANY} revocations: a question {question * 1e6:.1f} µs, one more {more * 1e3:.0f} ms, "
        f"the whole list to a new follower {whole:.2f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="identities to revoke, one after the other")
    wanted = parser.parse_args()
    print(machine())
    with deployment() as mesh:
        found = asyncio.run(rounds(mesh, wanted.rounds))
    worst = 0.0
    for kind in KINDS:
        values = [each[kind] for each in found]
        worst = max(worst, *values)
        print(
            f"order to refusal, {kind:<8} median {statistics.median(values) * 1e3:6.0f} ms, "
            f"max {max(values) * 1e3:6.0f} ms"
        )
    many()
    ok = worst < LIMIT
    print(
        f"{'ok' if ok else 'MISSED'}: the last refusal {worst:.3f} s after its order; the limit is {LIMIT:g} s"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
