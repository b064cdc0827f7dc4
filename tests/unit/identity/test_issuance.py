"""Who gets which SVID, and what stands in the way."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from tests.unit.identity.world import AGENT, World, entry, spiffe

from vestibule.errors import VestibuleError
from vestibule.identity.issuance import MAX_BATCH, IssuedSvid, SvidRequest
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import SpiffeId


def csr(path: str | None = None) -> bytes:
    return make_csr(generate_key(), spiffe(path) if path else None)


async def ask(world: World, entry_id: str, request: bytes) -> IssuedSvid | VestibuleError:
    [outcome] = await world.issuance.for_workloads(AGENT, [SvidRequest(entry_id=entry_id, csr=request)])
    return outcome


def code(outcome: IssuedSvid | VestibuleError) -> str:
    return outcome.code.code if isinstance(outcome, VestibuleError) else "issued"


async def test_an_svid_carries_what_the_entry_says(world: World) -> None:
    [web] = await world.create(
        entry("/web", AGENT, x509_svid_ttl=timedelta(minutes=5), dns_names=("web.example.org",))
    )
    outcome = await ask(world, web.id, csr("/web"))
    assert isinstance(outcome, IssuedSvid)
    assert verify_x509_svid(outcome.chain, world.authorities.bundle(), world.clock.now()) == spiffe("/web")
    assert outcome.not_after == world.clock.now() + timedelta(minutes=5)
    leaf = x509.load_der_x509_certificate(outcome.chain[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["web.example.org"]
    assert str(leaf.serial_number) == outcome.serial


async def test_a_csr_without_a_uri_is_fine_because_the_entry_decides(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    outcome = await ask(world, web.id, csr())
    assert isinstance(outcome, IssuedSvid)
    assert outcome.spiffe_id == spiffe("/web")


async def test_a_csr_for_somebody_else_is_refused(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    assert code(await ask(world, web.id, csr("/admin"))) == "VST1200"
    foreign = make_csr(generate_key(), SpiffeId.parse("spiffe://evil.org/web"))
    assert code(await ask(world, web.id, foreign)) == "VST1200"


async def test_another_agents_entry_is_refused_like_one_that_is_not_there(world: World) -> None:
    [other] = await world.create(entry("/web", "/spire/agent/join_token/other"))
    theirs, nothing = await ask(world, other.id, csr()), await ask(world, "nothing", csr())
    assert code(theirs) == code(nothing) == "VST1201"


@pytest.mark.parametrize(
    ("mangle", "expected"),
    [
        (lambda _der: b"", "VST1202"),
        (lambda _der: b"\x30\x03abc", "VST1000"),
        (lambda der: der[:-8] + bytes(8), "VST1000|VST1001"),
    ],
)
async def test_a_csr_that_does_not_prove_its_key_is_refused(
    world: World, mangle: object, expected: str
) -> None:
    [web] = await world.create(entry("/web", AGENT))
    assert callable(mangle)
    assert code(await ask(world, web.id, mangle(csr()))) in expected.split("|")


async def test_no_svid_outlives_its_signer(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT, x509_svid_ttl=timedelta(days=2)))
    outcome = await ask(world, web.id, csr())
    assert isinstance(outcome, IssuedSvid)
    assert outcome.not_after == world.authorities.active.not_after


async def test_one_bad_request_does_not_spoil_the_batch(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    requests = [
        SvidRequest(entry_id="nothing", csr=csr()),
        SvidRequest(entry_id=web.id, csr=csr()),
        SvidRequest(entry_id="", csr=csr()),
    ]
    outcomes = await world.issuance.for_workloads(AGENT, requests)
    assert [code(outcome) for outcome in outcomes] == ["VST1201", "issued", "VST1202"]
    assert [event.outcome for event in world.audit.events[-3:]] == ["VST1201", "ok", "VST1202"]


async def test_a_batch_has_a_size(world: World) -> None:
    request = SvidRequest(entry_id="1", csr=b"x")
    with pytest.raises(VestibuleError, match="VST1207"):
        await world.issuance.for_workloads(AGENT, [request] * (MAX_BATCH + 1))
    with pytest.raises(VestibuleError, match="VST1202"):
        await world.issuance.for_workloads(AGENT, [])


async def test_what_is_not_on_record_does_not_leave(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    world.audit.broken = True
    with pytest.raises(VestibuleError, match="VST8100"):
        await ask(world, web.id, csr())
    with pytest.raises(VestibuleError, match="VST8100"):
        await world.issuance.mint("operator", csr("/web"), None)
    assert world.issuance.newest_expiry(AGENT, spiffe("/web")) is None


async def test_every_svid_is_on_record_with_its_serial_and_without_its_key(world: World) -> None:
    [web] = await world.create(entry("/web", AGENT))
    outcome = await ask(world, web.id, csr())
    assert isinstance(outcome, IssuedSvid)
    event = world.audit.events[-1]
    assert (event.actor, event.action, event.subject) == (str(AGENT), "svid.issue", str(spiffe("/web")))
    assert event.details["serial"] == outcome.serial
    assert set(event.details) == {"entry_id", "csr_sha256", "serial", "not_after"}


async def test_minting_is_for_workloads_of_this_trust_domain_only(world: World) -> None:
    minted = await world.issuance.mint("operator", csr("/web"), timedelta(minutes=1))
    assert minted.spiffe_id == spiffe("/web")
    for path, expected in (("/spire/agent/x", "VST1205"), ("/spire/server", "VST1205")):
        with pytest.raises(VestibuleError, match=expected):
            await world.issuance.mint("operator", csr(path), None)
    with pytest.raises(VestibuleError, match="VST1202"):
        await world.issuance.mint("operator", csr(), None)
    with pytest.raises(VestibuleError, match="VST1209"):
        await world.issuance.mint("operator", csr("/web"), timedelta(seconds=-1))
    foreign = make_csr(generate_key(), SpiffeId.parse("spiffe://evil.org/web"))
    with pytest.raises(VestibuleError, match="VST1204"):
        await world.issuance.mint("operator", foreign, None)
