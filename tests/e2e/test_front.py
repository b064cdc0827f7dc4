"""The door of the secret manager, as attackers and ordinary callers find it."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import httpx
import pytest
from tests.e2e.front_lab import SECRETS, Room, Shared, tls_of
from tests.e2e.mesh_lab import PATIENCE, spiffe_id, until

from vestibule.audit.codes import AUDIT_UNAVAILABLE
from vestibule.envoy.platform import MAX_REQUEST_BYTES
from vestibule.secrets.ports import Verb
from vestibule.spiffe import Revocation, Revocations, RevokedIdentity
from vestibule.testing import TestAuthority

OWN = "/v1/secret/own"


@pytest.fixture(scope="module")
def front() -> Iterator[Shared]:
    with Shared() as shared:
        yield shared


def test_a_caller_reads_what_a_rule_lets_it_and_that_is_on_record(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        answer = await room.client(room.svid("payments")).get(OWN, headers={"x-request-id": "r-1"})
        assert (answer.status_code, answer.json()["data"]) == (200, {"password": "swordfish"})
        assert answer.headers["content-type"] == "application/json"
        event = room.notes.events[-1]
        assert (event.actor, event.action, event.outcome) == (str(spiffe_id("payments")), "secret.read", "ok")
        assert (event.subject, event.details["rule"], event.details["request_id"]) == (
            "secret/own",
            "own/rule",
            "r-1",
        )
        assert "swordfish" not in repr(room.notes.events)

    front.run(story)


def test_whom_no_rule_lets_is_refused_in_vaults_form_and_that_is_on_record(front: Shared) -> None:
    async def story(room: Room) -> None:
        answer = await room.client(room.svid("web")).get(OWN)
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/json"
        (said,) = answer.json()["errors"]
        assert "VST5300" in said
        assert "no rule allows it" in said
        assert (room.notes.events[-1].outcome, room.notes.events[-1].details["code"]) == ("denied", "VST5300")

    front.run(story)


@pytest.mark.parametrize("http2", [False, True])
def test_a_list_is_a_method_of_its_own_over_both_protocols(front: Shared, http2: bool) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.LIST, "secret/metadata")
        client = room.client(room.svid("payments"), http2=http2)
        answer = await client.request("LIST", "/v1/secret/metadata")
        assert (answer.status_code, "secret/own" in answer.json()["data"]["keys"]) == (200, True)
        again = await client.get("/v1/secret/metadata?list=True")
        assert again.status_code == 200

    front.run(story)


def test_who_has_no_certificate_or_one_of_another_trust_domain_is_not_let_in(front: Shared) -> None:
    async def story(room: Room) -> None:
        elsewhere = TestAuthority("elsewhere.example").svid("/ns/prod/sa/payments")
        forged = TestAuthority("example.org").svid(spiffe_id("payments"))
        for svid in (None, elsewhere, forged):
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await room.client(svid).get(OWN)

    front.run(story)


def test_nobody_says_who_he_is_by_headers(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        forged = f"By=x;Hash=00;URI={spiffe_id('payments')}"
        names = ("x-forwarded-client-cert", "X-Forwarded-Client-Cert", "x-forwarded-client_cert")
        for name in names:
            answer = await room.client(room.svid("web")).get(OWN, headers={name: forged})
            assert answer.status_code in (400, 403), name
            assert "swordfish" not in answer.text

    front.run(story)


FORGER = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(10)
sock.connect(sys.argv[1])
try:
    head = ["GET /v1/secret/own HTTP/1.1", "host: x", f"x-forwarded-client-cert: {sys.argv[2]}", "", ""]
    sock.sendall("\\r\\n".join(head).encode())
    got = sock.recv(65536)
except (ConnectionResetError, BrokenPipeError):
    got = b""
sys.stdout.write(repr(got))
"""


def test_another_process_of_the_same_user_is_cut_off_before_a_byte_is_read(front: Shared) -> None:
    async def story(room: Room) -> None:
        before, recorded = room.front.refused, len(room.notes.events)
        path = room.front.bootstrap.services[0].app_socket
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            FORGER,
            str(path),
            f"By=x;Hash=00;URI={spiffe_id('payments')}",
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await process.communicate()
        assert said == b"b''"
        assert (room.front.refused, len(room.notes.events)) == (before + 1, recorded)

    front.run(story)


def test_the_server_itself_is_no_exception(front: Shared) -> None:
    async def story(room: Room) -> None:
        before = room.front.refused
        with socket.socket(socket.AF_UNIX) as sock:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(
                sock, str(room.front.bootstrap.services[0].app_socket)
            )
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(sock, 10) == b""
        assert room.front.refused == before + 1

    front.run(story)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/secret/x/../own",
        "/v1/secret/./own",
        "/v1/secret//own",
        "/v1//secret/own",
        "/v1/secret/x/%2e%2e/own",
        "/v1/secret/x/%2E%2e/own",
        "/v1/secret/x/..%2fown",
        "/v1/secret%2fown",
        "/v1/secret%2Fown",
        "/v1/secret%5cown",
        "/v1/secret/own%00",
        "/v1/secret/own%0a",
        "/v1/secret/%252e%252e/own",
        "/v1/secret;x/own",
        "/v1/secret/own;x=1",
        "/v1/secret/own%3b",
        "/v1/secret/own%20",
        "/v1/secret/%EF%BC%8E%EF%BC%8E/own",
        "/v1/secret/%E2%80%AEown",
        "/v1/secret/%c0%ae%c0%ae/own",
        "/v1/secret/%ff",
        "/v1/secret/%zz",
        "/v1/secret/" + "a" * 3000,
        "/v1/SECRET/own",
        "/v2/secret/own",
        "/secret/own",
        "/",
        "http://elsewhere/v1/secret/own#x",
    ],
)
def test_a_path_in_another_form_leads_nowhere(front: Shared, path: str) -> None:
    """Sent as it stands, since clients would mend it; the caller may read ``secret/own``, and nothing else."""

    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        status, headers, body = await _raw(room, f"GET {path} HTTP/1.1")
        assert status in (400, 403, 404), body
        assert b"swordfish" not in body
        assert headers.get("content-type") == "application/json"
        assert json.loads(body)["errors"]

    front.run(story)


@pytest.mark.parametrize("path", ["secret/own-not", "secret/ownEVIL", "secret/own/below", "secret"])
def test_a_beginning_of_a_path_is_not_the_path(front: Shared, path: str) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        answer = await room.client(room.svid("payments")).get(f"/v1/{path}")
        assert answer.status_code == 403

    front.run(story)


def test_a_body_that_is_too_long_is_refused_whether_or_not_it_says_so(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.WRITE, "secret/large")
        client = room.client(room.svid("payments"))
        large = json.dumps({"x": "a" * MAX_REQUEST_BYTES}).encode()
        said = await client.post("/v1/secret/large", content=large)

        async def unsaid() -> AsyncIterator[bytes]:
            yield large[:1000]
            yield large[1000:]

        streamed = await client.post("/v1/secret/large", content=unsaid())
        for answer in (said, streamed):
            assert (answer.status_code, answer.headers["content-type"]) == (413, "application/json")
            assert answer.json()["errors"]
        assert "secret/large" not in room.shelf.kept
        fits = json.dumps({"x": "a" * (1 << 20)}).encode()
        assert (await client.post("/v1/secret/large", content=fits)).status_code == 204

    front.run(story)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff\xfe", b"[" * 100_000]
)
def test_a_body_that_is_no_json_object_is_refused_and_not_repeated(front: Shared, body: bytes) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.WRITE, "secret/odd")
        answer = await room.client(room.svid("payments")).post("/v1/secret/odd", content=body)
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
        assert "secret/odd" not in room.shelf.kept

    front.run(story)


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PURGE", "list", "CONNECT"])
def test_methods_that_nobody_needs_are_refused(front: Shared, method: str) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        status, _, body = await _raw(room, f"{method} {OWN} HTTP/1.1")
        assert status in (400, 404, 405)
        assert b"swordfish" not in body

    front.run(story)


def test_what_cannot_be_put_on_record_is_not_answered(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        room.allow("payments", Verb.WRITE, "secret/new")
        client = room.client(room.svid("payments"))
        room.notes.failure = AUDIT_UNAVAILABLE.error("the disk is full")
        try:
            read, write = await client.get(OWN), await client.post("/v1/secret/new", json={"x": 1})
        finally:
            room.notes.failure = None
        assert (read.status_code, write.status_code) == (503, 503)
        assert "swordfish" not in read.text
        assert "secret/new" not in room.shelf.kept

    front.run(story)


def test_who_is_revoked_is_refused_at_once_on_an_open_connection(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("leaver", Verb.READ, "secret/own")
        client = room.client(room.svid("leaver"))
        assert (await client.get(OWN)).status_code == 200
        target = RevokedIdentity(spiffe_id=spiffe_id("leaver"))
        room.revocations[0] = Revocations(
            version=1, entries=(Revocation(target=target, version=1, at=datetime.now(UTC)),)
        )
        try:
            answer = await client.get(OWN)
        finally:
            room.revocations[0] = Revocations()
        assert (answer.status_code, "VST5201" in answer.text) == (403, True)
        assert "swordfish" not in answer.text

    front.run(story)


def test_a_new_certificate_and_another_bundle_hold_for_new_connections(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        before = room.current
        fresh = room.authority.svid(SECRETS)
        await room.rotate(replace(before, svids={"secrets": fresh}))
        await _until_shown(room, fresh.chain[0])
        assert (await room.client(room.svid("payments")).get(OWN)).status_code == 200

    front.run(story)


def test_an_envoy_that_died_is_started_again_and_believed(front: Shared) -> None:
    async def story(room: Room) -> None:
        room.allow("payments", Verb.READ, "secret/own")
        child = room.front.envoy._child
        assert child is not None
        child.signal(9)
        await until(lambda: room.front.envoy.restarts and room.front.envoy.is_ready, "again")
        assert (await room.client(room.svid("payments")).get(OWN)).status_code == 200

    front.run(story)


async def _raw(room: Room, first_line: str) -> tuple[int, dict[str, str], bytes]:
    host, _, port = room.address.rpartition(":")
    tls = tls_of(room.svid("payments"), room.authority)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        writer.write(f"{first_line}\r\nhost: secrets\r\nconnection: close\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (each.partition(": ") for each in head[1:] if each)
        }
        body = await reader.read()
        writer.close()
    return int(head[0].split()[1]), headers, body


async def _until_shown(room: Room, leaf: bytes) -> None:
    host, _, port = room.address.rpartition(":")
    async with asyncio.timeout(PATIENCE):
        while True:
            tls = tls_of(room.svid("payments"), room.authority)
            _, writer = await asyncio.open_connection(host, int(port), ssl=tls)
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            if shown == leaf:
                return
            await asyncio.sleep(0.02)
