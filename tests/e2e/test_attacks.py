"""What somebody tries who may make some calls, and would like to make others: raw bytes, at the real Envoy.

docs/attacks.md lists it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.e2e.mesh_lab import Lab, client_tls, intent_of, rule, service, spiffe_id, wire
from tests.e2e.shared_mesh import Shared

from vestibule.policy import Condition, Effect

WEB, ORDERS = spiffe_id("web"), spiffe_id("orders")
ALLOW = (
    rule("payments/web", "web", methods="GET POST", paths="/v1/** /files/{name}"),
    rule("payments/orders", "orders", paths="/v1/admin/**"),
    replace(
        rule("payments/tenant", "web", paths="/tenant"),
        when=Condition.parse("request.headers['x-tenant'] == 'acme'"),
    ),
)
DENY = (
    replace(rule("payments/no-admin", "web", paths="/v1/admin/**"), effect=Effect.DENY),
    replace(
        rule("payments/no-evil", "web", paths="/v1/guarded"),
        effect=Effect.DENY,
        when=Condition.parse("request.headers['x-risk'] != 'low'"),
    ),
)


@dataclass
class Payments:
    """``send`` bytes as ``web`` over a connection of their own; ``seen`` are the requests that the app got."""

    lab: Lab

    @property
    def seen(self) -> list[Any]:
        return self.lab.apps["payments"].seen

    async def send(self, raw: bytes, caller: Any = WEB) -> int:
        address = self.lab.proxies["payments-1"].instance.ingress["http"]
        async with wire(address, client_tls(self.lab.issue(caller), self.lab.directory)) as connection:
            connection._writer.write(raw)
            return (await connection._reply()).status

    async def get(self, target: str, *headers: str, method: str = "GET", caller: Any = WEB) -> int:
        lines = [f"{method} {target} HTTP/1.1", "host: payments", *headers]
        return await self.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), caller)

    async def is_refused(self, target: str, *headers: str, method: str = "GET") -> None:
        before = len(self.seen)
        assert await self.get(target, *headers, method=method) in (400, 403, 404, 431), (target, headers)
        assert len(self.seen) == before, (target, headers)


@asynccontextmanager
async def payments() -> AsyncIterator[Payments]:
    async with Lab(intent_of(replace(service("payments", *ALLOW), deny=DENY))) as lab:
        await lab.add("payments")
        await lab.ready()
        yield Payments(lab)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Shared[Payments]]:
    with Shared(payments) as shared:
        yield shared


def test_what_the_rules_say_holds_to_begin_with(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        assert await payments.get("/v1/charges") == 200
        assert await payments.get("/v1/admin/users") == 403
        assert await payments.get("/v1/admin/users", caller=ORDERS) == 200
        assert await payments.get("/tenant", "x-tenant: acme") == 200
        assert await payments.get("/v1/guarded", "x-risk: low") == 200

    mesh.run(story)


PATHS = {
    "escaped slashes and backslashes": (
        "/v1%2fadmin/users",
        "/v1/%2Fadmin",
        "/v1%5cadmin",
        "/v1\\admin/users",
    ),
    "dot segments": (
        "/v1/x/../admin/users",
        "/v1/./admin",
        "/v1/%2e%2e/admin",
        "/v1/x/.%2e/admin",
        "/v1/%2E/admin",
        "/../v1/admin",
        "/v1/..",
    ),
    "empty segments": ("//v1/admin", "/v1//admin/users", "/v1/admin//"),
    "parameters of segments": ("/v1/x;/../admin", "/v1/admin;a=b/users", "/v1/..;/admin", "/v1/admin;"),
    "letters that need no escape": ("/v1/%61dmin/users", "/%76%31/admin", "/v1/admi%6E", "/v1/%7Eroot"),
    "NUL and control characters": ("/v1/admin%00", "/v1/ad\x00min", "/v1/\tadmin", "/v1/x\x7f"),
    "what is no URL": ("/v1/ädmin", "/v1/admin#x", "/v1/%", "/v1/%4", "/v1/%zz", "*", "v1/admin"),
    "other ways to say where": ("http://payments/v1/admin/users", "http://payments/v1/../v1/admin"),
    "a query that looks like a path": ("/v1/admin/users?/v1/charges", "/v1/admin?x=/../../v1/charges"),
    "overlong paths": ("/v1/" + "a/" * 40_000, "/v1/" + "../" * 30_000 + "admin"),
}


@pytest.mark.parametrize("kind", PATHS)
def test_no_way_to_write_a_path_leads_to_what_is_denied(mesh: Shared[Payments], kind: str) -> None:
    async def story(payments: Payments) -> None:
        for path in PATHS[kind]:
            await payments.is_refused(path)

    mesh.run(story)


def test_paths_differ_in_case_and_arrive_as_they_were_sent(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        await payments.is_refused("/V1/charges")
        # Escaped twice it is a name with a per cent sign in it, for the proxy and for the app.
        for path in (
            "/v1/ADMIN/users",
            "/v1/%252e%252e/admin",
            "/v1/a%20b",
            "/v1/x?next=/v1/admin/../..%2f;%00",
        ):
            assert await payments.get(path) == 200
            assert payments.seen[-1].path == path

    mesh.run(story)


def test_one_segment_is_one_segment(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        assert await payments.get("/files/report.pdf?x=/") == 200
        for path in ("/files/a/b", "/files/a%2Fb", "/files/", "/files/..", "/files/a?", "/files/a/"):
            if path != "/files/a?":
                await payments.is_refused(path)

    mesh.run(story)


METHODS = ("get", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "PROPFIND", "G\x00ET")


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_is_taken_for_an_allowed_one(mesh: Shared[Payments], method: str) -> None:
    async def story(payments: Payments) -> None:
        await payments.is_refused("/v1/charges", method=method)
        await payments.is_refused("/v1/charges", "x-http-method-override: GET", method=method)

    mesh.run(story)


XFCC = "By=spiffe://example.org/x;URI=spiffe://example.org/ns/prod/sa/orders"
FORGED = (
    f"x-forwarded-client-cert: {XFCC}",
    f"X-Forwarded-Client-Cert: {XFCC}\r\nx-forwarded-client-cert: {XFCC}",
    f"x_forwarded_client_cert: {XFCC}",
    f"x-forwarded-client_cert: {XFCC}",
    "x-envoy-original-path: /v1/admin/users",
    "x-envoy-decorator-operation: x",
    "x-envoy-upstream-rq-timeout-ms: 1",
    "x-envoy-internal: true",
    "x-envoy-external-address: 127.0.0.1",
)


@pytest.mark.parametrize("header", FORGED)
def test_nobody_speaks_for_a_proxy_or_for_another_caller(mesh: Shared[Payments], header: str) -> None:
    async def story(payments: Payments) -> None:
        await payments.is_refused("/v1/admin/users", header)
        assert await payments.get("/v1/charges", header) == 200
        got = payments.seen[-1].headers
        assert not [name for name in got if name.startswith("x-envoy-") or "_" in name]
        assert got["x-forwarded-client-cert"].endswith(f"URI={WEB}")
        assert str(ORDERS) not in str(got)

    mesh.run(story)


def test_a_header_that_comes_twice_is_neither_of_the_two(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        for pair in (("acme", "evil"), ("evil", "acme"), ("acme", "acme")):
            await payments.is_refused("/tenant", *(f"x-tenant: {each}" for each in pair))
        await payments.is_refused("/tenant", "x-tenant: acme,evil")
        await payments.is_refused("/tenant", "x_tenant: acme")
        # A denial holds unless it is clear that it does not.
        for lines in ((), ("x-risk: low", "x-risk: high"), ("x-risk: high", "x-risk: low"), ("x-risk:",)):
            await payments.is_refused("/v1/guarded", *lines)

    mesh.run(story)


SMUGGLED = {
    "two lengths": b"content-length: 4\r\ncontent-length: 40\r\n",
    "length and chunks": b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
    "chunks by another name": b"transfer-encoding: xchunked\r\n",
    "a space before the colon": b"x-tenant : acme\r\n",
    "a name that is none": b"x tenant: acme\r\n",
    "NUL in a value": b"x-tenant: ac\x00me\r\n",
    "too many headers": b"".join(b"x-%d: y\r\n" % number for number in range(500)),
    "a header that is too long": b"x-tenant: " + b"a" * 80_000 + b"\r\n",
}


@pytest.mark.parametrize("kind", SMUGGLED)
def test_what_two_readers_could_take_for_two_things_is_refused(mesh: Shared[Payments], kind: str) -> None:
    async def story(payments: Payments) -> None:
        before = len(payments.seen)
        second = b"GET /v1/admin/users HTTP/1.1\r\nhost: payments\r\n\r\n"
        raw = b"POST /v1/charges HTTP/1.1\r\nhost: payments\r\n" + SMUGGLED[kind] + b"\r\n0\r\n\r\n" + second
        assert await payments.send(raw) in (400, 403, 431, 501)
        assert len(payments.seen) == before

    mesh.run(story)


def test_what_is_written_oddly_is_one_thing_for_rules_and_app(mesh: Shared[Payments]) -> None:
    async def story(payments: Payments) -> None:
        begin = b"GET /v1/charges HTTP/1.1\r\nhost: payments\r\n"
        assert await payments.send(begin + b"x-tenant: ac\r\n me\r\n\r\n") == 200
        assert payments.seen[-1].headers["x-tenant"] == "ac me"
        assert await payments.send(begin + b"x-tenant: a\nx-risk: low\r\n\r\n") == 200
        got = payments.seen[-1].headers
        assert (got["x-tenant"], got["x-risk"]) == ("a", "low")
        assert await payments.send(begin + b"host: elsewhere\r\n\r\n") == 200
        assert payments.seen[-1].headers["host"] == "payments,elsewhere"

    mesh.run(story)
