"""Tokens bound to keys that the agent hands out, in time that stands still."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from vestibule.agent.cache import Holdings, SvidCache
from vestibule.agent.vault import from_document, to_document
from vestibule.agent.wit_svids import ALGORITHM, WitSvids
from vestibule.errors import VestibuleError
from vestibule.identity.codes import WIT_SVIDS_DISABLED
from vestibule.net.codes import UNREACHABLE
from vestibule.pki.jwt import UnsignedJwt
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.wit import TYPE, bound_key, wit_claims
from vestibule.records import Entry
from vestibule.spiffe import JwtAuthority, Selector, SpiffeId, TrustBundle, TrustDomain
from vestibule.testing import FakeClock

TD = TrustDomain.parse("example.org")
MINUTE = timedelta(minutes=1)


def entry(**more: Any) -> Entry:
    plain = Entry(
        id="web",
        spiffe_id=SpiffeId.of(TD, "/web"),
        parent_id=SpiffeId.of(TD, "/spire/agent/x"),
        selectors=frozenset({Selector("test", "a")}),
    )
    return replace(plain, **more)


class Bench:
    """An agent's tokens, and the server that signs them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.key = generate_key()
        self.cache = SvidCache()
        self.trust("k")
        self.asked = 0
        self.refuses: VestibuleError | None = None
        self.signs_for = SpiffeId.of(TD, "/web")
        self.binds: bytes | None = None
        self.svids = WitSvids(self.cache, self, self.clock, lambda: None)

    def trust(self, name: str, *, tainted: bool = False) -> None:
        der = public_key_der(self.key.public_key())
        authority = JwtAuthority(key_id=name, public_key=der, tainted=tainted)
        bundle = TrustBundle(trust_domain=TD, x509_authorities=(), wit_authorities=(authority,))
        self.cache.become(Holdings(bundle=bundle))

    async def new_wit_svid(self, entry_id: str, public_key: bytes, algorithm: str) -> str:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        now = self.clock.now()
        jwk = bound_key(self.binds or public_key, algorithm)
        claims = wit_claims(self.signs_for, jwk, now, 10 * MINUTE, now + 60 * MINUTE, str(self.asked))
        unsigned = UnsignedJwt(key_id="k", claims=claims, typ=TYPE)
        return unsigned.signed(self.key.sign(unsigned.signing_input, ECDSA(SHA256())))


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def code_of(bench: Bench) -> str:
    with pytest.raises(VestibuleError) as caught:
        await bench.svids.fetch(entry())
    return caught.value.code.code


async def test_a_token_is_asked_for_once_until_its_half_life_and_then_for_another_key(bench: Bench) -> None:
    first = await bench.svids.fetch(entry(hint="h"))
    assert (first.svid.hint, first.svid.algorithm) == ("h", ALGORITHM)
    assert first.key not in repr(first)
    bench.clock.advance(5 * MINUTE - timedelta(seconds=1))
    assert (await bench.svids.fetch(entry())).svid.token == first.svid.token
    bench.clock.advance(1)
    second = await bench.svids.fetch(entry())
    assert second.svid.public_key != first.svid.public_key
    assert bench.asked == 2


async def test_while_the_server_is_away_a_token_is_served_until_it_expires(bench: Bench) -> None:
    first = await bench.svids.fetch(entry())
    bench.refuses = UNREACHABLE.error("away")
    bench.clock.advance(9 * MINUTE)
    assert (await bench.svids.fetch(entry())).svid.token == first.svid.token
    bench.clock.advance(MINUTE)
    assert await code_of(bench) == "VST2113"


async def test_a_server_that_issues_none_is_believed(bench: Bench) -> None:
    bench.refuses = WIT_SVIDS_DISABLED.error("WIT functionality is disabled")
    assert await code_of(bench) == "VST1312"


async def test_a_token_of_a_tainted_or_missing_authority_is_not_served(bench: Bench) -> None:
    await bench.svids.fetch(entry())
    bench.refuses = UNREACHABLE.error("away")
    bench.trust("k", tainted=True)
    assert await code_of(bench) == "VST2113"
    bench.refuses = None
    bench.trust("k")
    await bench.svids.fetch(entry())
    bench.refuses = UNREACHABLE.error("away")
    bench.trust("another")
    assert await code_of(bench) == "VST2113"


async def test_a_token_of_another_identity_or_for_another_key_is_not_passed_on(bench: Bench) -> None:
    bench.signs_for = SpiffeId.of(TD, "/other")
    assert await code_of(bench) == "VST2109"
    bench.signs_for = SpiffeId.of(TD, "/web")
    bench.binds = public_key_der(generate_key().public_key())
    assert await code_of(bench) == "VST2109"


async def test_a_changed_entry_gets_another_token(bench: Bench) -> None:
    first = await bench.svids.fetch(entry())
    assert (await bench.svids.fetch(entry(revision=1))).svid.token != first.svid.token


def test_the_sealed_holdings_have_the_wit_keys(bench: Bench) -> None:
    holdings = bench.cache.now
    assert from_document(to_document(holdings)).bundle == holdings.bundle
    before = to_document(holdings)
    del before["bundle"]["wit_authorities"]
    found = from_document(before).bundle
    assert found is not None
    assert found.wit_authorities == ()
