"""The agent's synchronisation against a server that is a double, in time that stands still."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from vestibule.agent.bootstrap import FirstTrust
from vestibule.agent.cache import SvidCache
from vestibule.agent.codes import AGENT_IS_BANNED, CANNOT_JOIN
from vestibule.agent.own_svid import REFUSED_PAUSE
from vestibule.agent.pause import Pause
from vestibule.agent.ports import Chain
from vestibule.agent.rebootstrap import Rebootstrap, Rebootstrapping
from vestibule.agent.skew import ServerTime, SkewWatch
from vestibule.agent.sync import SAVE_AGAIN, Sync
from vestibule.agent.vault import Vault
from vestibule.attest.node import NodeProof
from vestibule.attest.node.codes import EVIDENCE_REFUSED
from vestibule.attest.node.join_token import JoinTokenProof
from vestibule.calls.codes import BAD_ANSWER, BANNED, MUST_ATTEST, NOT_LET_BACK, OTHER_TRUST_DOMAIN
from vestibule.calls.identity_api import Revisions
from vestibule.errors import ErrorCode, VestibuleError
from vestibule.keys.sealing import Sealer
from vestibule.net.codes import SERVER_NOT_TRUSTED, UNREACHABLE
from vestibule.pki.csr import parse_csr
from vestibule.pki.keys import PublicKey, generate_key
from vestibule.records import Entry
from vestibule.spiffe import Selector, SpiffeId, TrustBundle, TrustDomain, X509Svid
from vestibule.testing import FakeClock, TestAuthority

TD = TrustDomain.parse("example.org")
AGENT = SpiffeId.of(TD, "/spire/agent/join_token/t")
HOUR = timedelta(hours=1)
OPEN_TO_ALL = ("attest", "bundle", "come back")


def entry(name: str, **more: object) -> Entry:
    plain = Entry(
        id=name,
        spiffe_id=SpiffeId.of(TD, f"/{name}"),
        parent_id=AGENT,
        selectors=frozenset({Selector("unix", "uid:1")}),
    )
    return replace(plain, **more)  # type: ignore[arg-type]


class ServerDouble:
    """The server's whole behaviour that an agent can see, without a wire."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.authority = TestAuthority(TD, now=clock.now(), ttl=HOUR * 240)
        self.trust = self.authority.bundle
        self.entries: dict[str, Entry] = {}
        self.federated: dict[TrustDomain, TrustBundle] = {}
        self.calls: list[str] = []
        self.away = False
        self.standing: VestibuleError | None = None
        self.attest_refusal: VestibuleError | None = None
        self.back_refusal: VestibuleError | None = NOT_LET_BACK.error("not let back")
        self.swap_keys = False
        self.wrong_names: set[str] = set()
        self.refused: set[str] = set()
        self.revision = 1
        self._pushed = asyncio.Event()

    def _answer(self, call: str) -> None:
        self.calls.append(call)
        if self.away:
            raise UNREACHABLE.error("away")
        if self.standing is None or (self.standing.code is MUST_ATTEST and call in OPEN_TO_ALL):
            return
        raise self.standing

    def put(self, *entries: Entry) -> None:
        self.entries |= {each.id: each for each in entries}
        self.push()

    def push(self) -> None:
        self.revision += 1
        pushed, self._pushed = self._pushed, asyncio.Event()
        pushed.set()

    def _sign(self, spiffe_id: SpiffeId, csr: bytes, ttl: timedelta = HOUR) -> Chain:
        key: PublicKey = parse_csr(csr).public_key
        if self.swap_keys:
            key = generate_key().public_key()
        return self.authority.issue(spiffe_id, key, ttl=ttl, now=self.clock.now())

    async def attest(self, proof: NodeProof, csr: bytes) -> Chain:
        self._answer("attest")
        if self.attest_refusal is not None:
            raise self.attest_refusal
        return self._sign(AGENT, csr)

    async def renew(self, csr: bytes) -> Chain:
        self._answer("renew")
        return self._sign(AGENT, csr)

    async def come_back(self, last: X509Svid, csr: bytes) -> Chain:
        self._answer("come back")
        if self.back_refusal is not None:
            raise self.back_refusal
        return self._sign(AGENT, csr)

    async def bundle(self) -> TrustBundle:
        self._answer("bundle")
        return self.trust

    async def federated_bundle(self, trust_domain: TrustDomain) -> TrustBundle | None:
        self._answer(f"federated {trust_domain}")
        return self.federated.get(trust_domain)

    async def watch(self) -> AsyncIterator[Revisions]:
        self._answer("watch")
        while True:
            pushed = self._pushed
            federation = sum(each.sequence for each in self.federated.values())
            yield Revisions(
                entries=self.revision, bundle=self.trust.sequence, intent=0, federation=federation
            )
            await pushed.wait()

    async def authorized_entries(self, known: Mapping[str, Entry]) -> dict[str, Entry]:
        self._answer("entries")
        return dict(self.entries)

    async def new_svids(self, requests: Mapping[str, bytes]) -> dict[str, Chain | VestibuleError]:
        self._answer(f"svids {len(requests)}")
        return {name: self._svid(name, csr) for name, csr in requests.items()}

    def _svid(self, name: str, csr: bytes) -> Chain | VestibuleError:
        if name in self.refused:
            return BAD_ANSWER.error("no")
        spiffe_id = SpiffeId.of(TD, "/other") if name in self.wrong_names else self.entries[name].spiffe_id
        return self._sign(spiffe_id, csr, self.entries[name].x509_svid_ttl or HOUR)


@dataclass
class Bench:
    """An agent's synchronisation, running."""

    clock: FakeClock
    server: ServerDouble
    cache: SvidCache
    sync: Sync
    vault: Vault
    tokens: list[str]
    fetches: list[None] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    async def until(self, holds: object) -> None:
        assert callable(holds)
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.002)

    @property
    def fetched(self) -> int:
        return len(self.fetches)

    @property
    def problem_code(self) -> ErrorCode | None:
        problem = self.sync.contact.problem
        return problem.code if problem is not None else None

    async def passing(self, holds: Callable[[], bool]) -> None:
        """Until it holds, while time goes by."""

        def later() -> bool:
            self.clock.advance(1)
            return holds()

        await self.until(later)

    async def settled(self) -> None:
        """Everything due is done."""
        await self.until(lambda: self.sync.synced.is_set() and self.sync.contact.connected)
        async with asyncio.timeout(60):
            while set(self.cache.now.svids) != set(self.server.entries):
                await asyncio.sleep(0.002)
        await self.clock.until_asleep()

    def serial(self, name: str) -> int:
        return self.cache.now.svids[name].svid.serial


def assemble(tmp_path: Path, server: ServerDouble, clock: FakeClock, *, reattests: bool = False) -> Bench:
    cache = SvidCache()
    vault = Vault(tmp_path / "holdings.sealed", Sealer(b"k" * 32), TD)
    tokens = ["t"]

    def proof() -> NodeProof:
        return JoinTokenProof(tokens[-1])

    fetches: list[None] = []

    async def fetch() -> TrustBundle:
        fetches.append(None)
        return await server.bundle()

    async def no_clock() -> ServerTime:
        raise UNREACHABLE.error("no clock")

    sync = Sync(
        trust_domain=TD,
        cache=cache,
        vault=vault,
        upstream=server,
        fetch_unverified=fetch,
        skew=SkewWatch(clock, no_clock, no_clock),
        first_trust=FirstTrust(insecure=True),
        proof=proof,
        reattests=reattests,
        clock=clock,
        jitter=lambda: 0.0,
    )
    return Bench(clock, server, cache, sync, vault, tokens, fetches)


@asynccontextmanager
async def running(bench: Bench) -> AsyncIterator[Bench]:
    bench.task = asyncio.create_task(bench.sync.run())
    try:
        yield bench
    finally:
        bench.task.cancel()
        await asyncio.gather(bench.task, return_exceptions=True)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    clock = FakeClock()
    return assemble(tmp_path, ServerDouble(clock), clock)


async def end_of(bench: Bench) -> VestibuleError:
    assert bench.task is not None
    with pytest.raises(BaseExceptionGroup) as group:
        await asyncio.wait_for(bench.task, 60)
    failure = group.value.exceptions[0]
    assert isinstance(failure, VestibuleError)
    return failure


async def test_a_new_agent_joins_and_fetches_everything_once(bench: Bench) -> None:
    bench.server.put(entry("a"), entry("b"))
    async with running(bench):
        await bench.settled()
        own = bench.cache.now.own
        assert own is not None
        assert own.svid.spiffe_id == AGENT
        assert bench.server.calls.count("attest") == 1
        assert bench.server.calls.count("svids 2") == 1
        key = load_der_private_key(bench.cache.now.svids["a"].svid.key, None)
        assert key.public_key() is not None


async def test_a_pushed_entry_is_fetched_and_a_removed_one_forgotten(bench: Bench) -> None:
    bench.server.put(entry("a"))
    async with running(bench):
        await bench.settled()
        bench.server.put(entry("b"))
        await bench.settled()
        del bench.server.entries["a"]
        bench.server.push()
        await bench.settled()
        assert set(bench.cache.now.svids) == {"b"}


async def test_svids_and_the_own_one_are_renewed_at_half_life(bench: Bench) -> None:
    bench.server.put(entry("a"))
    async with running(bench):
        await bench.settled()
        first, own = bench.serial("a"), bench.cache.now.own
        bench.clock.advance(HOUR * 0.49)
        await bench.clock.until_asleep()
        assert bench.serial("a") == first
        bench.clock.advance(HOUR * 0.02)
        await bench.until(lambda: bench.serial("a") != first and bench.cache.now.own != own)
        assert "renew" in bench.server.calls


async def test_only_changes_that_are_in_the_certificate_make_a_new_one(bench: Bench) -> None:
    bench.server.put(entry("a"))
    async with running(bench):
        await bench.settled()
        first = bench.serial("a")
        bench.server.put(entry("a", hint="main", revision=1))
        await bench.until(lambda: bench.cache.now.entries["a"].hint == "main")
        assert bench.serial("a") == first
        bench.server.put(entry("a", hint="main", revision=2, dns_names=("a.example",)))
        await bench.until(lambda: bench.serial("a") != first)


async def test_many_entries_are_asked_for_in_batches(bench: Bench) -> None:
    bench.server.put(*[entry(f"e{number}") for number in range(250)])
    async with running(bench):
        await bench.settled()
        assert [call for call in bench.server.calls if call.startswith("svids")] == [
            "svids 100",
            "svids 100",
            "svids 50",
        ]


async def test_an_svid_for_another_key_or_identity_is_never_used(bench: Bench) -> None:
    bench.server.put(entry("good"), entry("bad"))
    bench.server.wrong_names = {"bad"}
    async with running(bench):
        await bench.until(lambda: "good" in bench.cache.now.svids and bench.sync.synced.is_set())
        assert "bad" not in bench.cache.now.svids
        bench.server.swap_keys = True
        bench.server.put(entry("stolen"))
        await bench.until(lambda: "stolen" in bench.cache.now.entries)
        await bench.clock.until_asleep()
        assert "stolen" not in bench.cache.now.svids


async def test_one_refused_entry_does_not_hold_up_the_others_and_is_tried_again(bench: Bench) -> None:
    bench.server.put(entry("good"), entry("bad"))
    bench.server.refused = {"bad"}
    async with running(bench):
        await bench.until(lambda: "good" in bench.cache.now.svids and bench.sync.synced.is_set())
        await bench.clock.until_asleep()
        bench.server.refused = set()
        assert "bad" not in bench.cache.now.svids
        bench.clock.advance(REFUSED_PAUSE + 1)
        await bench.until(lambda: "bad" in bench.cache.now.svids)


async def test_an_authority_that_leaves_the_bundle_takes_its_svids_with_it(bench: Bench) -> None:
    bench.server.put(entry("a"))
    async with running(bench):
        await bench.settled()
        first = bench.serial("a")
        bench.server.authority = TestAuthority(TD, now=bench.clock.now())
        bench.server.trust = replace(bench.server.authority.bundle, sequence=2)
        bench.server.push()
        await bench.until(lambda: "a" in bench.cache.now.svids and bench.serial("a") != first)


async def test_a_server_that_goes_away_takes_nothing_with_it(bench: Bench) -> None:
    bench.server.put(entry("a"))
    async with running(bench):
        await bench.settled()
        before = bench.cache.now
        bench.server.away = True
        bench.server.push()
        bench.clock.advance(HOUR * 0.6)
        await bench.until(lambda: bench.sync.contact.problem is not None)
        assert bench.cache.now == before
        bench.server.away = False
        async with asyncio.timeout(60):
            while bench.cache.now.svids["a"] == before.svids["a"]:
                bench.clock.advance(1)
                await asyncio.sleep(0.01)
        await bench.until(lambda: bench.sync.contact.problem is None)


async def test_a_restart_takes_up_what_was_kept(bench: Bench, tmp_path: Path) -> None:
    bench.server.put(entry("a", hint="main"))
    async with running(bench):
        await bench.settled()
        kept = bench.cache.now
    again = assemble(tmp_path, bench.server, bench.clock)
    loaded = again.vault.load()
    assert loaded.entries == dict(kept.entries)
    assert loaded.svids["a"].svid == kept.svids["a"].svid
    assert loaded.svids["a"].from_disk
    bench.server.calls.clear()
    again.cache.become(loaded)
    async with running(again):
        await again.settled()
        assert "attest" not in bench.server.calls
        assert again.serial("a") == kept.svids["a"].svid.serial


@contextmanager
def no_thread_free() -> Iterator[threading.Event]:
    """Until the event is set, at the latest at the end, what is given to threads does not begin."""
    busy, loop = threading.Event(), asyncio.get_running_loop()
    threads = ThreadPoolExecutor(1)
    loop.set_default_executor(threads)
    threads.submit(busy.wait)
    try:
        yield busy
    finally:
        busy.set()


async def stop_while_it_writes(bench: Bench, threads: threading.Event) -> None:
    assert bench.task is not None
    bench.task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not bench.task.done()  # whoever starts it anew would find what was held before
    threads.set()
    await asyncio.gather(bench.task, return_exceptions=True)


async def test_an_agent_that_is_stopped_keeps_what_it_served_a_moment_before(bench: Bench) -> None:
    async with running(bench):
        await bench.settled()
        with no_thread_free() as threads:
            bench.server.put(entry("a"))
            await bench.until(lambda: "a" in bench.cache.now.svids)
            await stop_while_it_writes(bench, threads)
    assert bench.vault.load().svids["a"].svid == bench.cache.now.svids["a"].svid


async def test_an_agent_that_is_stopped_as_it_joins_does_not_lose_what_its_token_was_for(
    bench: Bench,
) -> None:
    with no_thread_free() as threads:
        async with running(bench):
            await bench.until(lambda: "attest" in bench.server.calls)
            await stop_while_it_writes(bench, threads)
    assert (own := bench.vault.load().own) is not None
    assert own.svid.spiffe_id == AGENT


async def test_an_evicted_agent_attests_again_with_new_evidence_only(bench: Bench) -> None:
    async with running(bench):
        await bench.settled()
        bench.server.standing = MUST_ATTEST.error("evicted")
        bench.server.push()
        await bench.until(lambda: bench.problem_code is CANNOT_JOIN)
        assert bench.server.calls.count("attest") == 1, "a used token is not shown again"
        assert bench.sync.credential is None, "nor is the certificate that was rejected"
        bench.tokens.append("fresh")
        bench.server.standing = None
        bench.clock.advance(10)
        await bench.until(lambda: bench.sync.credential)
        assert bench.server.calls.count("attest") == 2


async def test_an_agent_that_outlived_its_svid_comes_back_with_its_key(bench: Bench) -> None:
    bench.server.put(entry("a"))
    async with running(bench):
        await bench.settled()
        bench.server.away = True
        bench.server.push()
        bench.clock.advance(HOUR * 48)
        await bench.until(lambda: bench.sync.contact.problem is not None and bench.sync.credential is None)
        bench.server.away, bench.server.back_refusal = False, None
        await bench.passing(lambda: bench.sync.credential is not None and bench.problem_code is None)
        assert bench.server.calls.count("attest") == 1
        first = bench.server.calls.index("come back")
        assert "bundle" in bench.server.calls[:first], "who was away may not know the authority of now"


async def test_an_agent_that_is_not_let_back_says_why_and_goes_on(bench: Bench) -> None:
    async with running(bench):
        await bench.settled()
        bench.clock.advance(HOUR * 48)
        await bench.passing(lambda: bench.problem_code is CANNOT_JOIN)
        assert bench.sync.contact.problem is not None
        assert "not let back" in bench.sync.contact.problem.message
        asked = bench.server.calls.count("come back")
        bench.clock.advance(10)
        await bench.clock.until_asleep()
        assert bench.server.calls.count("come back") == asked, "it does not fill the server's audit log"
        bench.tokens.append("fresh")
        await bench.passing(lambda: bench.sync.credential is not None)


async def test_a_server_of_a_new_trust_is_believed_only_on_the_operators_word(bench: Bench) -> None:
    async with running(bench):
        await bench.settled()
        bench.server.standing = SERVER_NOT_TRUSTED.error("another authority")
        bench.clock.advance(HOUR * 48)
        await bench.passing(lambda: bench.problem_code is SERVER_NOT_TRUSTED)
        for _ in range(20):
            bench.clock.advance(HOUR)
            await asyncio.sleep(0.002)
        # The first trust here is "believe anyone", which counts once.
        assert bench.problem_code is SERVER_NOT_TRUSTED
        assert bench.fetched == 1


@pytest.mark.parametrize(
    ("mode", "firm", "spent", "again"),
    [
        (Rebootstrap.NEVER, True, True, False),
        (Rebootstrap.AUTO, True, True, True),
        (Rebootstrap.AUTO, True, False, False),
        (Rebootstrap.AUTO, False, True, False),
        (Rebootstrap.ALWAYS, False, False, True),
    ],
)
def test_when_the_first_trust_counts_again(mode: Rebootstrap, firm: bool, spent: bool, again: bool) -> None:
    clock = FakeClock()
    trust = FirstTrust(bundle_sha256="ab" * 32) if firm else FirstTrust(insecure=True)
    rebootstrap = Rebootstrapping(mode, timedelta(minutes=10), trust)
    assert not rebootstrap.distrusted(clock.now(), spent=spent), "not at the first refusal"
    clock.advance(timedelta(minutes=11))
    assert rebootstrap.distrusted(clock.now(), spent=spent) is again
    rebootstrap.trusted()
    assert not rebootstrap.distrusted(clock.now(), spent=spent), "counted from the last success"


async def test_a_ban_ends_the_agent_and_removes_its_file(bench: Bench, tmp_path: Path) -> None:
    async with running(bench):
        await bench.settled()
        assert (tmp_path / "holdings.sealed").exists()
        bench.server.standing = BANNED.error("banned")
        bench.server.push()
        assert (await end_of(bench)).code is AGENT_IS_BANNED
    assert not (tmp_path / "holdings.sealed").exists()
    assert bench.cache.now.own is None
    assert not bench.cache.now.svids


async def test_a_full_disk_stops_no_service(bench: Bench, tmp_path: Path) -> None:
    bench.server.put(entry("a"))
    tmp_path.joinpath("holdings.sealed").mkdir()
    async with running(bench):
        await bench.settled()
        assert "a" in bench.cache.now.svids
        assert bench.sync.not_saved is not None
        assert bench.sync.not_saved.code.code == "VST2107"
        # As soon as there is room again, everything is on disk.
        tmp_path.joinpath("holdings.sealed").rmdir()
        await bench.clock.until_asleep()
        bench.clock.advance(SAVE_AGAIN)
        await bench.until(lambda: bench.sync.not_saved is None)
    assert "a" in bench.vault.load().svids


async def test_a_server_of_another_trust_domain_is_not_asked_twice(bench: Bench) -> None:
    bench.server.standing = OTHER_TRUST_DOMAIN.error("the server is of trust domain 'other.org'")
    async with running(bench):
        assert (await end_of(bench)).code is OTHER_TRUST_DOMAIN


def test_pauses_grow_to_a_bound_and_start_anew() -> None:
    pause = Pause(lambda: 0.0)
    grown = [pause.next() for _ in range(8)]
    assert grown == sorted(grown)
    assert grown[-1] == grown[-2] == 5.0
    pause.reset()
    assert pause.next() == grown[0]


async def test_where_evidence_can_be_repeated_the_agent_attests_instead_of_renewing(tmp_path: Path) -> None:
    clock = FakeClock()
    bench = assemble(tmp_path, ServerDouble(clock), clock, reattests=True)
    async with running(bench):
        await bench.settled()
        before = bench.cache.now.own
        assert before is not None
        bench.tokens.append("fresh")
        bench.server.calls.clear()
        clock.advance(timedelta(minutes=31))
        await bench.until(lambda: bench.cache.now.own != before)
        assert "attest" in bench.server.calls
        assert "renew" not in bench.server.calls
        assert bench.sync.credential is not None


async def test_a_refused_repetition_leaves_the_svid_in_use_and_is_tried_again_later(tmp_path: Path) -> None:
    clock = FakeClock()
    server = ServerDouble(clock)
    bench = assemble(tmp_path, server, clock, reattests=True)
    async with running(bench):
        await bench.settled()
        own = bench.cache.now.own
        server.attest_refusal = EVIDENCE_REFUSED.error("refused")
        bench.tokens.append("second")
        clock.advance(timedelta(minutes=31))
        await bench.until(lambda: bench.sync.own.reattest_at is not None)
        await clock.until_asleep()
        server.put(entry("b"))
        await bench.until(lambda: len(bench.cache.now.svids) == len(server.entries))
        assert bench.cache.now.own == own
        assert bench.sync.credential is not None
        server.attest_refusal = None
        bench.tokens.append("third")

        def is_replaced() -> bool:
            # Step by step: a rest that begins only now is counted from now.
            clock.advance(timedelta(seconds=1))
            return bench.cache.now.own != own

        await bench.until(is_replaced)
