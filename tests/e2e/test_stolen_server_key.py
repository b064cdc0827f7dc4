"""A callee's key was stolen, and somebody answers with it at the callee's address: its callers leave, and stay away.

Envoy's SPIFFE validator ignores certificate revocation lists, and a connection that is open is asked for nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.e2e.mesh_lab import (
    DOMAIN,
    PATIENCE,
    Lab,
    Proxy,
    Reply,
    Wire,
    free_address,
    intent_of,
    rule,
    service,
    spiffe_id,
    wire,
)
from tests.e2e.shared_mesh import Shared
from tests.e2e.thief import Impostor, Signer, issued, with_another_signature

from vestibule.envoy.codes import CALLEE_UNREACHABLE, NO_INSTANCE
from vestibule.pki.crls import RevokedSerial, crl_builder
from vestibule.records import Address, Distrust, Instance, identity_digest
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity, SpiffeId, X509Svid
from vestibule.testing import TestAuthority

PAYMENTS = service("payments", rule("payments/all", "web"), http="http", sql="tcp")
ID = spiffe_id("payments")


@dataclass
class Mesh:
    """web calls payments, in whose place there is nobody, or somebody."""

    lab: Lab
    web: Proxy
    place: Address
    bytes_place: Address

    def lists(self, *revoked: X509Svid) -> bytes:
        """The revocation list of the mesh's authority."""
        now = datetime.now(UTC)
        top = x509.load_der_x509_certificate(self.lab.authority.certificate)
        named = [RevokedSerial(serial=each.serial, at=now, reason="keyCompromise") for each in revoked]
        later = now + timedelta(hours=1)
        builder = crl_builder(top, named, number=1, now=now, next_update=later)
        return builder.sign(self.lab.authority.key, SHA256()).public_bytes(Encoding.PEM)

    async def distrust(self, distrust: Distrust) -> None:
        self.lab.world = replace(self.lab.world, distrust=distrust)
        await self.lab.tell()

    async def back_to_normal(self) -> None:
        self.lab.world = replace(self.lab.world, revocations=Revocations())
        await self.distrust(Distrust())

    @asynccontextmanager
    async def impostor(self, svid: X509Svid) -> AsyncIterator[Impostor]:
        impostor = Impostor(svid)
        await impostor.listen(self.place, self.bytes_place)
        try:
            yield impostor
        finally:
            await impostor.stop()


@asynccontextmanager
async def made() -> AsyncIterator[Mesh]:
    async with Lab(intent_of(service("web"), PAYMENTS)) as lab:
        places = {"http": free_address(), "sql": free_address()}
        lab.world = replace(lab.world, instances=(payments(places),))
        web = await lab.add("web", upstreams={"payments/sql": free_address()})
        await lab.ready()
        yield Mesh(lab, web, places["http"], places["sql"])


def payments(places: dict[str, Address]) -> Instance:
    agent = SpiffeId.of(DOMAIN, "/spire/agent/test")
    return Instance(
        id="payments-1", service="payments", spiffe_id=ID, agent_id=agent, ingress=places, apps=places
    )


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Mesh]]:
    with Shared(made) as shared:
        yield shared


async def called(mesh: Mesh, connection: Wire) -> Reply:
    return await connection.ask("GET", "/a", "payments")


async def until_refused(mesh: Mesh, connection: Wire) -> Reply:
    """Until the caller no longer believes who answers."""
    async with asyncio.timeout(PATIENCE):
        while (reply := await called(mesh, connection)).status == 200:
            await asyncio.sleep(0.01)
    return reply


async def until_answered(mesh: Mesh, connection: Wire) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await called(mesh, connection)).status != 200:
            await asyncio.sleep(0.01)


def test_a_stolen_certificate_is_believed_no_more_and_open_pools_are_left(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        stolen, new = mesh.lab.issue(ID), mesh.lab.issue(ID)
        async with wire(mesh.web.instance.egress) as web:
            async with mesh.impostor(stolen) as thief:
                # Before anything is revoked it is believed: that is what was stolen.
                await until_answered(mesh, web)
                assert thief.connections == 1
                lists = mesh.lists(stolen)
                await mesh.distrust(Distrust(identities=frozenset({identity_digest(ID)}), crl=lists))
                reply = await until_refused(mesh, web)
                assert (reply.status, reply.error) == (503, CALLEE_UNREACHABLE.code)
                heard = len(thief.asked)
                for _ in range(5):
                    assert (await called(mesh, web)).status == 503
                # Neither the connection that was open nor a new one brings it a request.
                assert len(thief.asked) == heard
            await until_logged(mesh, "CERTIFICATE_VERIFY_FAILED")
            # The real one comes back with another certificate, at the same address, and is believed.
            async with mesh.impostor(new):
                await until_answered(mesh, web)
                await mesh.back_to_normal()
                await until_answered(mesh, web)
        assert not mesh.web.refused

    mesh.run(story)


async def until_logged(mesh: Mesh, reason: str) -> None:
    """Until the caller's access log gives that reason: Envoy sends its entries after its answers."""
    async with asyncio.timeout(PATIENCE):
        while not any(reason in why for why in failures(mesh)):
            await asyncio.sleep(0.01)


def failures(mesh: Mesh) -> list[str]:
    return [each.common_properties.upstream_transport_failure_reason for _, each in mesh.web.requests]


def test_whom_a_stolen_intermediate_vouches_for_is_believed_no_more(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        stolen = Signer(mesh.lab.authority)
        forged = issued(Signer(stolen), ID)
        *below, intermediate = forged.chain
        hidden = replace(forged, chain=(*below, with_another_signature(intermediate)))
        for each in (issued(stolen, ID), forged, hidden):
            async with mesh.impostor(each), wire(mesh.web.instance.egress) as web:
                await until_answered(mesh, web)
                # An authority without a list signs for nobody.
                await mesh.distrust(Distrust(everybody=True, crl=mesh.lists()))
                assert (await until_refused(mesh, web)).error == CALLEE_UNREACHABLE.code
            async with mesh.impostor(mesh.lab.issue(ID)), wire(mesh.web.instance.egress) as web:
                await until_answered(mesh, web)
            await mesh.back_to_normal()

    mesh.run(story)


def test_with_lists_a_callee_still_has_to_prove_its_own_identity(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        other, foreign = spiffe_id("web"), TestAuthority("example.org")
        await mesh.distrust(Distrust(everybody=True, crl=mesh.lists()))
        for each in (mesh.lab.issue(other), issued(foreign, ID)):
            async with mesh.impostor(each) as thief, wire(mesh.web.instance.egress) as web:
                assert (await called(mesh, web)).status == 503
                assert not thief.asked
        await mesh.back_to_normal()

    mesh.run(story)


def test_a_callee_whose_identity_is_revoked_for_good_is_called_by_nobody(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        async with mesh.impostor(mesh.lab.issue(ID)) as thief, wire(mesh.web.instance.egress) as web:
            await until_answered(mesh, web)
            upstream = mesh.web.instance.upstreams["payments/sql"]
            reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
            writer.write(b"x")
            assert await asyncio.wait_for(reader.read(1), PATIENCE) == b"x"
            revoked = Revocation(target=RevokedIdentity(spiffe_id=ID), at=datetime.now(UTC), version=1)
            mesh.lab.world = replace(mesh.lab.world, revocations=Revocations(1, (revoked,)))
            await mesh.lab.tell()
            reply = await until_refused(mesh, web)
            assert (reply.status, reply.error) == (503, NO_INSTANCE.code)
            heard = len(thief.asked)
            assert (await called(mesh, web)).status == 503
            assert len(thief.asked) == heard
            # A connection that carries bytes is closed, too.
            assert await asyncio.wait_for(reader.read(1), PATIENCE) == b""
            writer.close()
        await mesh.back_to_normal()

    mesh.run(story)
