"""What every upstream authority promises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.identity.ca.lab import DOMAIN, NOW, Asking, Recorded, RootLab, ceremony

from vestibule.errors import VestibuleError
from vestibule.identity.ca.disk import DiskUpstream
from vestibule.identity.upstream import UpstreamAuthority
from vestibule.keys import MemoryKeyManager
from vestibule.pki.authority_chains import check_authority_chain
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key, key_to_pkcs8
from vestibule.pki.pem import pem_block
from vestibule.pki.profiles import Issuer, lifetime, svid
from vestibule.spiffe import SpiffeId, TrustBundle
from vestibule.testing import FakeClock
from vestibule.testing.upstream import TestUpstream

HOUR = timedelta(hours=1)


@dataclass
class Case:
    """An upstream, the instant that it lives at, and how its roots come to change."""

    upstream: UpstreamAuthority
    now: datetime
    change_roots: Callable[[], Awaitable[None]]


async def in_memory(path: Path) -> Case:
    upstream = TestUpstream(DOMAIN, intermediates=1, now=lambda: NOW)

    async def change() -> None:
        upstream.add_root()

    return Case(upstream, NOW, change)


async def from_disk(path: Path) -> Case:
    lab = await RootLab(path / "root").made()
    asking = Asking(path / "prod")
    key = generate_key()
    asking.keys.hold("prod", key)
    (path / "chain.pem").write_bytes(await lab.answers(await asking.asks("prod", key=False)))
    (path / "key.pem").touch(mode=0o600)
    (path / "key.pem").write_bytes(pem_block("PRIVATE KEY", key_to_pkcs8(key)))
    roots = path / "roots.pem"
    roots.write_bytes(lab.pem.read_bytes())
    upstream = DiskUpstream(path / "chain.pem", path / "key.pem", roots, DOMAIN, Recorded(), FakeClock(NOW))
    return Case(upstream, NOW, lambda: another_root(roots, path))


async def from_ceremony(path: Path) -> Case:
    lab = await RootLab(path / "root").made()
    roots = path / "roots.pem"
    roots.write_bytes(lab.pem.read_bytes())
    upstream = ceremony(path / "ceremony", roots, FakeClock(NOW), MemoryKeyManager())
    await upstream.start()
    await upstream.deliver(await lab.answers(upstream.state().request_file))
    return Case(upstream, NOW, lambda: another_root(roots, path))


async def another_root(roots: Path, path: Path) -> None:
    other = await RootLab(path / "other", "other-root").made()
    roots.write_bytes(roots.read_bytes() + other.pem.read_bytes())


MAKERS = {"test": in_memory, "disk": from_disk, "ceremony": from_ceremony}


@pytest.fixture(params=MAKERS)
async def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return await MAKERS[request.param](tmp_path)


async def test_what_it_mints_leads_to_its_roots_and_can_issue(case: Case) -> None:
    key, leaf = generate_key(), generate_key()
    minted = await case.upstream.mint(make_csr(key, DOMAIN.id), 24 * HOUR)
    check_authority_chain(minted.chain, minted.roots, key.public_key(), DOMAIN, case.now)
    issuer = Issuer.of(minted.chain[0], DOMAIN)
    workload = SpiffeId.parse("spiffe://example.org/web")
    builder = svid(workload, leaf.public_key(), lifetime(case.now, HOUR, issuer.not_after), issuer)
    der = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    bundle = TrustBundle(trust_domain=DOMAIN, x509_authorities=minted.roots)
    assert verify_x509_svid((der, *minted.chain), bundle, case.now) == workload
    assert not set(minted.roots) & set(minted.chain)


async def test_it_mints_for_no_longer_than_it_was_asked(case: Case) -> None:
    minted = await case.upstream.mint(make_csr(generate_key(), DOMAIN.id), HOUR)
    assert Issuer.of(minted.chain[0], DOMAIN).not_after <= case.now + HOUR


async def test_it_mints_for_any_number_of_keys(case: Case) -> None:
    minted = [await case.upstream.mint(make_csr(generate_key(), DOMAIN.id), HOUR) for _ in range(3)]
    assert len({each.chain[0] for each in minted}) == 3


async def test_a_request_whose_key_is_not_proven_is_refused(case: Case) -> None:
    csr = make_csr(generate_key(), DOMAIN.id)
    with pytest.raises(VestibuleError, match="VST1001"):
        await case.upstream.mint(csr[:-1] + bytes([csr[-1] ^ 1]), HOUR)


async def test_its_roots_are_told_at_once_and_after_a_change(case: Case) -> None:
    minted = await case.upstream.mint(make_csr(generate_key(), DOMAIN.id), HOUR)
    async with asyncio.timeout(60):
        news = case.upstream.roots()
        first = await anext(news)
        assert set(minted.roots) == set(first)
        await case.change_roots()
        assert set(await anext(news)) != set(first)


async def test_it_has_a_name_for_the_audit_log(case: Case) -> None:
    assert case.upstream.name
    assert case.now.tzinfo is UTC
