"""Envoy's verdict on a call is the one that ``policy.decide`` gives, whatever the rules and the call are."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.mesh_lab import Lab, Proxy, Wire, client_tls, intent_of, rule, service

from vestibule.policy import Call, IdentityMatch, PathPattern, Rule
from vestibule.spiffe import SpiffeId
from vestibule.testing.deciding import decided

T = TypeVar("T")

CALLERS = tuple(
    SpiffeId.parse(f"spiffe://example.org/ns/{path}")
    for path in ("prod/sa/web", "prod/sa/web/blue", "prod/sa/webX", "prod/sa/orders", "test/sa/web")
)
PATTERN_SEGMENTS = ("v1", "a", "b", "x.y", "{id}", "{other}")
CALL_SEGMENTS = ("v1", "a", "b", "x.y", "z", "x%2Ey", "%61", "a b".replace(" ", "%20"))
ODD_SEGMENTS = ("", ".", "..", "%2e%2e", "a;x", "a%2fb", "a\\b", "%", "ä")
QUERIES = ("", "", "?", "?x=1", "?/v1/a", "?a=/../b;c")

callers = st.lists(
    st.builds(
        IdentityMatch,
        id=st.sampled_from(
            (*CALLERS, *(SpiffeId.parse(f"spiffe://example.org{each}") for each in ("", "/ns/prod")))
        ),
        below=st.booleans(),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
segments = st.lists(st.sampled_from(PATTERN_SEGMENTS), max_size=3)
patterns = st.builds(
    lambda parts, end: PathPattern.parse("/" + "/".join(parts) + end if parts else end or "/"),
    segments,
    st.sampled_from(("", "", "/", "/**")),
)
methods = st.frozensets(st.sampled_from(("GET", "POST", "PUT")), max_size=2)
rule_sets = st.lists(st.tuples(callers, methods, st.lists(patterns, max_size=3).map(tuple)), max_size=6).map(
    lambda parts: tuple(
        Rule(name=f"app/r{number}", callers=who, methods=how, paths=where, port="http")
        for number, (who, how, where) in enumerate(parts)
    )
)
paths = st.builds(
    lambda parts, odd, end, query: "/" + "/".join((*parts, *odd)) + end + query,
    st.lists(st.sampled_from(CALL_SEGMENTS[:4]), max_size=4)
    | st.lists(st.sampled_from(CALL_SEGMENTS), max_size=4),
    st.just([]) | st.just([]) | st.just([]) | st.lists(st.sampled_from((*ODD_SEGMENTS, "a")), max_size=2),
    st.sampled_from(("", "", "", "/")),
    st.sampled_from(QUERIES),
)
calls = st.lists(
    st.tuples(st.sampled_from(CALLERS), st.sampled_from(("GET", "POST", "DELETE")), paths),
    min_size=20,
    max_size=40,
)


class Judge:
    """One Envoy with its loop in a thread, since hypothesis calls from none."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._lab = Lab(intent_of(service("app")))
        self._proxy: Proxy | None = None
        self._numbers = itertools.count()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(150)

    async def open(self) -> None:
        self._proxy = await self._lab.add("app")
        await self._lab.ready()

    def close(self) -> None:
        self.run(self._lab.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _connect(self, caller: SpiffeId) -> Wire:
        assert self._proxy is not None
        tls = client_tls(self._lab.issue(caller), self._lab.directory)
        return await Wire.open(self._proxy.instance.ingress["http"], tls)

    async def install(self, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
        """Put rules in force, and one more by which that is seen."""
        marker = f"/marker/{next(self._numbers)}"
        known = rule("app/marker", str(CALLERS[0]), methods="PATCH", paths=marker)
        await self._lab.change(intent_of(service("app", *rules, known)))
        connection = await self._connect(CALLERS[0])
        async with asyncio.timeout(60):
            while (await connection.ask("PATCH", marker)).status != 200:
                await asyncio.sleep(0.005)
        await connection.close()
        assert self._proxy is not None
        assert not self._proxy.refused
        return (*rules, known)

    async def ask(self, asked: list[tuple[SpiffeId, str, str]]) -> list[int]:
        """The status of each call."""
        connections: dict[SpiffeId, Wire] = {}
        answers = []
        for caller, method, path in asked:
            if caller not in connections:
                connections[caller] = await self._connect(caller)
            reply = await connections[caller].ask(method, path)
            if reply.headers.get("connection") == "close":
                await connections.pop(caller).close()
            answers.append(reply.status)
        for connection in connections.values():
            await connection.close()
        return answers


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    judge = Judge()
    try:
        judge.run(judge.open())
        yield judge
    finally:
        judge.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rules=rule_sets, asked=calls)
def test_envoy_decides_as_the_policy_does(
    judge: Judge, rules: tuple[Rule, ...], asked: list[tuple[SpiffeId, str, str]]
) -> None:
    installed = judge.run(judge.install(rules))
    for (caller, method, path), status in zip(asked, judge.run(judge.ask(asked)), strict=True):
        call = Call(caller=caller, port="http", method=method, path=path)
        expected = decided(installed, call).allowed
        assert (status == 200) is expected, (str(caller), method, path, status)
        assert expected or status in (400, 403)
