"""Calls to hosts outside the mesh, through real Envoys."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.mesh_lab import (
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

from vestibule.doors.access_entries import EntryLines, LogName, Reporter
from vestibule.intent.model import Intent
from vestibule.intent.outside import Credential, External, HostPort, OutsideProtocol, OutsideTls
from vestibule.records import Address

NAME = "api.outside.test"


def external(name: str, outsider: Outsider | None, ca: str | None, **more: Any) -> External:
    plain = External(
        name=name,
        hosts=(HostPort(host=NAME, port=443),),
        addresses=(outsider.place,) if outsider is not None else (),
        ca=ca,
        allow=(rule(f"egress/{name}/all", "web"),),
    )
    return replace(plain, **more)


def with_outside(*externals: External) -> Intent:
    intent = intent_of(service("web"), service("ledger"))
    return replace(intent, externals={each.name: each for each in externals})


@dataclass
class Outside:
    """web may call several hosts outside; ledger none."""

    lab: Lab
    web: Proxy
    good: Outsider
    plain: Outsider
    bytes_only: Outsider
    token: Path

    async def ask(self, host: str, method: str = "GET", target: str = "/", **headers: str) -> Reply:
        async with wire(self.web.instance.egress) as client:
            return await client.ask(method, target, host, **headers)

    async def record(self, number: int = -1) -> dict[str, Any]:
        """What the access log says of a request."""
        count = len(self.web.requests)
        del count
        name, entry = self.web.requests[number]
        reporter = Reporter("web", str(spiffe_id("web")), "web-1")
        return dict(json.loads(EntryLines(LogName.parse(name), reporter).http(entry).text))

    async def asked(self, host: str, method: str = "GET", target: str = "/") -> tuple[Reply, dict[str, Any]]:
        """An answer and its record."""
        before = len(self.web.requests)
        reply = await self.ask(host, method, target)
        await until(lambda: len(self.web.requests) > before, "the access log")
        return reply, await self.record()


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
    localhost = server("localhost")
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
        external("trusted", good, None),
        external("paying", good, ca, credential=credential),
        external("lost", good, ca, credential=lost),
        external("plain", plain, None, tls=OutsideTls.NONE, hosts=(HostPort(host="legacy.test", port=8080),)),
        external("lines", bytes_only, ca, protocol=OutsideProtocol.TCP),
        external("forbidden", good, ca, allow=(rule("egress/forbidden/theirs", "ledger"),)),
        external("named", None, ca, hosts=(HostPort(host="localhost", port=localhost.port),)),
        external("nowhere", None, ca, hosts=(HostPort(host="no-such-host.invalid", port=443),)),
        external("closed", None, ca, addresses=(HostPort(host="127.0.0.1", port=free_address().port),)),
        *(external(name, each, ca) for name, each in others.items()),
    )
    servers = [good, plain, bytes_only, localhost, *others.values()]
    async with Lab(intent) as lab:
        lab.ca_bundle = directory / "bundle.pem"
        lab.ca_bundle.write_text(public.pem)
        for each in servers:
            await each.start()
            lab.also(each.stop)
        upstreams = {"good": free_address(), "lines": free_address(), "forbidden": free_address()}
        web = await lab.add("web", upstreams=upstreams)
        await lab.ready()
        yield Outside(lab, web, good, plain, bytes_only, token)


async def test_everything(tmp_path: Path) -> None:
    async with outside(tmp_path) as mesh:
        for name in (
            "good",
            "trusted",
            "paying",
            "lost",
            "plain",
            "forbidden",
            "named",
            "nowhere",
            "closed",
            "wrongname",
            "subname",
            "expired",
            "stranger",
            "oldtls",
            "nonsense",
        ):
            reply, record = await mesh.asked(name)
            print(name, reply.status, reply.body.decode(), {k: v for k, v in reply.headers.items()})
            print(
                "     ",
                {
                    k: record[k]
                    for k in (
                        "verdict",
                        "status",
                        "destination_service",
                        "destination_spiffe_id",
                        "route",
                        "rule",
                        "flags",
                        "details",
                        "transport_failure",
                        "source_spiffe_id",
                    )
                },
            )
        for s in mesh.good.seen:
            print(s)
        print(mesh.good.names)
        print(
            await mesh.ask("good", "POST", "/v1/charges/7"),
            await mesh.ask("good", "POST", "/v2"),
            await mesh.ask("good", "DELETE", "/"),
            await mesh.ask("good", "GET", "/a%2Fb"),
            await mesh.ask("good", "CONNECT", "good:443"),
        )
        print(mesh.web.log)
        dump = await mesh.web.ask("/config_dump?include_eds")
        print("s3cr3t" in dump, "s3cr3t" in mesh.web.log)
        for u in ("good", "forbidden"):
            async with wire(mesh.web.instance.upstreams[u]) as c:
                print(u, await c.ask("GET", "/x", "127.0.0.1:77"))
        r, w = await asyncio.open_connection("127.0.0.1", mesh.web.instance.upstreams["lines"].port)
        w.write(b"abc")
        print(await r.read(100))
        w.close()
        await until(lambda: mesh.web.connections, "x")
        print(mesh.web.connections)
        assert 0
