"""What the server holds against any node attestor, whoever wrote it."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from tests.unit.identity.world import World, spiffe

from vestibule.attest.node import AttestedNode, Challenge
from vestibule.errors import VestibuleError
from vestibule.identity.nodes import Attested
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.spiffe import Selector, SpiffeId


class Says:
    """An attestor that answers the same to everybody."""

    name = "moon"

    def __init__(self, node: AttestedNode) -> None:
        self.node = node

    async def attest(self, payload: bytes, challenge: Challenge, now: datetime) -> AttestedNode:
        await asyncio.sleep(0)
        return self.node


async def no_challenge(_: bytes) -> bytes:
    raise AssertionError


async def attest(world: World, node: AttestedNode) -> Attested:
    world.nodes._attestors = {"moon": Says(node)}
    return await world.nodes.attest("moon", b"x", make_csr(generate_key()), no_challenge, "192.0.2.1:5")


@pytest.mark.parametrize(
    "agent_id",
    [
        spiffe("/spire/agent/join_token/abc"),
        spiffe("/spire/agent/moon"),
        spiffe("/spire/agent/moonlight/a"),
        spiffe("/spire/server"),
        spiffe("/workload"),
        SpiffeId.parse("spiffe://other.org/spire/agent/moon/a"),
    ],
)
async def test_an_attestor_names_only_agents_of_its_own_kind(world: World, agent_id: SpiffeId) -> None:
    with pytest.raises(VestibuleError, match="VST2006"):
        await attest(world, AttestedNode(agent_id=agent_id))


async def test_an_attestor_gives_only_selectors_of_its_own_type(world: World) -> None:
    foreign = frozenset({Selector("x509pop", "subject:cn:root")})
    with pytest.raises(VestibuleError, match="VST2006"):
        await attest(world, AttestedNode(agent_id=spiffe("/spire/agent/moon/a"), selectors=foreign))


async def test_of_many_with_evidence_that_counts_once_one_is_the_first(world: World) -> None:
    node = AttestedNode(agent_id=spiffe("/spire/agent/moon/a"), first_use_only=True)
    outcomes = await asyncio.gather(*(attest(world, node) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(each, Attested) for each in outcomes) == 1
    assert {each.code.code for each in outcomes if isinstance(each, VestibuleError)} == {"VST2005"}
