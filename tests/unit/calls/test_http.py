"""Plain HTTP calls: bounded, never redirected, and only to addresses that were judged."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.attest.doubles import FakeHttp

from vestibule.calls.http import HttpServer, is_foreign_host, plain
from vestibule.errors import VestibuleError


async def test_an_exchange_carries_method_target_headers_and_body() -> None:
    double = FakeHttp({"POST /a?b=c": (201, b"made")})
    async with double.on_tcp() as port:
        answer = await HttpServer(host="127.0.0.1", port=port)(
            "POST", "/a?b=c", headers={"X-A": "1"}, body=b"x"
        )
    assert (answer.status, answer.body) == (201, b"made")
    assert (double.asked[0].body, double.asked[0].headers["x-a"]) == (b"x", "1")


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    double = FakeHttp({"GET /": (302, b"")})
    async with double.on_tcp() as port:
        assert (await HttpServer(host="127.0.0.1", port=port)("GET", "/")).status == 302
    assert len(double.asked) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"silent": True}, "VST2340"),
        ({"raw": b"SSH-2.0-OpenSSH\r\n\r\n"}, "VST2341"),
        ({"raw": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"}, "VST2341"),
        ({"raw": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000}, "VST2341"),
        ({"answers": {"GET /": (200, b"x" * 1001)}}, "VST2341"),
    ],
)
async def test_what_is_late_large_or_not_http_is_refused(change: dict[str, Any], code: str) -> None:
    double = FakeHttp(**change)
    async with double.on_tcp() as port:
        with pytest.raises(VestibuleError, match=code):
            await HttpServer(host="127.0.0.1", port=port, seconds=0.5, limit=1000)("GET", "/")


async def test_nobody_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VestibuleError, match=r"VST2340 .*nothing"):
        await HttpServer(unix=tmp_path / "nothing")("GET", "/")


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
    ],
)
def test_this_machine_and_metadata_services_are_nobody_elses(text: str) -> None:
    assert not is_foreign_host(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["10.0.0.7", "192.168.1.2", "192.0.2.1", "8.8.8.8", "2001:db8::1", "fd12::1"]
)
def test_other_machines_may_be_called(text: str) -> None:
    assert is_foreign_host(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_no_form_of_an_address_hides_it(address: ipaddress.IPv4Address) -> None:
    assert plain(ipaddress.IPv6Address(f"::ffff:{address}")) == address
    assert plain(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(address))) == address


async def test_the_judged_address_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is looked up once: a second look-up could give another address (DNS rebinding)."""
    double = FakeHttp({"GET /": (200, b"here")})
    looked_up: list[str] = []
    async with double.on_tcp() as port:
        real = socket.getaddrinfo

        def getaddrinfo(host: str, *more: Any, **options: Any) -> Any:
            if host == "node.example.org":
                looked_up.append(host)
                host = "127.0.0.1" if len(looked_up) == 1 else "203.0.113.1"
            return real(host, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        judged: list[str] = []

        def permit(address: Any) -> bool:
            judged.append(str(address))
            return True

        answer = await HttpServer(host="node.example.org", port=port, permit=permit)("GET", "/")
    assert answer.body == b"here"
    assert (judged, looked_up) == (["127.0.0.1"], ["node.example.org"])
    assert double.asked[0].headers["host"] == "node.example.org"


async def test_an_address_that_is_not_permitted_is_not_called() -> None:
    double = FakeHttp()
    async with double.on_tcp() as port:
        with pytest.raises(VestibuleError, match="VST2342"):
            await HttpServer(host="localhost", port=port, permit=is_foreign_host)("GET", "/")
    assert double.asked == []
