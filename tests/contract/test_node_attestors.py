"""What every node attestor promises, with its agent's half and through the server's own use of it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.unit.attest.node.clouds import NOW, TD, Amazon, Company, Google, KubeApi, new_key
from tests.unit.identity.world import World, identity_world

from vestibule.app.agent_attestors import ProofSource, proof_source
from vestibule.app.attestor_choices import Choice
from vestibule.app.server_attestors import node_attestors
from vestibule.attest.node import AttestedNode, NodeAttestor, NodeProof
from vestibule.attest.node.join_token import JoinTokenProof
from vestibule.attest.node.k8s_psat import Cluster, ClusterSettings, K8sPsatAttestor
from vestibule.attest.node.ports import Challenge
from vestibule.calls.http import HttpServer
from vestibule.errors import Kind, VestibuleError
from vestibule.identity.nodes import Attested
from vestibule.pki.csr import make_csr
from vestibule.pki.keys import generate_key
from vestibule.testing import FakeClock

REFUSALS = (Kind.INVALID, Kind.DENIED, Kind.UNAUTHENTICATED, Kind.NOT_FOUND, Kind.PRECONDITION)


@dataclass
class Case:
    """One kind: its server half, the source of its agent half, and what it promises."""

    attestor: NodeAttestor
    source: ProofSource
    agent_path: str
    reattests: bool = False
    tofu: bool = False
    selectors: frozenset[str] = field(default_factory=frozenset)


def server_half(name: str, values: Mapping[str, object], world: World) -> NodeAttestor:
    return node_attestors([Choice(name=name, values=values)], TD, world.store.join_tokens)[0]


def no_token() -> NodeProof:
    raise AssertionError("no join token is asked for")


def agent_half(name: str, values: Mapping[str, object]) -> ProofSource:
    return proof_source(Choice(name=name, values=values), no_token)


async def join_token(directory: Path, world: World, stack: AsyncExitStack) -> Case:
    from datetime import timedelta

    await world.nodes.create_join_token("test", timedelta(minutes=10), "abc")
    source = ProofSource(make=lambda: JoinTokenProof("abc"))
    return Case(server_half("join_token", {}, world), source, "join_token/abc")


async def x509pop(directory: Path, world: World, stack: AsyncExitStack) -> Case:
    company, key = Company(), new_key()
    leaf = company.leaf(key)
    company.write(directory, key, leaf)
    from tests.unit.attest.node.clouds import fingerprint

    source = agent_half(
        "x509pop", {"certificate_file": directory / "node.pem", "key_file": directory / "node.key"}
    )
    attestor = server_half("x509pop", {"ca_file": str(directory / "ca.pem")}, world)
    selectors = frozenset(
        {"x509pop:subject:cn:node-1", f"x509pop:ca:fingerprint:{fingerprint(company.root)}"}
    )
    return Case(attestor, source, f"x509pop/{fingerprint(leaf)}", reattests=True, selectors=selectors)


async def http_challenge(directory: Path, world: World, stack: AsyncExitStack) -> Case:

    from vestibule.attest.node.http_challenge import HttpChallengeAttestor, HttpChallengeSettings

    port = free_port()

    async def fetch(host: str, asked_port: int, target: str) -> object:
        assert host == "node-1.example.org"
        return await HttpServer(host="127.0.0.1", port=asked_port)("GET", target)

    settings = HttpChallengeSettings(hostnames=("*.example.org",), ports=(port,))
    source = agent_half(
        "http_challenge", {"hostname": "node-1.example.org", "port": port, "address": "127.0.0.1"}
    )
    return Case(
        HttpChallengeAttestor(settings, TD, fetch),  # type: ignore[arg-type]
        source,
        "http_challenge/node-1.example.org",
        tofu=True,
        selectors=frozenset({"http_challenge:hostname:node-1.example.org"}),
    )


async def k8s_psat(directory: Path, world: World, stack: AsyncExitStack) -> Case:
    api = KubeApi()
    await stack.enter_async_context(api.http.on_unix(directory / "api"))
    (directory / "token").write_text(api.token)
    cluster = Cluster(
        settings=ClusterSettings(
            service_accounts=("spire:spire-agent",),
            allowed_node_label_keys=("zone",),
            allowed_pod_label_keys=("app",),
        ),
        api=HttpServer(unix=directory / "api"),
        token=lambda: "server-token",
    )
    source = agent_half("k8s_psat", {"cluster": "demo", "token_file": directory / "token"})
    values = {
        "cluster:demo",
        "agent_ns:spire",
        "agent_sa:spire-agent",
        "agent_pod_name:agent-1",
        "agent_pod_uid:pod-uid-1",
        "agent_pod_label:app:agent",
        "agent_node_ip:10.0.0.7",
        "agent_node_name:node-1",
        "agent_node_uid:node-uid-1",
        "agent_node_label:zone:a",
    }
    selectors = frozenset(f"k8s_psat:{value}" for value in values)
    attestor = K8sPsatAttestor({"demo": cluster}, TD)
    return Case(attestor, source, "k8s_psat/demo/node-uid-1", reattests=True, selectors=selectors)


async def gcp_iit(directory: Path, world: World, stack: AsyncExitStack) -> Case:
    google = Google()
    (directory / "keys.json").write_bytes(google.jwks())
    port = await stack.enter_async_context(google.metadata().on_tcp())
    source = agent_half("gcp_iit", {"metadata": f"127.0.0.1:{port}"})
    values = {"projects": "project-1", "keys_file": str(directory / "keys.json")}
    account = "gcp_iit:sa:agent@project-1.iam.gserviceaccount.com"
    selectors = frozenset(
        {"gcp_iit:project-id:project-1", "gcp_iit:zone:europe-west1-b", "gcp_iit:instance-name:vm-1", account}
    )
    attestor = server_half("gcp_iit", values, world)
    return Case(attestor, source, "gcp_iit/project-1/1234567890", tofu=True, selectors=selectors)


async def aws_iid(directory: Path, world: World, stack: AsyncExitStack) -> Case:
    amazon = Amazon()
    amazon.write(directory / "aws")
    port = await stack.enter_async_context(amazon.metadata().on_tcp())
    source = agent_half("aws_iid", {"metadata": f"127.0.0.1:{port}"})
    values = {"accounts": ["123456789012"], "certificates": str(directory / "aws")}
    attestor = server_half("aws_iid", values, world)
    selectors = {
        "account_id:123456789012",
        "region:eu-central-1",
        "az:eu-central-1a",
        "image:id:ami-1",
        "instance:id:i-0123456789",
    }
    return Case(
        attestor,
        source,
        "aws_iid/123456789012/eu-central-1/i-0123456789",
        tofu=True,
        selectors=frozenset(f"aws_iid:{value}" for value in selectors),
    )


Maker = Callable[[Path, World, AsyncExitStack], Awaitable[Case]]
MAKERS: dict[str, Maker] = {
    each.__name__: each for each in (join_token, x509pop, http_challenge, k8s_psat, gcp_iit, aws_iid)
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with identity_world(tmp_path, clock=FakeClock(NOW)) as made:
        yield made


@pytest.fixture(params=MAKERS)
async def case(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Case]:
    with tempfile.TemporaryDirectory(prefix="vn-") as directory:
        async with AsyncExitStack() as stack:
            made = await MAKERS[request.param](Path(directory), world, stack)
            assert made.attestor.name == made.source.make().name == request.param
            world.nodes._attestors = {request.param: made.attestor}
            yield made


async def judge(case: Case, payload: bytes | None = None, challenge: Challenge | None = None) -> AttestedNode:
    proof = case.source.make()
    try:
        return await case.attestor.attest(
            await proof.payload() if payload is None else payload, challenge or proof.respond, NOW
        )
    finally:
        await proof.close()


async def join(case: Case, world: World) -> Attested:
    proof = case.source.make()
    try:
        csr = make_csr(generate_key())
        return await world.nodes.attest(proof.name, await proof.payload(), csr, proof.respond, "192.0.2.1:5")
    finally:
        await proof.close()


async def test_a_node_gets_its_name_and_selectors(case: Case) -> None:
    node = await judge(case)
    assert str(node.agent_id) == f"spiffe://example.org/spire/agent/{case.agent_path}"
    assert {str(each) for each in node.selectors} >= case.selectors
    assert {each.type for each in node.selectors} <= {case.attestor.name}
    assert (node.can_reattest, node.first_use_only) == (case.reattests, case.tofu)


async def test_an_agent_joins_with_it_and_again_only_where_that_is_promised(case: Case, world: World) -> None:
    attested = await join(case, world)
    assert attested.can_reattest == case.reattests == case.source.reattests
    agent = await world.nodes.get(attested.svid.spiffe_id)
    assert agent.attestation_type == case.attestor.name
    if case.reattests:
        again = await join(case, world)
        assert again.svid.spiffe_id == attested.svid.spiffe_id
        assert again.svid.serial != attested.svid.serial
        return
    with pytest.raises(VestibuleError) as refusal:
        await join(case, world)
    assert refusal.value.code.kind in REFUSALS
    assert (refusal.value.code.code == "VST2005") == case.tofu
    assert (await world.nodes.get(attested.svid.spiffe_id)).serial == attested.svid.serial


async def test_an_evicted_node_may_come_back_where_its_evidence_still_holds(case: Case, world: World) -> None:
    attested = await join(case, world)
    await world.nodes.evict("test", attested.svid.spiffe_id)
    if case.source.make().single_use:
        with pytest.raises(VestibuleError):
            await join(case, world)
    else:
        assert (await join(case, world)).svid.spiffe_id == attested.svid.spiffe_id


async def test_a_banned_node_stays_out(case: Case, world: World) -> None:
    attested = await join(case, world)
    await world.nodes.ban("test", attested.svid.spiffe_id)
    with pytest.raises(VestibuleError):
        await join(case, world)


@pytest.mark.parametrize(
    "payload",
    [
        b"\0",
        b"{",
        b"{}",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"a.b.c",
        b"x" * 1_000_000,
        b"[" * 100_000,
        b'{"certificates": 1, "hostname": 1, "cluster": 1, "token": 1, "document": 1}',
        b'{"certificates": ["!"], "hostname": "a/b", "port": true, "document": "{}", "rsa2048": "!"}',
    ],
)
async def test_malformed_evidence_is_refused_with_a_code(case: Case, payload: bytes) -> None:
    async def no_challenge(_: bytes) -> bytes:
        raise AssertionError("malformed evidence is not worth a challenge")

    with pytest.raises(VestibuleError) as refusal:
        await judge(case, payload, no_challenge)
    assert refusal.value.code.kind in REFUSALS


async def test_evidence_that_was_tampered_with_is_refused(case: Case) -> None:
    proof = case.source.make()
    payload = await proof.payload()
    await proof.close()
    middle = len(payload) // 2
    for change in (
        payload[:middle] + payload[middle + 4 :],
        payload[: -max(3, len(payload) // 9)],
        payload + b"x",
    ):
        with pytest.raises(VestibuleError):
            await judge(case, change)


@pytest.mark.parametrize(
    "answer", [b"", b"\n", b"{}", b'{"ecdsa_signature": {"nonce": "AA=="}}', b"x" * 500_000]
)
async def test_an_agent_that_does_not_meet_the_challenge_is_refused(case: Case, answer: bytes) -> None:
    asked: list[bytes] = []

    async def challenge(question: bytes) -> bytes:
        asked.append(question)
        return answer

    try:
        await judge(case, None, challenge)
    except VestibuleError as error:
        assert error.code.kind in REFUSALS  # noqa: PT017 - without a challenge there is nothing to refuse
    else:
        assert asked == []


async def test_the_agents_half_says_what_is_missing_and_closes_twice(case: Case) -> None:
    proof = case.source.make()
    await proof.close()
    await proof.close()
    if case.attestor.name not in ("x509pop", "http_challenge"):
        with pytest.raises(VestibuleError, match="VST2002"):
            await proof.respond(b"{}")
