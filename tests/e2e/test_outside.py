"""Calls to hosts outside the mesh, through real Envoys."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.mesh_lab import (
    PATIENCE,
    Lab,
    Proxy,
    Reply,
    free_address,
    intent_of,
    rule,
    service,
    spiffe_id,
    until,
    wire,
)
from tests.e2e.outside_lab import Outsider, PublicAuthority
from tests.e2e.shared_mesh import Shared

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.intent.model import Intent
from vestibule.intent.outside import Credential, External, HostPort, OutsideProtocol, OutsideTls
from vestibule.intent.traffic import RateLimit, Traffic
from vestibule.policy import PathPattern, Rule

NAME = "api.outside.test"
SCARCE = RateLimit(requests=2, window=timedelta(hours=1), path=PathPattern.parse("/scarce/**"))


def external(name: str, outsider: Outsider | None, ca: str | None, **more: Any) -> External:
    plain = External(
        name=name,
        hosts=(HostPort(host=NAME, port=443),),
        addresses=(outsider.place,) if outsider is not None else (),
        ca=ca,
        allow=(rule(f"egress/{name}/all", "web"),),
    )
    return replace(plain, **more)


def ending(name: str, hours: int) -> tuple[Rule, ...]:
    """One that ends by the clock of the proxy alone: nobody compiles it away here."""
    return (replace(rule(f"egress/{name}/all", "web"), expires=datetime.now(UTC) + timedelta(hours=hours)),)


def with_outside(*externals: External) -> Intent:
    intent = intent_of(service("web"), service("ledger"))
    return replace(intent, externals={each.name: each for each in externals})


@dataclass
class Outside:
    """web may call several hosts outside; ledger hardly any."""

    lab: Lab
    web: Proxy
    ledger: Proxy
    """On a machine without public authorities."""
    good: Outsider
    newer: Outsider
    plain: Outsider
    bytes_only: Outsider
    bad: dict[str, Outsider]
    token: Path

    async def ask(self, host: str, method: str = "GET", target: str = "/", **headers: str) -> Reply:
        async with wire(self.web.instance.egress) as client:
            return await client.ask(method, target, host, **headers)

    async def asked(self, host: str, method: str = "GET", target: str = "/") -> tuple[Reply, dict[str, Any]]:
        """An answer and what the access log says of it."""
        reply = await self.ask(host, method, target)
        reporter = Reporter("web", str(spiffe_id("web")), "web-1")

        def record() -> dict[str, Any] | None:
            for name, entry in reversed(self.web.requests):
                found = json.loads(EntryLines(LogName.parse(name), reporter).http(entry).text)
                if found["request_id"] == reply.headers["x-request-id"]:
                    return dict(found)
            return None

        return reply, await until(record, "the access log")


@asynccontextmanager
async def outside(directory: Path) -> AsyncIterator[Outside]:
    public, stranger = PublicAuthority("Public Root"), PublicAuthority("Somebody's Root")
    token = directory / "token"
    token.write_text("s3cr3t-t0ken\n")

    def server(*names: str, by: PublicAuthority = public, **more: Any) -> Outsider:
        age = more.pop("age", timedelta(days=1))
        return Outsider(files=by.issue(directory, *names, age=age), **more)

    good, plain = server(NAME, "spiffe://example.org/ns/prod/sa/ledger"), Outsider()
    bytes_only = server(NAME, answer=b"hello:")
    others = {
        "wrongname": server("other.outside.test"),
        "subname": server(f"x.{NAME}"),
        "expired": server(NAME, age=timedelta(days=91)),
        "stranger": server(NAME, by=stranger),
        "oldtls": server(NAME, oldest=ssl.TLSVersion.TLSv1, newest=ssl.TLSVersion.TLSv1_1),
    }
    localhost, silent, newer = server("localhost"), server(NAME, silent=True), server(NAME, http2=True)
    ca = public.pem
    rules = (
        rule("egress/good/charge", "web", methods="POST", paths="/v1/charges/**"),
        rule("egress/good/read", "web", methods="GET"),
        rule("egress/good/theirs", "ledger", methods="DELETE"),
    )
    credential = Credential(header="authorization", prefix="Bearer ", file=str(token))
    lost = replace(credential, file=str(directory / "lost"))
    intent = with_outside(
        external("good", good, ca, allow=rules),
        external("trusted", good, None, allow=(rule("egress/trusted/all", "web", "ledger"),)),
        external("h2", newer, ca),
        external("grpc", newer, ca, protocol=OutsideProtocol.GRPC),
        external("paying", good, ca, credential=credential),
        external("lost", good, ca, credential=lost),
        external("plain", plain, None, tls=OutsideTls.NONE, hosts=(HostPort(host="legacy.test", port=8080),)),
        external("lines", bytes_only, ca, protocol=OutsideProtocol.TCP, allow=ending("lines", 1)),
        external("ended", bytes_only, ca, protocol=OutsideProtocol.TCP, allow=ending("ended", -1)),
        external("forbidden", good, ca, allow=(rule("egress/forbidden/theirs", "ledger"),)),
        external("named", None, ca, hosts=(HostPort(host="localhost", port=localhost.port),)),
        external("nowhere", None, ca, hosts=(HostPort(host="no-such-host.invalid", port=443),)),
        external("closed", None, ca, addresses=(HostPort(host="127.0.0.1", port=free_address().port),)),
        external("scarce", good, ca, traffic=Traffic(limits=(SCARCE,))),
        external(
            "slow", None, ca, addresses=(silent.place,), traffic=Traffic(timeout=timedelta(seconds=0.2))
        ),
        *(external(name, each, ca) for name, each in others.items()),
    )
    servers = [good, plain, bytes_only, localhost, silent, newer, *others.values()]
    async with Lab(intent) as lab:
        lab.ca_bundle = directory / "bundle.pem"
        lab.ca_bundle.write_text(public.pem)
        for each in servers:
            await each.start()
            lab.also(each.stop)
        upstreams = {name: free_address() for name in ("good", "lines", "ended", "forbidden")}
        web = await lab.add("web", upstreams=upstreams)
        lab.ca_bundle = directory / "no-bundle.pem"
        ledger = await lab.add("ledger")
        await lab.ready()
        yield Outside(lab, web, ledger, good, newer, plain, bytes_only, others, token)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def mesh(directory: Path) -> Iterator[Shared[Outside]]:
    with Shared(lambda: outside(directory)) as shared:
        yield shared


def test_a_call_by_name_reaches_the_host_under_its_own_name(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        reply, record = await outside.asked("good", "GET", "/things?x=1")
        assert (reply.status, json.loads(reply.body)) == (200, {"path": "/things?x=1"})
        assert outside.good.seen[-1].headers["host"] == NAME
        assert set(outside.good.names) == {NAME}
        told = {name: record[name] for name in ("source_spiffe_id", "destination_service", "rule", "verdict")}
        assert told == {
            "source_spiffe_id": str(spiffe_id("web")),
            "destination_service": "external:good",
            "rule": "egress/good/read",
            "verdict": "allowed",
        }
        # Anybody can have such a name written into a certificate; it is nobody of ours.
        assert record["destination_spiffe_id"] == ""
        assert record["request_id"] == reply.headers["x-request-id"]

    mesh.run(story)


def test_nothing_of_ours_goes_out_and_nothing_of_theirs_poses_as_a_proxy(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        ours = {
            "x__request__id": "order-7",
            "x__forwarded__for": "10.1.2.3",
            "x__forwarded__client__cert": f"URI={spiffe_id('web')}",
            "x__vestibule__anything": "x",
            "x__envoy__anything": "x",
            "x__real__ip": "10.1.2.3",
            "my__header": "kept",
        }
        reply = await outside.ask("good", "GET", "/headers", **ours)
        assert outside.good.seen[-1].headers == {"host": NAME, "my-header": "kept"}
        assert "x-envoy-overloaded" not in reply.headers
        assert reply.headers["x-request-id"] == "order-7"

    mesh.run(story)


def test_what_no_rule_lets_the_caller_do_does_not_go_out(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        assert (await outside.ask("good", "POST", "/v1/charges/7")).status == 200
        before = len(outside.good.seen)
        for method, path in (("POST", "/v2"), ("DELETE", "/"), ("POST", "/v1/charges/../../v2")):
            reply, record = await outside.asked("good", method, path)
            assert (reply.status, reply.error) == (403, "VST4001")
            assert (record["verdict"], record["destination_service"]) == ("denied", "external:good")
            assert "none" in record["details"]
            assert json.loads(reply.body)["request_id"] == record["request_id"]
        reply, record = await outside.asked("good", "GET", "/a%2Fb")
        assert (reply.status, reply.error, record["verdict"]) == (403, "VST3001", "denied")
        reply, record = await outside.asked("forbidden")
        assert (reply.status, reply.error) == (403, "VST4001")
        assert (record["verdict"], record["destination_service"]) == ("denied", "external:forbidden")
        assert (await outside.ask("good", "CONNECT", "good:443")).error == "VST3003"
        assert len(outside.good.seen) == before

    mesh.run(story)


BAD = {
    "wrongname": ("VST3032", "SAN matcher, certificate SANs are [other.outside.test]"),
    "subname": ("VST3032", f"SAN matcher, certificate SANs are [x.{NAME}]"),
    "expired": ("VST3032", "certificate has expired"),
    "stranger": ("VST3032", "unable to get local issuer certificate"),
    "oldtls": ("VST3030", "TLS_error"),
    "closed": ("VST3030", "Connection refused"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_host_that_does_not_prove_its_name_is_not_spoken_to_and_the_log_says_why(
    mesh: Shared[Outside], name: str
) -> None:
    async def story(outside: Outside) -> None:
        reply, record = await outside.asked(name)
        code, why = BAD[name]
        assert (reply.status, reply.error) == (503, code)
        assert why in record["transport_failure"]
        assert (record["verdict"], record["destination_service"]) == ("failed", f"external:{name}")
        assert outside.bad[name].seen == [] if name in outside.bad else True

    mesh.run(story)


def test_names_are_resolved_and_one_without_an_address_is_called_so(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        assert (await outside.ask("named")).status == 200
        reply, record = await outside.asked("nowhere")
        assert (reply.status, reply.error) == (503, "VST3031")
        assert (record["flags"], record["verdict"]) == (["UH"], "failed")

    mesh.run(story)


def test_the_hosts_own_public_authorities_verify_where_no_others_are_given(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        assert (await outside.ask("trusted")).status == 200
        async with wire(outside.ledger.instance.egress) as client:
            reply = await client.ask("GET", "/", "trusted")
        assert (reply.status, reply.error) == (503, "VST3036")

    mesh.run(story)


@pytest.mark.parametrize("name", ["h2", "grpc"])
def test_http2_is_spoken_to_hosts_that_speak_it(mesh: Shared[Outside], name: str) -> None:
    async def story(outside: Outside) -> None:
        assert (await outside.ask(name, "GET", "/two")).status == 200
        headers = outside.newer.seen[-1].headers
        assert headers == {":method": "GET", ":path": "/two", ":scheme": "https", ":authority": NAME}

    mesh.run(story)


def test_plain_text_goes_out_where_the_intent_says_so(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        assert (await outside.ask("plain")).status == 200
        assert outside.plain.seen[-1].headers == {"host": "legacy.test:8080"}

    mesh.run(story)


def test_a_credential_is_added_replaced_when_it_changes_and_shown_nowhere(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        await outside.ask("paying", authorization="Bearer forged")
        assert outside.good.seen[-1].headers["authorization"] == "Bearer s3cr3t-t0ken"
        outside.token.write_text("s3cr3t-n3w")
        outside.web.files.look()

        async def new() -> bool:
            await outside.ask("paying")
            return outside.good.seen[-1].headers["authorization"] == "Bearer s3cr3t-n3w"

        async with asyncio.timeout(PATIENCE):
            while not await new():
                await asyncio.sleep(0.02)
        outside.token.unlink()
        outside.web.files.look()
        assert await new()
        dump = await outside.web.ask("/config_dump?include_eds")
        assert "external:paying" in dump
        for shown in (dump, outside.web.log, *(str(entry) for _, entry in outside.web.requests)):
            assert "s3cr3t" not in shown

    mesh.run(story)


def test_without_its_credential_a_call_is_refused_until_there_is_one(
    mesh: Shared[Outside], directory: Path
) -> None:
    async def story(outside: Outside) -> None:
        before = len(outside.good.seen)
        reply, record = await outside.asked("lost")
        assert (reply.status, reply.error, record["verdict"]) == (503, "VST3033", "failed")
        assert len(outside.good.seen) == before
        (directory / "lost").write_text("found")
        outside.web.files.look()
        async with asyncio.timeout(PATIENCE):
            while (await outside.ask("lost")).status != 200:
                await asyncio.sleep(0.02)
        assert outside.good.seen[-1].headers["authorization"] == "Bearer found"

    mesh.run(story)


def test_limits_and_timeouts_hold_at_the_callers_proxy(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        statuses = [(await outside.ask("scarce", "GET", "/scarce/x")).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        reply = await outside.ask("scarce", "GET", "/scarce/x")
        assert (reply.error, reply.headers["x-vestibule-limit"]) == ("VST3016", "egress/scarce/limits/1")
        assert (await outside.ask("scarce", "GET", "/plenty")).status == 200
        reply, record = await outside.asked("slow")
        assert (reply.status, reply.error, record["flags"]) == (504, "VST3012", ["UT"])
        assert json.loads(reply.body)["request_id"] == record["request_id"] != ""

    mesh.run(story)


def test_a_port_of_its_own_leads_to_one_host_by_http_and_by_tcp(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        upstreams = outside.web.instance.upstreams
        async with wire(upstreams["good"]) as client:
            assert (await client.ask("GET", "/own-port", "127.0.0.1:1")).status == 200
        assert outside.good.seen[-1].headers["host"] == NAME
        async with wire(upstreams["forbidden"]) as client:
            assert (await client.ask("GET", "/")).error == "VST4001"
        address = upstreams["lines"]
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"abc")
        assert await reader.read() == b"hello:abc"
        writer.close()
        reporter = Reporter("web", str(spiffe_id("web")), "web-1")

        def logged() -> list[dict[str, Any]]:
            lines = (
                EntryLines(LogName.parse(name), reporter).tcp(entry)
                for name, entry in outside.web.connections
            )
            found = [json.loads(each.text) for each in lines]
            return [each for each in found if each["destination_service"] == "external:lines"]

        (record, *_) = await until(logged, "the log of connections")
        assert record["source_spiffe_id"] == str(spiffe_id("web"))
        assert record["destination_service"] == "external:lines"
        assert (record["verdict"], record["rule"]) == ("allowed", "egress/lines/all")

    mesh.run(story)


def test_a_connection_by_a_rule_that_ended_is_refused_by_the_proxys_own_clock(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        address = outside.web.instance.upstreams["ended"]
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"abc")
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    mesh.run(story)


def test_a_rule_taken_away_counts_on_an_open_connection(mesh: Shared[Outside]) -> None:
    async def story(outside: Outside) -> None:
        lab, intent = outside.lab, outside.lab.world.intent
        good = replace(intent.externals["good"], allow=(rule("egress/good/read", "web", methods="HEAD"),))
        async with wire(outside.web.instance.egress) as client:
            assert (await client.ask("GET", "/", "good")).status == 200
            await lab.change(replace(intent, externals={**intent.externals, "good": good}, version="v2"))
            async with asyncio.timeout(PATIENCE):
                while (await client.ask("GET", "/", "good")).status != 403:
                    await asyncio.sleep(0.01)
        await lab.change(intent)
        assert outside.web.refused == []

    mesh.run(story)
