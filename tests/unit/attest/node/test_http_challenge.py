"""http_challenge: the server calls only whom the operator lists, and is not led anywhere else."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.ports import free_port
from tests.unit.attest.doubles import FakeHttp
from tests.unit.attest.node.clouds import NOW, TD

from vestibule.app.attestor_choices import Choice
from vestibule.app.server_attestors import node_attestors
from vestibule.attest.node import NodeAttestor
from vestibule.attest.node.http_challenge import (
    PATH,
    HttpChallengeProof,
    HttpChallengeProofSettings,
)
from vestibule.errors import VestibuleError

HOST = "node-1.example.org"


class NoTokens:
    async def consume(self, token: str, now: Any) -> Any:
        raise AssertionError


def attestor(**values: Any) -> NodeAttestor:
    chosen = Choice(name="http_challenge", values={"hostnames": ["*.example.org"], **values})
    return node_attestors([chosen], TD, NoTokens())[0]


def claim(host: str = HOST, port: Any = 80, agent: str = "default") -> bytes:
    return json.dumps({"hostname": host, "port": port, "agentname": agent}).encode()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names lead to."""
    names: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: Any, *more: Any, **options: Any) -> Any:
        if host in names:
            return [each for address in names[host] for each in real(address, port, *more, **options)]
        return real(host, port, *more, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


async def no_challenge(_: bytes) -> bytes:
    raise AssertionError("it was not worth a challenge")


async def agreed(_: bytes) -> bytes:
    return b"\n"


@pytest.mark.parametrize(
    "payload",
    [
        claim("example.org"),
        claim("a.b.example.org"),
        claim("example.org.evil.test"),
        claim("evil.test"),
        claim("localhost"),
        claim("127.0.0.1"),
        claim("169.254.169.254"),
        claim("node-1.example.org."),
        claim("NODE-1.example.org"),
        claim("a/b.example.org"),
        claim("user@node-1.example.org"),
        claim("node-1.example.org:22"),
        claim("node-1.example.org\n"),
        claim("-.example.org"),
        claim(".example.org"),
        claim(port=22),
        claim(port=True),
        claim(port="80"),
        claim(port=80.0),
        claim(port=-1),
        claim(agent="../../admin"),
        claim(agent="a" * 33),
        claim(agent="a b"),
        claim(agent=""),
    ],
)
async def test_what_is_not_listed_is_not_called(payload: bytes, resolve: dict[str, list[str]]) -> None:
    with pytest.raises(VestibuleError, match=r"VST200[34]"):
        await attestor().attest(payload, no_challenge, NOW)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "0.0.0.0"])
async def test_a_listed_name_that_leads_back_here_is_not_called(
    address: str, resolve: dict[str, list[str]]
) -> None:
    double = FakeHttp()
    async with double.on_tcp() as port:
        for addresses in ([address], ["192.0.2.1", address]):
            resolve[HOST] = addresses
            with pytest.raises(VestibuleError, match="VST2004") as refusal:
                await attestor(ports=[port]).attest(claim(port=port), agreed, NOW)
            assert address not in str(refusal.value)
    assert double.asked == []


async def test_redirects_and_other_answers_are_refused(resolve: dict[str, list[str]]) -> None:
    resolve[HOST] = ["127.0.0.1"]
    target = f"GET {PATH.format('default')}"
    double = FakeHttp()
    async with double.on_tcp() as port:
        judge = attestor(ports=[port], allow_loopback=True)
        for answer in ((302, b""), (200, b"another"), (200, b""), (500, b""), (200, b"x" * 100_000)):
            double.answers[target] = answer
            with pytest.raises(VestibuleError, match="VST2004"):
                await judge.attest(claim(port=port), agreed, NOW)
    assert {each.target for each in double.asked} == {PATH.format("default")}


async def test_the_agent_serves_the_nonce_on_one_path_while_it_attests(resolve: dict[str, list[str]]) -> None:
    resolve[HOST] = ["127.0.0.1"]
    port = free_port()
    settings = HttpChallengeProofSettings(hostname=HOST, port=port, address="127.0.0.1")
    proof = HttpChallengeProof(settings)

    async def ask(request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()

    payload = await proof.payload()
    path = PATH.format("default").encode()
    assert b" 404 " in await ask(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    node = await attestor(ports=[port], allow_loopback=True).attest(payload, proof.respond, NOW)
    assert node.agent_id.path == f"/spire/agent/http_challenge/{HOST}"
    assert b" 404 " in await ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b" 404 " in await ask(b"POST " + path + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    assert b" 400 " in await ask(b"nonsense\r\n\r\n")
    with pytest.raises(VestibuleError, match=f"VST2008 .*{port}"):
        await HttpChallengeProof(settings).payload()
    await proof.close()
    with pytest.raises(ConnectionRefusedError):
        await ask(b"")


@pytest.mark.parametrize(
    "values",
    [
        {"hostnames": []},
        {"hostnames": ["*"]},
        {"hostnames": ["*.org"]},
        {"hostnames": ["localhost"]},
        {"hostnames": ["*.*.example.org"]},
        {"ports": []},
        {"ports": [8080], "tofu": False},
    ],
)
def test_settings_that_let_anybody_in_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(VestibuleError, match="VST9110 attestor http_challenge"):
        attestor(**values)


async def test_with_a_privileged_port_a_host_may_come_again(tmp_path: Path) -> None:
    assert attestor(tofu=False, ports=[80]).name == "http_challenge"
