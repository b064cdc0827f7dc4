"""What the compiler emits, as the real Envoy understands it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import pytest
from grpclib.client import Channel
from tests.e2e.mesh_lab import (
    PATIENCE,
    App,
    Echo,
    Lab,
    Proxy,
    client_tls,
    free_address,
    intent_of,
    rule,
    service,
    spiffe_id,
    until,
    wire,
)

from vestibule.envoy import told
from vestibule.errors import VestibuleError, Where
from vestibule.intent.model import DenyDetail, Intent, Service
from vestibule.net.grpc import Client, Stream, serve
from vestibule.net.grpc_server import GrpcServer
from vestibule.policy import Effect, PathPattern
from vestibule.records import Address
from vestibule.testing import TestAuthority
from vestibule.wire.gen.vestibule.node.v1 import node_pb2

PAYMENTS = service(
    "payments",
    rule("payments/charge", "web", methods="POST GET", paths="/v1/charges"),
    rule("payments/refunds", "web", methods="GET", paths="/v1/refunds/** /v1/orders/{id}/lines"),
)
DENIED_BY = "rbac_access_denied_matched_policy"
SHOP = (service("web"), PAYMENTS, service("ledger"))


@dataclass
class Shop:
    """web calls payments; ledger exists and nobody is allowed to call it."""

    lab: Lab
    web: Proxy
    payments: Proxy

    @property
    def app(self) -> App:
        return self.lab.apps["payments"]

    @property
    def ingress(self) -> Address:
        return self.payments.instance.ingress["http"]

    @property
    def egress(self) -> Address | None:
        return self.web.instance.egress

    def as_service(self, name: str) -> ssl.SSLContext:
        return client_tls(self.lab.issue(spiffe_id(name)), self.lab.directory)


@asynccontextmanager
async def shop(
    intent: Intent | None = None, *, ttl: timedelta = timedelta(hours=1), intermediates: int = 0
) -> AsyncIterator[Shop]:
    async with Lab(intent or intent_of(*SHOP), svid_ttl=ttl, intermediates=intermediates) as lab:
        payments = await lab.add("payments")
        web = await lab.add("web", upstreams={"payments": free_address()})
        await lab.ready()
        yield Shop(lab, web, payments)


def changed(*services: Service, version: str = "v2") -> Intent:
    by_name = {each.name: each for each in (*SHOP, *services)}
    return intent_of(*by_name.values(), version=version)


# ------------------------------------------------------------------------------------------ who calls


async def test_an_allowed_call_arrives_with_the_callers_identity() -> None:
    async with shop() as mesh, wire(mesh.egress) as web:
        reply = await web.ask("POST", "/v1/charges?amount=5", my_header="kept", x__request__id="order-7")
        assert (reply.status, json.loads(reply.body)["path"]) == (200, "/v1/charges?amount=5")
        assert reply.headers["x-request-id"] == "order-7"
        (seen,) = mesh.app.seen
        parts = dict(part.split("=", 1) for part in seen.headers["x-forwarded-client-cert"].split(";"))
        assert parts["URI"] == str(spiffe_id("web"))
        assert parts["By"] == str(spiffe_id("payments"))
        assert seen.headers["x-request-id"] == "order-7"
        assert seen.headers["my_header"] == "kept"
        assert seen.headers["host"] == "payments"


async def test_certificates_below_an_upstream_authority_are_trusted_by_what_they_bring_along() -> None:
    async with shop(intermediates=2) as mesh, wire(mesh.egress) as web:
        assert (await web.ask("POST", "/v1/charges")).status == 200
        (seen,) = mesh.app.seen
        assert f"URI={spiffe_id('web')}" in seen.headers["x-forwarded-client-cert"]


async def test_an_app_cannot_pose_as_somebody_else_or_as_a_proxy() -> None:
    spellings = ["x{}forwarded{}client{}cert".format(*parts) for parts in product(("__", "_"), repeat=3)]
    forged = {
        **dict.fromkeys([*spellings, "X_Forwarded_CLIENT__Cert"], f"URI={spiffe_id('ledger')}"),
        "x_forwarded__proto": "gopher",
        "x__envoy__upstream__rq__timeout__ms": "1",
        "x__envoy__original__path": "/admin",
        "x__envoy__anything": "x",
        "x__forwarded__proto": "gopher",
    }
    async with shop() as mesh:
        mesh.app.delay = 0.05  # longer than the timeout that was asked for
        async with wire(mesh.egress) as web, wire(mesh.ingress, mesh.as_service("web")) as direct:
            assert (await web.ask("GET", "/v1/charges", **forged)).status == 200
            assert (await direct.ask("GET", "/v1/charges", **forged)).status == 200
        for seen in mesh.app.seen:
            told = {name: value for name, value in seen.headers.items() if "client" in name}
            assert list(told) == ["x-forwarded-client-cert"]
            assert told["x-forwarded-client-cert"].endswith(f"URI={spiffe_id('web')}")
            assert not [name for name in seen.headers if name.startswith(("x-envoy", "x_", "x-forwarded_"))]
            assert seen.headers["x-forwarded-proto"] == "https"


async def test_plain_text_is_refused_and_the_refusal_is_logged() -> None:
    async with shop() as mesh:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            async with wire(mesh.ingress) as stranger:
                await stranger.ask("GET", "/v1/charges")
        await until(lambda: mesh.payments.connections, "the listener's log")
        name, entry = mesh.payments.connections[0]
        assert name == "vestibule/inbound/payments/http"
        assert "HTTP_REQUEST" in entry.common_properties.downstream_transport_failure_reason
        assert mesh.app.seen == []


@pytest.mark.parametrize("kind", ["another authority", "no certificate", "expired"])
async def test_callers_without_a_trusted_svid_are_refused(kind: str) -> None:
    async with shop() as mesh:
        svid = {
            "another authority": TestAuthority("example.org").svid(spiffe_id("web")),
            "no certificate": None,
            "expired": mesh.lab.authority.svid(
                spiffe_id("web"), now=datetime.now(UTC) - timedelta(hours=2), ttl=timedelta(hours=1)
            ),
        }[kind]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ssl.SSLError)):
            async with wire(mesh.ingress, client_tls(svid, mesh.lab.directory)) as stranger:
                await stranger.ask("GET", "/v1/charges")
        await until(lambda: mesh.payments.connections, "the listener's log")
        _, entry = mesh.payments.connections[0]
        assert entry.common_properties.downstream_transport_failure_reason
        assert mesh.app.seen == []


async def test_a_real_svid_that_no_rule_names_gets_nothing_by_dialling_the_callee() -> None:
    async with shop() as mesh, wire(mesh.ingress, mesh.as_service("ledger")) as ledger:
        reply = await ledger.ask("GET", "/v1/charges")
        assert (reply.status, reply.error) == (403, "VST4001")
        assert mesh.app.seen == []


async def test_a_callee_with_another_identity_is_not_spoken_to() -> None:
    async with Lab(intent_of(*SHOP)) as lab:
        ledger = await lab.add("ledger")
        web = await lab.add("web")
        # The address of payments is served by ledger, whose identity is as real as any.
        stolen = replace(
            ledger.instance, id="payments-1", service="payments", spiffe_id=spiffe_id("payments")
        )
        lab.world = replace(lab.world, instances=(*lab.world.instances, stolen))
        await lab.ready()
        async with wire(web.instance.egress) as client:
            reply = await client.ask("GET", "/v1/charges")
        assert (reply.status, reply.error) == (503, "VST3010")
        await until(lambda: web.requests, "the access log")
        common = web.requests[0][1].common_properties
        assert "CERTIFICATE_VERIFY_FAILED" in common.upstream_transport_failure_reason
        assert "spiffe" not in reply.body.decode()
        assert lab.apps["ledger"].seen == []


# ------------------------------------------------------------------------------------------ what is called


NOT_ALLOWED = [
    ("DELETE", "/v1/charges"),
    ("POST", "/v1/refunds/7"),
    ("GET", "/"),
    ("GET", "/v1"),
    ("GET", "/v1/charges/"),
    ("GET", "/v1/chargesX"),
    ("GET", "/v1/refundsEVIL"),
    ("GET", "/v1/refund"),
    ("GET", "/V1/CHARGES"),
    ("GET", "/v1/orders//lines"),
    ("GET", "/v1/orders/7"),
    ("GET", "/v1/orders/7/lines/8"),
    ("GET", "/v1/orders/7/8/lines"),
    ("GET", "/v1/orders/x?/lines"),
    ("GET", "/admin?/v1/charges"),
    ("GET", "/admin?x=/v1/refunds/1"),
]


async def test_what_no_rule_allows_is_denied_with_code_and_request_id() -> None:
    async with shop() as mesh, wire(mesh.ingress, mesh.as_service("web")) as web:
        for method, path in NOT_ALLOWED:
            reply = await web.ask(method, path, x__request__id="r-1")
            body = json.loads(reply.body)
            assert (reply.status, reply.headers["content-type"]) == (403, "application/json"), path
            assert (body["error"] in ("VST4001", "VST3001"), body["request_id"]) == (True, "r-1")
        assert mesh.app.seen == []


TRICKS = [
    "//v1/charges",
    "/v1//charges",
    "/v1/./charges",
    "/v1/refunds/../../admin",
    "/v1/refunds/..",
    "/v1/refunds/%2e%2e/admin",
    "/v1/refunds/%2E%2e/%2e./admin",
    "/v1/refunds/.%2e/admin",
    "/v1/refunds/%2e%2e%2fadmin",
    "/v1/refunds/%2fadmin",
    "/v1/refunds/x%5c..%5cadmin",
    "/v1/refunds\\..\\admin",
    "/v1/refunds/;x",
    "/v1/refunds/..;/admin",
    "/v1/charges;jsessionid=1",
    "/v1/refunds/%00",
    "/v1/refunds/%",
    "/v1/refunds/%2",
    "/v1/refunds/%zz",
    "/v1/refunds/a%2",
    "/v1/refunds/\xe4",
    "/v1/refunds//",
]


async def test_a_path_with_two_readings_is_refused_by_the_callee() -> None:
    async with shop() as mesh:
        tls = mesh.as_service("web")
        for path in TRICKS:
            # A request that is not even HTTP ends the connection, so each has its own.
            async with wire(mesh.ingress, tls) as web:
                reply = await web.ask("GET", path)
                assert reply.status in (400, 403), path
                if reply.status == 403:
                    assert reply.error == "VST3001", path
        assert mesh.app.seen == []


async def test_no_trick_in_a_path_reaches_through_both_proxies_what_no_rule_allows() -> None:
    async with shop() as mesh:
        for path in (*TRICKS, "/v1/charges#x", "*", "v1/charges"):
            async with wire(mesh.egress) as web:
                await web.ask("GET", path)
        assert {seen.path for seen in mesh.app.seen} <= {"/v1/charges", "/v1/refunds", "/v1/refunds/"}


async def test_what_is_allowed_also_arrives_with_a_query_and_below_a_prefix() -> None:
    async with shop() as mesh, wire(mesh.ingress, mesh.as_service("web")) as web:
        for path in (
            "/v1/charges?next=/../admin;x//",
            "/v1/refunds",
            "/v1/refunds?x",
            "/v1/refunds/",
            "/v1/refunds/a%20b/c",
            "/v1/orders/7/lines",
            "/v1/orders/a.b/lines?x=%2f",
        ):
            assert (await web.ask("GET", path)).status == 200, path
            assert mesh.app.seen.pop().path == path


async def test_details_of_a_denial_are_told_only_where_the_intent_says_so() -> None:
    denying = replace(
        rule("payments/no-refunds", "web", paths="/v1/refunds/7 /v1/orders/{id}"),
        effect=Effect.DENY,
        where=Where(file="services/pay ments.yaml", line=14, column=5),
    )
    late = [replace(denying, name=f"payments/late-{each}", paths=()) for each in range(told.MOST)]
    open_about_it = replace(
        PAYMENTS,
        deny_detail=DenyDetail.CALLER,
        where=Where(file="services/pay ments.yaml", line=1, column=1),
        deny=(
            denying,
            *(replace(each, paths=(PathPattern.parse(f"/late/{each.name[14:]}"),)) for each in late),
        ),
    )
    file = "services/pay%20ments.yaml"
    async with shop(changed(open_about_it, version="abc123")) as mesh, wire(mesh.egress) as web:
        reply = await web.ask("GET", "/v1/admin")
        body = json.loads(reply.body)
        assert body["message"] == f"no rule of payments allows GET /v1/admin to {spiffe_id('web')}"
        assert (body["rule"], body["where"], body["intent_version"]) == ("none", file, "abc123")
        assert reply.headers[told.HEADER] == f"VST4001 - {file} abc123"
        for path in ("/v1/refunds/7", "/v1/orders/12"):
            reply = await web.ask("GET", path)
            body = json.loads(reply.body)
            assert (reply.status, body["rule"], body["where"]) == (403, "payments/no-refunds", f"{file}:14")
            assert reply.headers[told.HEADER] == f"VST4001 payments/no-refunds {file}:14 abc123"
        beyond = (await web.ask("GET", f"/late/{told.MOST - 1}")).headers[told.HEADER]
        assert beyond == f"VST4001 {DENIED_BY}[payments/late-{told.MOST - 1}] {file} abc123"
        allowed = await web.ask("GET", "/v1/charges")
        assert (allowed.status, told.HEADER in allowed.headers) == (200, False)
        async with wire(mesh.ingress, mesh.as_service("web")) as direct:
            reply = await direct.ask("GET", "/v1//charges")
            assert reply.headers[told.HEADER] == "VST3001 vestibule/path-not-normal - abc123"
        mesh.lab.world = replace(mesh.lab.world, commit="4f2a")
        await mesh.lab.change(changed(open_about_it, version="abc124"))
        await mesh.lab.settle()
        reply = await web.ask("GET", "/v1/refunds/7")
        assert reply.headers[told.HEADER] == f"VST4001 payments/no-refunds {file}:14 4f2a"
    async with shop() as mesh, wire(mesh.egress) as web:
        reply = await web.ask("GET", "/v1/admin")
        assert set(json.loads(reply.body)) == {"error", "message", "request_id"}
        assert told.HEADER not in reply.headers


# ------------------------------------------------------------------------------------------ how it is named


async def test_a_service_is_called_by_host_by_proxy_request_and_by_its_own_port() -> None:
    async with shop() as mesh:
        async with wire(mesh.egress) as web:
            for host in (
                "payments",
                "payments:80",
                "payments.shop",
                "http.payments",
                "http.payments.shop:8080",
            ):
                assert (await web.ask("GET", "/v1/charges", host)).status == 200, host
            assert (await web.ask("GET", "http://payments/v1/charges", "payments")).status == 200
            assert (await web.ask("GET", "http://payments:8080/v1/charges", "elsewhere")).status == 200
        async with wire(mesh.web.instance.upstreams["payments"]) as web:
            mesh.app.seen.clear()
            assert (await web.ask("GET", "/v1/charges", "127.0.0.1:15002")).status == 200
            assert mesh.app.seen[0].headers["host"] == "payments"


async def test_a_service_that_exists_is_denied_and_one_that_does_not_is_not_found() -> None:
    async with shop() as mesh, wire(mesh.egress) as web:
        known, unknown = await web.ask("GET", "/", "ledger"), await web.ask("GET", "/", "nowhere")
        assert (known.status, known.error) == (403, "VST4001")
        assert (unknown.status, unknown.error) == (404, "VST3002")
        assert json.loads(unknown.body)["request_id"] == unknown.headers["x-request-id"]


async def test_a_tunnel_is_refused_with_an_explanation() -> None:
    async with shop() as mesh:
        for host in ("payments:443", "ledger:443", "example.com:443"):
            async with wire(mesh.egress) as web:
                reply = await web.ask("CONNECT", host, host)
                assert (reply.status, reply.error) == (501, "VST3003"), host
                assert b"http://NAME/" in reply.body


async def test_failures_have_codes_of_their_own() -> None:
    slow = intent_of(*SHOP, service("nobody", rule("nobody/any", "web")), timeout=1.0)
    async with shop(slow) as mesh, wire(mesh.egress) as web:
        reply = await web.ask("GET", "/", "nobody")
        assert (reply.status, reply.error) == (503, "VST3011")
        mesh.app.delay = 5
        reply = await web.ask("GET", "/v1/charges")
        assert (reply.status, reply.error) == (504, "VST3012")
        mesh.app.delay = 0
        await mesh.app.stop()
        reply = await web.ask("GET", "/v1/charges")
        assert (reply.status, reply.error) == (503, "VST3013")


async def test_a_socket_of_the_services_own_user_is_as_good_as_a_port() -> None:
    async with Lab(intent_of(*SHOP)) as lab:
        app = App("payments")
        app.address = Address(path=str(lab.directory / "app.sock"))
        await app.start()
        lab.also(app.stop)
        await lab.add("payments", apps={"http": app.address})
        egress = Address(path=str(lab.directory / "egress.sock"))
        upstream = Address(path=str(lab.directory / "up.sock"))
        await lab.add("web", egress=egress, upstreams={"payments": upstream})
        await lab.ready()
        for address in (egress, upstream):
            assert stat.S_IMODE(Path(address.path).stat().st_mode) == 0o600
            async with wire(address) as web:
                assert (await web.ask("GET", "/v1/charges")).status == 200


# ------------------------------------------------------------------------------------------ TCP and gRPC


async def test_a_tcp_port_is_open_to_those_a_rule_names_and_closed_to_others() -> None:
    database = service("db", rule("db/web", "web"), sql="tcp")
    async with Lab(intent_of(service("web"), service("ledger"), database)) as lab:
        echo = Echo("db")
        await echo.start()
        lab.also(echo.stop)
        db = await lab.add("db", apps={"sql": echo.address})
        web = await lab.add("web", upstreams={"db": free_address()})
        await lab.ready()

        upstream = web.instance.upstreams["db"]
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.read(100), PATIENCE) == b"db:hello"
        writer.close()

        address = db.instance.ingress["sql"]
        tls = client_tls(lab.issue(spiffe_id("ledger")), lab.directory)
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
        writer.write(b"hello")
        with suppress(ConnectionError, ssl.SSLError):
            assert await asyncio.wait_for(reader.read(100), PATIENCE) == b""
        writer.close()

        async with wire(web.instance.egress) as client:
            reply = await client.ask("GET", "/", "db")
            assert (reply.status, reply.error) == (400, "VST3004")

        await until(lambda: len(db.connections) >= 2, "the log of connections")
        details = {each.common_properties.connection_termination_details for _, each in db.connections}
        assert details == {"", "rbac_access_denied_matched_policy[none]"}
        await until(lambda: web.connections, "the log of connections")
        assert web.connections[0][0] == "vestibule/outbound/db/sql"


class Describer:
    """A gRPC service of an app."""

    async def describe_service(self, stream: Stream) -> None:
        request = await stream.recv_message()
        await stream.send_message(
            node_pb2.DescribeServiceResponse(service=node_pb2.ServiceView(service=request.spiffe_id))
        )


async def test_grpc_goes_through_its_own_port_and_denials_are_grpc_statuses() -> None:
    allowed = "/vestibule.node.v1.Node/DescribeService"
    rpc = service("rpc", rule("rpc/describe", "web", methods="POST", paths=allowed), api="grpc")
    node = node_pb2.DESCRIPTOR.services_by_name["Node"]
    async with Lab(intent_of(service("web"), rpc)) as lab:
        address, app = free_address(), GrpcServer([serve(node, Describer())])
        sock = socket.create_server((address.host, address.port))
        await app.listen(sock)
        lab.also(app.close)
        await lab.add("rpc", apps={"api": address})
        web = await lab.add("web", upstreams={"rpc": free_address()})
        await lab.ready()
        upstream = web.instance.upstreams["rpc"]
        channel = Channel(upstream.host, upstream.port)
        try:
            client = Client(channel, node)
            answer = await client.unary("DescribeService", node_pb2.DescribeServiceRequest(spiffe_id="hello"))
            assert answer.service.service == "hello"
            with pytest.raises(VestibuleError, match=r"PERMISSION_DENIED: \{\"error\":\"VST4001\""):
                await client.unary("DeregisterInstance", node_pb2.DeregisterInstanceRequest())
        finally:
            channel.close()


# ------------------------------------------------------------------------------------------ change


async def test_a_rule_taken_away_denies_the_next_request_on_an_open_connection() -> None:
    async with shop() as mesh, wire(mesh.egress) as web:
        assert (await web.ask("GET", "/v1/charges")).status == 200
        less = replace(PAYMENTS, allow=(PAYMENTS.allow[1],))
        started = time.monotonic()
        await mesh.lab.change(changed(less))
        while (await web.ask("GET", "/v1/charges")).status == 200:
            assert time.monotonic() - started < PATIENCE
        assert (await web.ask("GET", "/v1/charges")).status == 403
        assert (await web.ask("GET", "/v1/refunds/1")).status == 200
        # Nothing but the policy moved: nobody's connections were drained for it.
        stats = await mesh.payments.ask("/stats?filter=listener_manager.listener_(modified|in_place_updated)")
        assert {line.rpartition(" ")[2] for line in stats.splitlines() if line} == {"0"}
        await mesh.lab.change(changed())
        started = time.monotonic()
        while (await web.ask("GET", "/v1/charges")).status != 200:
            assert time.monotonic() - started < PATIENCE


async def test_the_last_rule_taken_away_turns_known_names_and_own_ports_into_denials() -> None:
    async with shop() as mesh:
        async with wire(mesh.egress) as by_name, wire(mesh.web.instance.upstreams["payments"]) as by_port:
            assert (await by_name.ask("GET", "/v1/charges")).status == 200
            assert (await by_port.ask("GET", "/v1/charges")).status == 200
            await mesh.lab.change(changed(replace(PAYMENTS, allow=())))
            started = time.monotonic()
            for client in (by_name, by_port):
                while (reply := await client.ask("GET", "/v1/charges")).status == 200:
                    assert time.monotonic() - started < PATIENCE
                assert reply.status == 403
            without = [each for each in changed().services.values() if each.name != "payments"]
            await mesh.lab.change(intent_of(*without))
            while (reply := await by_port.ask("GET", "/v1/charges")).status == 403:
                assert time.monotonic() - started < PATIENCE
            assert (reply.status, reply.error) == (404, "VST3002")
        assert mesh.web.refused == mesh.payments.refused == []


async def test_new_instances_are_found_and_lost_ones_left() -> None:
    async with shop() as mesh, wire(mesh.egress) as web:
        second = await mesh.lab.add("payments", instance_id="payments-2")
        await mesh.lab.ready()

        async def reaches(proxy: Proxy) -> None:
            async with asyncio.timeout(PATIENCE):
                while not [name for name, _ in proxy.requests if "inbound" in name]:
                    assert (await web.ask("GET", "/v1/charges")).status == 200

        await reaches(second)
        mesh.lab.world = replace(
            mesh.lab.world,
            instances=tuple(each for each in mesh.lab.world.instances if each.id != "payments-1"),
        )
        await mesh.web.news.tell()
        await mesh.payments.stop()
        for _ in range(20):
            assert (await web.ask("GET", "/v1/charges")).status == 200


async def test_an_instance_that_died_without_a_word_costs_no_call_while_another_lives() -> None:
    async with shop() as mesh, wire(mesh.egress) as web:
        await mesh.lab.add("payments", instance_id="payments-2")
        await mesh.lab.ready()
        # Its machine is gone; until its lease ends everybody still believes in it.
        await mesh.payments.stop()
        for _ in range(60):
            assert (await web.ask("GET", "/v1/charges")).status == 200


async def test_certificates_rotate_under_load_without_a_lost_request() -> None:
    # Connections last for half of it; a machine that stands still for most of it loses requests.
    ttl = timedelta(seconds=10)
    async with shop(ttl=ttl) as mesh:
        ends = time.monotonic() + 2 * PATIENCE
        answers: list[int] = []

        def serials() -> set[str]:
            return {each.common_properties.custom_tags["peer_serial"] for _, each in mesh.payments.requests}

        def goes_on() -> bool:
            return time.monotonic() < ends and not (len(answers) > 100 and len(serials()) >= 3)

        async def call() -> None:
            async with wire(mesh.egress) as web:
                while goes_on():
                    answers.append((await web.ask("GET", "/v1/charges")).status)

        async def rotate() -> None:
            while goes_on():
                await asyncio.sleep(1)
                await mesh.web.rotate(ttl)
                await mesh.payments.rotate(ttl)

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(call())
            group.create_task(rotate())
        assert len(answers) > 100
        assert set(answers) == {200}
        assert len(serials()) >= 3, "connections outlived the certificates they were made with"


# ------------------------------------------------------------------------------------------ what is told


async def test_the_access_logs_of_both_sides_tell_who_called_what_and_why() -> None:
    async with shop() as mesh, wire(mesh.egress) as web:
        await web.ask("GET", "/v1/refunds/7?secret=1", x__request__id="r-1")
        await web.ask("GET", "/v1/nothing", x__request__id="r-2")
        await until(lambda: len(mesh.payments.requests) == len(mesh.web.requests) == 2, "the access logs")
        (name, allowed), (_, denied) = mesh.payments.requests
        common = allowed.common_properties
        assert name == "vestibule/inbound/payments/http"
        assert allowed.request.request_id == "r-1"
        assert common.route_name == "payments/http"
        assert common.tls_properties.peer_certificate_properties.subject_alt_name[0].uri == str(
            spiffe_id("web")
        )
        assert int(common.custom_tags["peer_serial"], 16) == mesh.web.svid.serial
        verdict = common.metadata.filter_metadata["envoy.filters.http.rbac"]
        assert verdict["enforced_effective_policy_id"] == "payments/refunds"
        assert denied.response.response_code_details == "rbac_access_denied_matched_policy[none]"

        name, outbound = mesh.web.requests[0]
        common = outbound.common_properties
        assert name == "vestibule/outbound//"
        assert (outbound.request.request_id, common.route_name) == ("r-1", "payments/http")
        assert common.custom_tags["destination_spiffe_id"] == str(spiffe_id("payments"))
