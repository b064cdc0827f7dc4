"""How calls travel: each behaviour that a service can ask for, as the real Envoy shows it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from grpclib.client import Channel
from tests.e2e.mesh_lab import PATIENCE, client_tls, rule, until, wire
from tests.e2e.traffic_lab import NODE, Mesh, has, route, statuses, traffic_mesh

from vestibule.errors import VestibuleError
from vestibule.intent.traffic import (
    CircuitLimits,
    Fault,
    Hedge,
    LimitPer,
    Locality,
    Mirror,
    Nearness,
    OutlierDetection,
    Permissive,
    RateLimit,
    Redirect,
    Retry,
    RetryBudget,
    RetryOn,
    Rewrite,
)
from vestibule.net.grpc import Client
from vestibule.observe.access_record import Verdict
from vestibule.policy import PathPattern
from vestibule.records import Health
from vestibule.spiffe import SpiffeId
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVERY_VERSION = {"v1": 50, "v2": 50}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh() -> AsyncIterator[Mesh]:
    async with traffic_mesh() as found:
        yield found


def seconds(amount: float) -> timedelta:
    return timedelta(seconds=amount)


class TooSlowError(Exception):
    """The machine needed longer for a test than what the test is about lasts."""


async def while_it_lasts(attempt: Callable[[datetime], Awaitable[None]]) -> None:
    """Try something with an end that is near; farther away where that is too near for the machine."""
    for window in (2, 4, 8):
        with suppress(TooSlowError):
            await attempt(datetime.now(UTC) + seconds(window))
            return
    await attempt(datetime.now(UTC) + seconds(16))


def in_time(ends: datetime) -> None:
    if datetime.now(UTC) >= ends:
        raise TooSlowError


# ------------------------------------------------------------------------------------------ where to


async def test_the_first_route_that_fits_decides(mesh: Mesh) -> None:
    def to(path: str) -> dict[str, Any]:
        return {"rewrite": Rewrite(path=path)}

    await mesh.use(
        route("payments/exact", "/v1/exact", **to("/exact")),
        route(
            "payments/template", "/v1/{id}/lines", headers=(has("x-kind", prefix="te"),), **to("/template")
        ),
        route("payments/method", "/v1/**", methods=frozenset({"PUT", "PATCH"}), **to("/method")),
        route(
            "payments/header",
            "/v1/**",
            headers=(has("x-beta", equals="1"), has("x-no", absent=True)),
            **to("/header"),
        ),
        route("payments/query", "/v1/**", query=(has("debug"), has("off", absent=True)), **to("/query")),
        route("payments/below", "/v1/**", **to("/below")),
    )
    asked = [
        ("GET", "/v1/exact?q=1", {}, "/exact?q=1"),
        ("GET", "/v1/exact/more", {}, "/below/exact/more"),
        ("GET", "/v1/7/lines", {"x__kind": "template"}, "/template/7/lines"),
        ("GET", "/v1/7/8/lines", {"x__kind": "template"}, "/below/7/8/lines"),
        ("GET", "/v1/7/lines", {}, "/below/7/lines"),
        ("PATCH", "/v1/x", {}, "/method/x"),
        ("GET", "/v1/x", {"x__beta": "1"}, "/header/x"),
        ("GET", "/v1/x", {"x__beta": "12"}, "/below/x"),
        ("GET", "/v1/x", {"x__beta": "1", "x__no": ""}, "/below/x"),
        ("GET", "/v1/x?debug=", {}, "/query/x?debug="),
        ("GET", "/v1/x?a=debug", {}, "/below/x?a=debug"),
        ("GET", "/v1/x?debug=1&off", {}, "/below/x?debug=1&off"),
        ("GET", "/v1/x?debug=1&offer=1", {}, "/query/x?debug=1&offer=1"),
        ("GET", "/v1", {}, "/below"),
        ("GET", "/v1x", {}, "/v1x"),
        ("GET", "/", {}, "/"),
    ]
    async with wire(mesh.egress) as web:
        for method, target, headers, expected in asked:
            reply = await web.ask(method, target, **headers)
            assert reply.status == 200, (method, target)
            assert expected in reply.body.decode(), (method, target, headers, reply.body)


async def test_a_split_keeps_its_weights_while_they_move_and_others_reach_all(mesh: Mesh) -> None:
    for share in (0, 10, 50, 100):
        await mesh.use(route(split={"v1": 100 - share, "v2": share}))
        assert statuses(await mesh.ask(200)) == {200: 200}
        # Four and a half standard deviations.
        assert abs(mesh.served()["payments-2"] - 2 * share) <= 4.5 * (2 * share * (1 - share / 100)) ** 0.5
    await mesh.use()
    await mesh.ask(60)
    assert set(mesh.served()) == {"payments-1", "payments-2", "payments-3"}


async def test_hosts_are_rewritten_and_callers_redirected(mesh: Mesh) -> None:
    await mesh.use(
        route("payments/old", "/old/**", redirect=Redirect(path="/new", host="elsewhere", status=308)),
        route("payments/gone", "/gone", redirect=Redirect(path="/here", https=True, status=303)),
        route("payments/host", "/host/**", rewrite=Rewrite(host="inner.example", path="/")),
    )
    async with wire(mesh.egress) as web:
        old, gone = await web.ask("GET", "/old/x?q=1"), await web.ask("GET", "/gone")
        assert (await web.ask("GET", "/host/x")).status == 200
    assert (old.status, old.headers["location"]) == (308, "http://elsewhere/new/x?q=1")
    assert (gone.status, gone.headers["location"]) == (303, "https://payments/here")
    (seen,) = [seen for app in mesh.apps.values() for seen in app.seen]
    assert (seen.headers["host"], seen.path) == ("inner.example", "/x")
    assert {each.verdict for each in await mesh.logged(mesh.web, least=3)} == {Verdict.ALLOWED}


async def test_copies_go_to_a_version_and_to_a_service_and_their_answers_nowhere(mesh: Mesh) -> None:
    copies = (Mirror(version="v2"), Mirror(service="audit", port="http"))
    await mesh.use(route(split={"v1": 100}, mirror=copies))
    mesh.apps["payments-2"].status = mesh.apps["audit-1"].status = lambda _: 500
    assert statuses(await mesh.ask(10)) == {200: 10}
    await until(lambda: mesh.served()["payments-2"] == mesh.served()["audit-1"] == 10, "the copies")
    assert {each.headers["host"] for each in mesh.apps["audit-1"].seen} == {"audit"}
    await mesh.use(route(split={"v1": 100}, mirror=(Mirror(version="v2", percent=0.0),)))
    await mesh.ask(10)
    assert mesh.served()["payments-2"] == 0


# ------------------------------------------------------------------------------------- when, how often


async def test_time_limits_hold_for_the_whole_for_one_try_and_for_silence(mesh: Mesh) -> None:
    await mesh.use(
        route("payments/whole", "/whole", timeout=seconds(0.2), retry=Retry(attempts=1)),
        route("payments/try", "/try", timeout=seconds(18), retry=Retry(attempts=3, per_try=seconds(2))),
        route("payments/idle", "/idle", timeout=seconds(5), idle_timeout=seconds(0.2)),
    )
    mesh.apps["payments-1"].delay = mesh.apps["payments-2"].delay = mesh.apps["payments-3"].delay = 12
    async with wire(mesh.egress) as web:
        whole = await web.ask("GET", "/whole")
        assert (whole.status, whole.error) == (504, "VST3012")
        assert (await web.ask("GET", "/idle")).status == 504
        mesh.apps["payments-2"].delay = 0
        # Two of three instances are slow: two tries run out, the third finds the other.
        assert (await web.ask("GET", "/try")).status == 200
    by_route = {each.route: each for each in await mesh.logged(mesh.web, least=3)}
    assert by_route["payments/whole"].flags == ("UT",)
    assert by_route["payments/idle"].flags == ("SI",)
    assert (by_route["payments/try"].version, by_route["payments/try"].destination_port) == ("v2", "http")


async def test_a_flaky_backend_is_hidden_by_retries_at_other_instances(mesh: Mesh) -> None:
    await mesh.use(retry=Retry(attempts=4, statuses=(503,), backoff=timedelta(milliseconds=5)))
    mesh.apps["payments-1"].status = mesh.apps["payments-3"].status = lambda _: 503
    assert statuses(await mesh.ask(40)) == {200: 40}
    attempts = {each.attempts for each in await mesh.logged(mesh.web, least=40)}
    assert {1, 3} <= attempts <= {1, 2, 3, 4}


async def test_retries_stop_at_their_budget(mesh: Mesh) -> None:
    retry = Retry(attempts=5, statuses=(503,), backoff=timedelta(milliseconds=200))
    await mesh.use(retry=retry, circuit=CircuitLimits(budget=RetryBudget(percent=20, least=2)))
    for name in ("payments-1", "payments-2", "payments-3"):
        mesh.apps[name].status = lambda _: 503
    assert statuses(await mesh.ask_at_once(40)) == {503: 40}
    tries = sum(mesh.served().values())
    # Without a budget 200.  If all come at once, 8 of 40 in flight may be retries, and fewer as they become fewer.
    assert 40 < tries < 150
    await mesh.use(retry=Retry(attempts=1))
    mesh.apps["payments-1"].status = lambda _: 503
    await mesh.ask(12)
    assert sum(mesh.served().values()) == 12


async def test_the_second_try_starts_beside_a_slow_first(mesh: Mesh) -> None:
    await mesh.use(route(hedge=Hedge(after=seconds(0.1), attempts=2), timeout=seconds(15)))
    mesh.apps["payments-1"].delay = mesh.apps["payments-3"].delay = 0.6
    replies = await mesh.ask_at_once(12)
    assert statuses(replies) == {200: 12}
    assert sum(mesh.served().values()) > 12
    assert any(b"payments-2" in each.body for each in replies)


async def test_grpc_calls_end_at_their_deadline_and_are_tried_again_by_status(mesh: Mesh) -> None:
    address = mesh.web.instance.upstreams["ledger/api"]
    channel = Channel(address.host, address.port)

    async def describe(timeout: float = 60) -> str:
        request = node_pb2.DescribeServiceRequest(spiffe_id="hello")
        try:
            answer = await Client(channel, NODE).unary("DescribeService", request, timeout=timeout)
        except VestibuleError as error:
            return str(error)
        return str(answer.service.service)

    try:
        await mesh.use(of="ledger", retry=Retry(attempts=1))
        mesh.ledger.delay = 0.2
        # No timeout of the mesh's: streams may last.
        assert await describe() == "hello"
        await mesh.use(of="ledger", timeout=seconds(0.1), retry=Retry(attempts=1))
        mesh.ledger.delay = 5
        # Who notices first says so: the caller's proxy, the callee's, or the app, all of which know the deadline.
        assert re.search("VST3012|deadline exceeded", await describe())
        await mesh.use(of="ledger", retry=Retry(attempts=3, on=(RetryOn.UNAVAILABLE,)))
        mesh.ledger.delay, mesh.ledger.fails, mesh.ledger.asked = 0, 2, 0
        assert await describe() == "hello"
        assert mesh.ledger.asked == 3
    finally:
        channel.close()


# -------------------------------------------------------------------------------------- made-up trouble


async def test_a_fault_ends_by_itself_although_nobody_tells_the_proxy(mesh: Mesh) -> None:
    async def attempt(ends: datetime) -> None:
        await mesh.use(
            route("payments/abort", "/abort", fault=Fault(until=ends, abort=503, abort_percent=100)),
            route("payments/delay", "/delay", fault=Fault(until=ends, delay=seconds(0.3))),
            route("payments/never", "/never", fault=Fault(until=ends, abort=500, abort_percent=0)),
        )
        async with wire(mesh.egress) as web:
            aborted = await web.ask("GET", "/abort")
            began = time.monotonic()
            assert (await web.ask("GET", "/delay")).status == 200
            took = time.monotonic() - began
            assert (await web.ask("GET", "/never")).status == 200
            assert (await web.ask("GET", "/other")).status == 200
            in_time(ends)
            assert (aborted.status, aborted.error) == (503, "VST3018")
            assert took > 0.29
            while (await web.ask("GET", "/abort")).status == 503:
                assert datetime.now(UTC) < ends + seconds(10)
                await asyncio.sleep(0.02)
            assert datetime.now(UTC) >= ends
            assert (await web.ask("GET", "/delay")).status == 200

    await while_it_lasts(attempt)
    first, *_ = await mesh.logged(mesh.web, lambda each: each.route == "payments/abort")
    assert (first.flags, first.verdict) == (("FI",), Verdict.FAILED)
    delayed = await mesh.logged(mesh.web, lambda each: each.route == "payments/delay", least=2)
    assert [each.flags for each in delayed] == [("DI",), ()]


# ---------------------------------------------------------------------------------------------- bounds


async def test_beyond_the_circuit_limits_calls_fail_at_once(mesh: Mesh) -> None:
    await mesh.use(circuit=CircuitLimits(requests=2), retry=Retry(attempts=1))
    for app in mesh.apps.values():
        app.open.clear()
    asking = [asyncio.create_task(mesh.ask()) for _ in range(6)]
    try:
        await until(lambda: sum(each.done() for each in asking) == 4, "four that fail at once")
    finally:
        for app in mesh.apps.values():
            app.open.set()
    replies = [reply for each in asking for reply in await each]
    assert statuses(replies) == {200: 2, 503: 4}
    assert {each.error for each in replies if each.status == 503} == {"VST3017"}


async def test_an_instance_that_fails_is_left_out_for_a_while(mesh: Mesh) -> None:
    outlier = OutlierDetection(consecutive=3, interval=seconds(0.2), eject_for=seconds(30), most_percent=50)
    await mesh.use(outlier=outlier, retry=Retry(attempts=1))
    mesh.apps["payments-1"].status = lambda _: 500
    answers = [each.status for each in await mesh.ask(60)]
    # The fourth may be on its way while the third is counted.
    assert 3 <= answers.count(500) <= 5
    assert set(answers[-20:]) == {200}


async def test_nearer_instances_come_first_and_farther_ones_when_those_are_ill(mesh: Mesh) -> None:
    await mesh.use(locality=Locality(prefer=Nearness.ZONE, failover=("us",)))
    assert set([*(await mesh.ask(20)), *mesh.served()][20:]) == {"payments-1"}
    for ill, expected in (
        ({"payments_1": Health.UNHEALTHY}, {"payments-2"}),
        ({"payments_1": Health.DRAINING, "payments_2": Health.UNHEALTHY}, {"payments-3"}),
    ):
        await mesh.be_so(**{name: {"health": health} for name, health in ill.items()})
        for app in mesh.apps.values():
            app.seen.clear()
        assert statuses(await mesh.ask(20)) == {200: 20}
        assert set(mesh.served()) == expected
    await mesh.be_so(payments_2={"health": Health.UNKNOWN})
    for app in mesh.apps.values():
        app.seen.clear()
    await mesh.ask(20)
    assert set(mesh.served()) == {"payments-1"}


async def test_instances_that_drain_or_are_ill_get_no_calls_and_without_any_left_calls_fail(
    mesh: Mesh,
) -> None:
    await mesh.use(retry=Retry(attempts=1))
    await mesh.be_so(payments_1={"health": Health.DRAINING}, payments_3={"health": Health.UNHEALTHY})
    assert statuses(await mesh.ask(20)) == {200: 20}
    assert set(mesh.served()) == {"payments-2"}
    everywhere = {each: {"health": Health.UNHEALTHY} for each in ("payments_1", "payments_2", "payments_3")}
    await mesh.be_so(**everywhere)
    (reply,) = await mesh.ask()
    assert (reply.status, reply.error) == (503, "VST3011")


# ---------------------------------------------------------------------------------------------- limits


async def test_each_of_many_callers_has_a_limit_of_its_own_which_refusals_name(mesh: Mesh) -> None:
    hour = timedelta(hours=1)
    per_caller = RateLimit(requests=2, window=hour, per=LimitPer.CALLER, path=PathPattern.parse("/v1/**"))
    await mesh.use(limits=(per_caller, RateLimit(requests=500, window=hour)))
    ingress = mesh.lab.proxies["payments-1"].instance.ingress["http"]

    async def call(number: int) -> list[int]:
        caller = SpiffeId.parse(f"spiffe://example.org/clients/{number}")
        tls = client_tls(mesh.lab.issue(caller), mesh.lab.directory)
        async with wire(ingress, tls) as client:
            return [(await client.ask("GET", "/v1/x?y=1")).status for _ in range(3)]

    for number in range(25):
        assert await call(number) == [200, 200, 429]
    # The first is still known after all the others.
    assert await call(0) == [429, 429, 429]
    tls = client_tls(mesh.lab.issue(SpiffeId.parse("spiffe://example.org/clients/0")), mesh.lab.directory)
    async with wire(ingress, tls) as client:
        assert (await client.ask("GET", "/v2/x")).status == 200
        refused = await client.ask("GET", "/v1/x")
    assert (refused.status, refused.error) == (429, "VST3016")
    assert refused.headers["x-vestibule-limit"] == "payments/limits/1"
    assert refused.headers["retry-after"] == "1800"
    (record, *_) = await mesh.logged(mesh.lab.proxies["payments-1"], lambda each: each.status == 429)
    assert (record.rule, record.verdict, record.flags) == ("payments/limits/1", Verdict.DENIED, ("RL",))


async def test_a_limit_on_all_counts_everybody_and_a_burst_is_refilled(mesh: Mesh) -> None:
    await mesh.use(limits=(RateLimit(requests=2, burst=5),))
    ingress = mesh.lab.proxies["payments-1"].instance.ingress["http"]
    tls = client_tls(mesh.lab.issue(mesh.web.instance.spiffe_id), mesh.lab.directory)
    async with wire(ingress, tls) as client:
        answers = [(await client.ask("GET", "/")).status for _ in range(12)]
        assert answers[:5] == [200] * 5
        assert 429 in answers
        began = time.monotonic()
        while (await client.ask("GET", "/")).status == 429:
            assert time.monotonic() - began < PATIENCE


# ----------------------------------------------------------------------------------- on the way to mTLS


async def test_plain_text_is_accepted_for_what_is_said_until_the_day_that_is_said(mesh: Mesh) -> None:
    legacy = rule("payments/plaintext/batch", methods="GET", paths="/batch/** /items/{id}")
    payments = mesh.lab.proxies["payments-1"]
    ingress = payments.instance.ingress["http"]
    forged = {"x__forwarded__client__cert": "URI=spiffe://example.org/ns/prod/sa/web"}

    async def is_open() -> bool:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            async with wire(ingress) as plain:
                return (await plain.ask("GET", "/batch/0")).status > 0
        return False

    async def attempt(ends: datetime) -> None:
        await mesh.use(permissive=Permissive(until=ends, reason="the old batch", allow=(legacy,)))
        while not await is_open():  # the listener that speaks TLS only is still there for a moment
            in_time(ends)
        mesh.apps["payments-1"].seen.clear()
        async with wire(ingress) as plain:
            allowed = [await plain.ask("GET", path, **forged) for path in ("/batch/1", "/items/7")]
            asked = (("POST", "/batch/1"), ("GET", "/v1/charges"), ("GET", "/items/7/x"))
            denied = [await plain.ask(method, path) for method, path in asked]
            odd = await plain.ask("GET", "/batch/../v1")
            in_time(ends)
            assert statuses(allowed) == {200: 2}
            assert [(each.status, each.error) for each in denied] == [(403, "VST4001")] * 3
            assert odd.error == "VST3001"
            assert not [name for name in mesh.apps["payments-1"].seen[0].headers if "client-cert" in name]
            assert statuses(await mesh.ask(12, "/v1/charges")) == {200: 12}
            while (reply := await plain.ask("GET", "/batch/1")).status == 200:
                assert datetime.now(UTC) < ends + seconds(10)
                await asyncio.sleep(0.02)
            assert datetime.now(UTC) >= ends
            assert (reply.status, reply.error) == (403, "VST3019")

    await while_it_lasts(attempt)
    assert statuses(await mesh.ask(12, "/v1/charges")) == {200: 12}
    await mesh.logged(payments, lambda each: not each.plaintext)
    (first, *_) = await mesh.logged(payments, lambda each: each.plaintext)
    assert (first.source_spiffe_id, first.rule) == ("", "payments/plaintext/batch")
    await mesh.use()
    began = time.monotonic()
    while await is_open():
        assert time.monotonic() - began < PATIENCE


async def test_plain_text_on_a_tcp_port_ends_as_well(mesh: Mesh) -> None:
    address = mesh.lab.proxies["ledger-1"].instance.ingress["raw"]

    async def hears(proper: str) -> bool:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"hello")
        with suppress(ConnectionError):
            heard = await asyncio.wait_for(reader.read(100), PATIENCE)
            writer.close()
            return heard == proper.encode()
        return False

    legacy = rule("ledger/plaintext/any")

    async def attempt(ends: datetime) -> None:
        await mesh.use(of="ledger", permissive=Permissive(until=ends, reason="old", allow=(legacy,)))
        while not await hears(
            "ledger:hello"
        ):  # the listener that speaks TLS only is still there for a moment
            in_time(ends)
        in_time(ends)
        while await hears("ledger:hello"):
            assert datetime.now(UTC) < ends + seconds(10)
            await asyncio.sleep(0.02)
        assert datetime.now(UTC) >= ends

    await while_it_lasts(attempt)
    later = datetime.now(UTC) + seconds(60)
    await mesh.use(of="ledger", permissive=Permissive(until=later, reason="old"))
    began = time.monotonic()
    while await hears("ledger:hello"):
        assert time.monotonic() - began < PATIENCE
    await mesh.use(of="ledger")


# ------------------------------------------------------------------------------------------ under load


async def test_weights_routes_and_clusters_change_under_load_without_an_error(mesh: Mesh) -> None:
    await mesh.use()
    answers: list[int] = []
    done = asyncio.Event()

    async def load() -> None:
        async with wire(mesh.egress) as web:
            while not done.is_set():
                answers.append((await web.ask("GET", "/v1/x")).status)

    loads = [asyncio.create_task(load()) for _ in range(4)]
    try:
        for share in (0, 10, 50, 100):
            routes = (
                route("payments/canary", "/v1/**", split={"v1": 100 - share, "v2": share}),
                route("payments/rest", split=EVERY_VERSION, retry=Retry(on=(RetryOn.GATEWAY_ERROR,))),
            )
            await mesh.lab.change(mesh.intent(routes=routes))
            await mesh.lab.settle()
            await mesh.lab.change(mesh.intent())
            await mesh.lab.settle()
        await until(lambda: len(answers) > 50, "answers")
    finally:
        done.set()
        await asyncio.gather(*loads)
    assert set(answers) == {200}
