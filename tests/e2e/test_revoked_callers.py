"""Callers that are revoked, as the real Envoys of their callees treat them: on connections that are open."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.e2e.mesh_lab import (
    DOMAIN,
    PATIENCE,
    App,
    Echo,
    Lab,
    Proxy,
    Reply,
    Wire,
    client_tls,
    intent_of,
    rule,
    service,
    spiffe_id,
    until,
    wire,
)
from tests.e2e.shared_mesh import Shared
from tests.e2e.thief import Signer, issued, with_another_signature

from vestibule.envoy.codes import CALLER_REVOKED
from vestibule.envoy.revoked import written
from vestibule.envoy.told import HEADER
from vestibule.intent.model import DenyDetail
from vestibule.pki import profiles
from vestibule.pki.certificates import load_certificate
from vestibule.pki.revocation import certificate_facts
from vestibule.records import Address
from vestibule.spiffe import (
    Reason,
    Revocation,
    Revocations,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
    SpiffeId,
    X509Svid,
)
from vestibule.spiffe.revocations import MARK_BITS, Target
from vestibule.xds.resources import EXTENSION, LISTENER

PAYMENTS = service(
    "payments", rule("payments/all", "web", "other"), detail=DenyDetail.CALLER, http="http", sql="tcp"
)
BOUND = PATIENCE
"""Seconds within which what was under way has ended: the drain time, 1 s here, and patience with a busy machine."""


@dataclass
class Mesh:
    """Some call payments by themselves, with certificates of their own."""

    lab: Lab
    payments: Proxy

    @property
    def ingress(self) -> Address:
        return self.payments.instance.ingress["http"]

    async def revoke(self, *targets: Target, reason: Reason = Reason.KEY_COMPROMISE) -> None:
        """Add to what is revoked, and tell the proxies."""
        before = self.lab.world.revocations
        version = before.version + 1
        made = [
            Revocation(target=each, at=datetime.now(UTC), version=version + number, reason=reason)
            for number, each in enumerate(targets)
        ]
        self.lab.world = replace(
            self.lab.world, revocations=before.merged(made, version + len(made), datetime.now(UTC))
        )
        await self.lab.tell()

    async def connect(self, svid: X509Svid) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the port that carries bytes, in use."""
        place, tls = self.payments.instance.ingress["sql"], client_tls(svid, self.lab.directory)
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=tls)
        writer.write(b"x")
        return reader, writer

    async def forget(self) -> None:
        self.lab.world = replace(self.lab.world, revocations=Revocations())
        await self.lab.tell()


@asynccontextmanager
async def made() -> AsyncIterator[Mesh]:
    async with Lab(intent_of(service("web"), service("other"), PAYMENTS)) as lab:
        app, echo = App("payments"), Echo("payments")
        for each in (app, echo):
            await each.start()
            lab.also(each.stop)
        payments = await lab.add("payments", apps={"http": app.address, "sql": echo.address})
        await lab.ready()
        yield Mesh(lab, payments)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Mesh]]:
    with Shared(made) as shared:
        yield shared


def facts_of(certificate: bytes) -> tuple[str, str, str]:
    facts = certificate_facts(certificate)
    identifier = profiles.key_identifier(load_certificate(certificate).public_key()).digest.hex()
    return facts.fingerprint, facts.key, identifier


async def refused(connection: Wire) -> Reply:
    """The first refusal on this connection; until then calls are answered."""
    async with asyncio.timeout(PATIENCE):
        while (reply := await connection.ask("GET", "/a")).status == 200:
            pass
    return reply


async def is_refused_once_revoked(
    mesh: Mesh, svid: X509Svid, *targets: Target, reason: Reason = Reason.KEY_COMPROMISE
) -> None:
    """The next request on the connection that is open, and on new ones; never that of somebody else."""
    stranger = client_tls(mesh.lab.issue(spiffe_id("other")), mesh.lab.directory)
    thief = client_tls(svid, mesh.lab.directory)
    async with wire(mesh.ingress, thief) as open_already, wire(mesh.ingress, stranger) as other:
        assert (await open_already.ask("GET", "/a")).status == 200
        assert (await other.ask("GET", "/a")).status == 200
        await mesh.revoke(*targets, reason=reason)
        reply = await refused(open_already)
        assert (reply.status, reply.error) == (403, CALLER_REVOKED.code)
        assert reply.headers[HEADER] == f"{CALLER_REVOKED.code} vestibule/revoked - v1"
        async with wire(mesh.ingress, thief) as again:
            assert (await again.ask("GET", "/a")).error == CALLER_REVOKED.code
        assert (await other.ask("GET", "/a")).status == 200
    assert not mesh.payments.refused
    await mesh.forget()
    # What comes next begins with a proxy that has forgotten it.
    async with asyncio.timeout(PATIENCE), wire(mesh.ingress, thief) as later:
        while (await later.ask("GET", "/a")).status != 200:
            await asyncio.sleep(0.01)


def test_an_identity_is_refused_on_the_open_connection_and_the_log_says_why(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        svid = mesh.lab.issue(spiffe_id("web"))
        await is_refused_once_revoked(mesh, svid, RevokedIdentity(spiffe_id=spiffe_id("web")))

        def logged() -> list[Any]:
            found = (entry for _, entry in mesh.payments.requests)
            return [
                each for each in found if "vestibule/revoked/identity" in each.response.response_code_details
            ]

        entry = (await until(logged, "the refusal is not logged"))[0]
        assert entry.common_properties.custom_tags["peer_serial"] == written(svid.serial)

    mesh.run(story)


def test_of_an_identity_that_goes_on_only_older_certificates_are_refused(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        old = issued(mesh.lab.authority, spiffe_id("web"), now=now - timedelta(minutes=5))
        before = RevokedIdentity(
            spiffe_id=spiffe_id("web"), issued_before=old.not_before + timedelta(seconds=1)
        )
        new = issued(
            mesh.lab.authority, spiffe_id("web"), now=now - timedelta(minutes=5) + timedelta(seconds=1)
        )
        newest = issued(mesh.lab.authority, spiffe_id("web"))
        await is_refused_once_revoked(mesh, old, before)
        await mesh.revoke(before)
        async with wire(mesh.ingress, client_tls(old, mesh.lab.directory)) as thief:
            await refused(thief)
        for each in (new, newest):
            async with wire(mesh.ingress, client_tls(each, mesh.lab.directory)) as web:
                assert (await web.ask("GET", "/a")).status == 200
        await mesh.forget()

    mesh.run(story)


@pytest.mark.parametrize("serial", [0x0ABC, 0xABCD, 2**159 - 1, 2**127 + 5])
def test_one_certificate_is_refused_and_the_workloads_next_one_is_not(
    mesh: Shared[Mesh], serial: int
) -> None:
    async def story(mesh: Mesh) -> None:
        svid = issued(mesh.lab.authority, spiffe_id("web"), serial=serial)
        target = RevokedCertificate(authority_id="ab" * 20, serial=svid.serial)
        await is_refused_once_revoked(mesh, svid, target)
        await mesh.revoke(target)
        async with wire(mesh.ingress, client_tls(svid, mesh.lab.directory)) as thief:
            await refused(thief)
        next_one = client_tls(mesh.lab.issue(spiffe_id("web")), mesh.lab.directory)
        async with wire(mesh.ingress, next_one) as web:
            assert (await web.ask("GET", "/a")).status == 200
        await mesh.forget()

    mesh.run(story)


@pytest.mark.parametrize("mark", [0x7EDC_BA98_7654_3210, 0x0000_0A98_7654_3210, 1])
def test_all_that_came_through_an_agent_is_refused(mesh: Shared[Mesh], mark: int) -> None:
    async def story(mesh: Mesh) -> None:
        svid = issued(mesh.lab.authority, spiffe_id("web"), serial=mark << MARK_BITS | 0x1234)
        agent = SpiffeId.of(DOMAIN, "/spire/agent/lost")
        await is_refused_once_revoked(mesh, svid, RevokedAgent(agent_id=agent, mark=mark))

    mesh.run(story)


def test_a_certificate_with_its_signature_rewritten_is_still_the_revoked_one(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        svid = mesh.lab.issue(spiffe_id("web"))
        target = RevokedCertificate(authority_id="ab" * 20, serial=svid.serial)
        rewritten = replace(svid, chain=(with_another_signature(svid.chain[0]),))
        await is_refused_once_revoked(mesh, rewritten, target)

    mesh.run(story)


def test_what_a_stolen_intermediate_signed_is_refused(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        stolen = Signer(mesh.lab.authority)
        fingerprint, key, authority_id = facts_of(stolen.certificate)
        svid = issued(stolen, spiffe_id("web"))
        await is_refused_once_revoked(mesh, svid, RevokedAuthority(fingerprint=fingerprint))
        whole = RevokedAuthority(fingerprint=fingerprint, key=key, authority_id=authority_id)
        await is_refused_once_revoked(mesh, svid, whole)
        # The thief shows the intermediate with its signature rewritten, so that its fingerprint is another one.
        leaf, intermediate = svid.chain
        rewritten = replace(svid, chain=(leaf, with_another_signature(intermediate)))
        await is_refused_once_revoked(mesh, rewritten, whole)

    mesh.run(story)


def test_what_a_thief_signed_with_authorities_of_his_own_below_a_stolen_one_is_refused(
    mesh: Shared[Mesh],
) -> None:
    async def story(mesh: Mesh) -> None:
        stolen = Signer(mesh.lab.authority)
        svid = issued(Signer(Signer(stolen)), spiffe_id("web"))
        *below, intermediate = svid.chain
        hidden = replace(svid, chain=(*below, with_another_signature(intermediate)))
        fingerprint, key, authority_id = facts_of(stolen.certificate)
        # Beside the authority itself stands its certificate on the list, by its serial number.
        both = (
            RevokedAuthority(fingerprint=fingerprint, key=key, authority_id=authority_id),
            RevokedCertificate(authority_id="ab" * 20, serial=stolen.serial),
        )
        await is_refused_once_revoked(mesh, hidden, *both, reason=Reason.CA_COMPROMISE)

    mesh.run(story)


# -------------------------------------------------------------------------- what is under way when that happens


@pytest.mark.parametrize("by", ["identity", "certificate"])
def test_connections_and_requests_under_way_end_within_the_drain_time(mesh: Shared[Mesh], by: str) -> None:
    async def story(mesh: Mesh) -> None:
        svid = mesh.lab.issue(spiffe_id("web"))
        certificate = RevokedCertificate(authority_id="ab" * 20, serial=svid.serial)
        target = certificate if by == "certificate" else RevokedIdentity(spiffe_id=spiffe_id("web"))
        reader, writer = await mesh.connect(svid)
        assert await asyncio.wait_for(reader.read(100), PATIENCE) == b"payments:x"
        async with wire(mesh.ingress, client_tls(svid, mesh.lab.directory)) as web:
            # A body that never ends.
            asking = asyncio.create_task(web.ask("POST", "/a", content__length="10"))
            async with asyncio.timeout(PATIENCE):
                while "rq_active: 1" not in await mesh.payments.ask(
                    "/stats?filter=ingress.downstream_rq_active"
                ):
                    await asyncio.sleep(0.01)
            await mesh.revoke(target)
            async with asyncio.timeout(BOUND):
                assert await reader.read(1) == b""
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await asking
        writer.close()
        again, writer = await mesh.connect(svid)
        with suppress(ConnectionError, ssl.SSLError):
            assert await asyncio.wait_for(again.read(100), PATIENCE) == b""
        writer.close()
        await mesh.forget()

    mesh.run(story)


def test_a_revocation_that_concerns_no_caller_of_a_port_ends_nothing_there(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        before = mesh.payments.snapshot()
        await mesh.revoke(RevokedIdentity(spiffe_id=spiffe_id("ledger")))
        after = mesh.payments.snapshot()
        assert after.of_type(LISTENER) == before.of_type(LISTENER)
        assert after.of_type(EXTENSION) != before.of_type(EXTENSION)
        await mesh.revoke(RevokedIdentity(spiffe_id=spiffe_id("web")))
        assert mesh.payments.snapshot().of_type(LISTENER) != before.of_type(LISTENER)
        await mesh.forget()

    mesh.run(story)


def test_twenty_thousand_revocations_are_taken_and_enforced(mesh: Shared[Mesh]) -> None:
    async def story(mesh: Mesh) -> None:
        svid = mesh.lab.issue(spiffe_id("web"))
        others = (
            RevokedCertificate(authority_id="ab" * 20, serial=2**127 + number) for number in range(20_000)
        )
        target = RevokedCertificate(authority_id="ab" * 20, serial=svid.serial)
        await is_refused_once_revoked(mesh, svid, *others, target)

    mesh.run(story)
