"""The way in from outside, through real Envoys."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.e2e.mesh_lab import PATIENCE, Lab, Proxy, Reply, intent_of, rule, service, spiffe_id, until, wire
from tests.e2e.outside_lab import PublicAuthority
from tests.e2e.shared_mesh import Shared
from tests.e2e.test_tokens import key_set, token
from tests.ports import free_port

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.intent.model import Issuer
from vestibule.intent.outside import Gateway, GatewayListener, GatewayTls
from vestibule.intent.traffic import Redirect, Rewrite, Route, RouteMatch, RouteToken, Share, Traffic
from vestibule.policy import PathPattern
from vestibule.records import Address

HOST = "shop.example.com"
CORP, KEY = "https://login.example.com", ec.generate_private_key(ec.SECP256R1())
ISSUERS = {
    "corp": Issuer(name="corp", issuer=CORP, keys=key_set(("c", KEY))),
    "away": Issuer(name="away", issuer="https://away.example.com", keys=""),
}


def route(name: str, to: str = "web", *, path: str | None = None, hosts: str = "", **more: Any) -> Route:
    pattern = PathPattern.parse(path) if path else None
    match = RouteMatch(path=pattern, hosts=tuple(hosts.split()))
    return Route(name=f"edge/{name}", match=match, service=to, service_port="http", **more)


@dataclass
class Edge:
    """A gateway in front of web; ledger does not allow it."""

    lab: Lab
    gateway: Proxy
    trust: str
    directory: Path
    public: PublicAuthority

    def at(self, listener: str) -> Address:
        return Address(host="127.0.0.1", port=self.gateway.instance.ingress[listener].port)

    @property
    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.trust)
        context.set_alpn_protocols(["http/1.1"])
        return context

    @asynccontextmanager
    async def secure(self) -> AsyncIterator[Any]:
        from tests.e2e.mesh_lab import Wire

        address = self.at("https")
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=self.tls, server_hostname=HOST
        )
        connection = Wire(reader, writer)
        try:
            yield connection
        finally:
            await connection.close()

    async def ask(self, method: str, target: str, host: str = HOST, **headers: str) -> Reply:
        async with self.secure() as client:
            reply: Reply = await client.ask(method, target, host, **headers)
            return reply

    async def certificate(self) -> bytes:
        async with self.secure() as client:
            found: bytes = client._writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            return found


@asynccontextmanager
async def edge(directory: Path) -> AsyncIterator[Edge]:
    public = PublicAuthority("Public Root")
    for made, kept in zip(
        public.issue(directory, HOST, "*.example.com"), ("tls.crt", "tls.key"), strict=True
    ):
        shutil.copy(made, directory / kept)
    tls = GatewayTls(certificate=str(directory / "tls.crt"), key=str(directory / "tls.key"))
    gone = GatewayTls(certificate=str(directory / "lost.crt"), key=str(directory / "lost.key"))
    gateway = Gateway(
        name="edge",
        spiffe_id=spiffe_id("edge"),
        listeners={
            "https": GatewayListener(
                name="https", port=free_port(), address="127.0.0.1", tls=tls, hosts=("*.example.com",)
            ),
            "http": GatewayListener(name="http", port=free_port(), address="127.0.0.1"),
            "lost": GatewayListener(name="lost", port=free_port(), address="127.0.0.1", tls=gone),
        },
        routes=(
            route("secure", hosts="*.example.com", redirect=Redirect(https=True, status=308)),
            route("old", path="/old/**", redirect=Redirect(path="/api", status=301)),
            route("books", "ledger", path="/books/**"),
            route("api", path="/api/**", rewrite=Rewrite(path="/")),
            route("admin", path="/**", hosts="admin.example.com", rewrite=Rewrite(path="/admin", host="web")),
            route("signed", path="/signed/**", token=RouteToken(issuer="corp", audience="shop")),
            route("nobody", path="/nobody/**", token=RouteToken(issuer="away", audience="shop")),
            route("rest", path="/plain/**"),
        ),
    )
    own = Route(
        name="web/canary",
        match=RouteMatch(path=PathPattern.parse("/v2/**")),
        port="http",
        split=(Share(version="v2", weight=100),),
    )
    paths = "/v1/** /v2/** /plain/** /admin/** /signed/** /nobody/**"
    web = service("web", rule("web/edge", "edge", paths=paths))
    web = replace(web, traffic=Traffic(versions=("v1", "v2"), routes=(own,)))
    intent = intent_of(web, service("ledger"))
    mesh = replace(intent.mesh, issuers=MappingProxyType(ISSUERS))
    async with Lab(replace(intent, mesh=mesh, gateways={"edge": gateway})) as lab:
        await lab.add("web")
        await lab.add("ledger")
        proxy = await lab.add_gateway("edge")
        await lab.ready()
        yield Edge(lab, proxy, public.pem, directory, public)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared[Edge]]:
    with Shared(lambda: edge(tmp_path_factory.mktemp("edge"))) as shared:
        yield shared


def test_a_request_from_outside_reaches_a_service_as_a_call_of_the_gateway(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        reply = await edge.ask("GET", "/api/v1/things?x=1")
        assert (reply.status, json.loads(reply.body)["path"]) == (200, "/v1/things?x=1"), (
            reply,
            edge.gateway.log,
        )
        seen = edge.lab.apps["web"].seen[-1].headers
        assert f"URI={spiffe_id('edge')}" in seen["x-forwarded-client-cert"]
        assert seen["host"] == HOST
        assert seen["x-request-id"] == reply.headers["x-request-id"]
        reporter = Reporter("edge", str(spiffe_id("edge")), "edge-1")

        def logged() -> dict[str, Any] | None:
            for name, entry in edge.gateway.requests:
                if entry.request.request_id == reply.headers["x-request-id"]:
                    return dict(json.loads(EntryLines(LogName.parse(name), reporter).http(entry).text))
            return None

        record = await until(logged, "the access log")
        told = {
            each: record[each] for each in ("direction", "destination_port", "route", "verdict", "authority")
        }
        assert told == {
            "direction": "inbound",
            "destination_port": "https",
            "route": "edge/api",
            "verdict": "allowed",
            "authority": HOST,
        }
        assert record["request_id"] == reply.headers["x-request-id"]

    mesh.run(story)


def test_what_the_services_rules_do_not_allow_the_gateway_does_not_pass(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        before = len(edge.lab.apps["web"].seen)
        reply = await edge.ask("GET", "/api/secret")
        assert (reply.status, reply.error) == (403, "VST4001")
        reply = await edge.ask("GET", "/books/1")
        assert (reply.status, reply.error) == (403, "VST3035")
        for path in ("/nothing", "/apix", "/"):
            reply = await edge.ask("GET", path)
            assert (reply.status, reply.error) == (404, "VST3034")
        assert (await edge.ask("GET", "/api/v1", "shop.elsewhere.com")).error == "VST3034"
        assert len(edge.lab.apps["web"].seen) == before

    mesh.run(story)


def test_routes_are_chosen_by_host_and_the_services_own_hold_behind_them(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        assert (
            json.loads((await edge.ask("GET", "/users", "admin.example.com:443")).body)["path"]
            == "/admin/users"
        )
        assert edge.lab.apps["web"].seen[-1].headers["host"] == "web"
        # No instance has the version to which the service itself sends what is below /v2.
        reply = await edge.ask("GET", "/api/v2/things")
        assert (reply.status, reply.error) == (503, "VST3011")
        assert "web" not in reply.body.decode()

    mesh.run(story)


def test_clients_are_sent_from_plain_text_to_tls_and_to_new_places(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        port = edge.at("https").port
        async with wire(edge.at("http")) as client:
            reply = await client.ask("GET", "/api/v1?x=1", f"{HOST}:{edge.at('http').port}")
            assert (reply.status, reply.headers["location"]) == (308, f"https://{HOST}:{port}/api/v1?x=1")
            # Whoever names no port may have come through something that translates ports.
            reply = await client.ask("GET", "/api/v1?x=1", HOST)
            assert reply.headers["location"] == f"https://{HOST}/api/v1?x=1"
            assert (await client.ask("GET", "/plain/x", "localhost")).status == 200
        reply = await edge.ask("GET", "/old/things", f"{HOST}:{port}")
        assert (reply.status, reply.headers["location"]) == (301, f"https://{HOST}:{port}/api/things")

    mesh.run(story)


def test_what_clients_say_of_themselves_and_of_proxies_is_not_believed(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        forged = {
            "x__forwarded__for": "10.0.0.1",
            "x__forwarded__proto": "gopher",
            "x__forwarded__host": "internal",
            "x__forwarded__client__cert": f"URI={spiffe_id('ledger')}",
            "forwarded": "for=10.0.0.1",
            "x__real__ip": "10.0.0.1",
            "x__original__url": "/admin",
            "x__rewrite__url": "/admin",
            "x__envoy__original__path": "/admin",
            "x__envoy__upstream__rq__timeout__ms": "1",
            "x__vestibule__anything": "x",
            "x__request__id": "chosen",
            "proxy": "http://evil.example",
            "my__header": "kept",
        }
        assert (await edge.ask("GET", "/plain/forged", **forged)).status == 200
        seen = dict(edge.lab.apps["web"].seen[-1].headers)
        assert seen.pop("x-request-id") != "chosen"
        assert f"URI={spiffe_id('edge')}" in seen.pop("x-forwarded-client-cert")
        # Envoy writes its own address for clients on loopback.
        assert ipaddress.ip_address(seen.pop("x-forwarded-for")) != ipaddress.ip_address("10.0.0.1")
        assert seen == {"host": HOST, "my-header": "kept", "x-forwarded-proto": "https"}

    mesh.run(story)


ODD = [
    ("/plain/../api/secret", 403, "VST4001"),
    ("/plain//x", 200, ""),
    ("/plain/%2e%2e/api/secret", 403, "VST4001"),
    ("/plain/%2E%2E/nothing", 404, "VST3034"),
    ("/plain/x%2Fy", 307, ""),
    ("/plain/x%5Cy", 307, ""),
    ("/plain/x;y", 403, "VST3001"),
    ("/plain/%00", 400, ""),
]


@pytest.mark.parametrize(("path", "status", "error"), ODD)
def test_paths_are_made_normal_before_anything_is_decided(
    mesh: Shared[Edge], path: str, status: int, error: str
) -> None:
    async def story(edge: Edge) -> None:
        reply = await edge.ask("GET", path)
        assert (reply.status, reply.error if error else "") == (status, error), reply

    mesh.run(story)


def test_what_breaks_a_limit_or_http_itself_is_refused(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        before = len(edge.lab.apps["web"].seen)
        assert (await edge.ask("GET", "/plain/x", my_header="x")).status == 400
        assert (await edge.ask("GET", "/plain/x", big="x" * 40_000)).status == 431
        many = {f"h{number}": "x" for number in range(101)}
        assert (await edge.ask("GET", "/plain/x", **many)).status in (400, 431)
        assert (await edge.ask("CONNECT", "ledger:443")).status in (400, 403, 404)
        assert len(edge.lab.apps["web"].seen) == before

    mesh.run(story)


def test_a_rotated_certificate_is_taken_up_and_a_broken_one_is_not(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        first = await edge.certificate()
        chain, key = edge.public.issue(edge.directory, HOST)
        shutil.copy(chain, edge.directory / "tls.crt")
        edge.gateway.files.look()
        assert [each.code.code for each in edge.gateway.files.problems] == ["VST7223", "VST7221"]
        assert await edge.certificate() == first
        shutil.copy(key, edge.directory / "tls.key")
        edge.gateway.files.look()
        async with asyncio.timeout(PATIENCE):
            while await edge.certificate() == first:
                await asyncio.sleep(0.02)
        assert (await edge.ask("GET", "/plain/x")).status == 200

    mesh.run(story)


def test_a_listener_without_a_certificate_is_seen_in_the_log_and_works_once_there_is_one(
    mesh: Shared[Edge],
) -> None:
    async def story(edge: Edge) -> None:
        async def greeted() -> bool:
            try:
                async with wire(edge.at("lost"), _unverified()):
                    return True
            except (OSError, ssl.SSLError):
                return False

        assert not await greeted()
        chain, key = edge.public.issue(edge.directory, HOST)
        shutil.copy(key, edge.directory / "lost.key")
        shutil.copy(chain, edge.directory / "lost.crt")
        edge.gateway.files.look()
        async with asyncio.timeout(PATIENCE):
            while not await greeted():
                await asyncio.sleep(0.02)
        assert edge.gateway.refused == []

    mesh.run(story)


def id_token(key: Any = KEY, **changes: Any) -> str:
    """As a login gives it: of no client of the mesh, and bound to nobody."""
    return token(key, kid="c", typ="JWT", **{"iss": CORP, "aud": "shop", "client_id": None, **changes})


def test_a_route_that_asks_for_a_token_leads_nobody_on_who_has_none(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        async def signed(text: str = "") -> Reply:
            headers = {"authorization": f"Bearer {text}"} if text else {}
            return await edge.ask("GET", "/signed/x", **headers)

        good = id_token()
        assert (await signed(good)).status == 200
        # The service gets it, too, and may trade it.
        seen = edge.lab.apps["web"].seen
        assert seen[-1].headers["authorization"] == f"Bearer {good}"
        before = len(seen)
        for bad in ("", "opaque", id_token(ec.generate_private_key(ec.SECP256R1())), id_token(aud="other")):
            reply = await signed(bad)
            assert (reply.status, reply.error) == (401, "VST4051"), bad
            assert reply.headers["www-authenticate"].startswith("Bearer")
        assert (await signed(id_token(exp=1))).status == 401
        assert (await edge.ask("GET", f"/signed/x?access_token={good}")).status == 401
        # An issuer whose keys nobody knows has no tokens.
        reply = await edge.ask("GET", "/nobody/x", authorization=f"Bearer {good}")
        assert (reply.status, reply.error) == (503, "VST6142")
        assert len(seen) == before
        # Other routes do not mind.
        assert (await edge.ask("GET", "/plain/x", authorization="Bearer opaque")).status == 200

    mesh.run(story)


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def test_a_client_that_speaks_no_tls_is_refused_and_logged(mesh: Shared[Edge]) -> None:
    async def story(edge: Edge) -> None:
        def refused() -> list[str]:
            logs = (
                entry for name, entry in edge.gateway.connections if name == "vestibule/inbound/edge/https"
            )
            return [
                found
                for each in logs
                if (found := each.common_properties.downstream_transport_failure_reason)
            ]

        before = len(refused())
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with wire(edge.at("https")) as client:
                await client.ask("GET", "/plain/x", HOST)
        await until(lambda: len(refused()) > before, "the listener's log")

    mesh.run(story)
