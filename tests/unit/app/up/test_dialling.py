"""Clients of proofs report what happened on one connection, and nothing nicer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from vestibule.app.up import dialling
from vestibule.app.up.dialling import Connection, NoAnswer, ask, dial, dial_tls, server_context
from vestibule.app.up.edges import Request
from vestibule.errors import VestibuleError
from vestibule.records import Address
from vestibule.testing import TestAuthority

GET = Request("GET", "/a")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-Seen: yes\r\n\r\nok"
Serve = Callable[[socket.socket], None]


@contextmanager
def peer(serve: Serve) -> Iterator[Address]:
    """A server whose connections are each handled by ``serve``, on a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield Address(host="127.0.0.1", port=listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)


def answers(*replies: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        for reply in replies:
            if not connection.recv(65536):
                return
            connection.sendall(reply)

    return serve


def test_an_answer_has_status_headers_and_body() -> None:
    with peer(answers(OK)) as address:
        answer = ask(address, "host", GET)
    assert answer.ok
    assert (answer.status, answer.headers["x-seen"], answer.body) == (200, "yes", b"ok")


def test_several_requests_use_one_connection() -> None:
    with peer(answers(OK, OK)) as address, Connection(dial(address)) as connection:
        port = connection.sock.getsockname()[1]
        assert connection.ask("host", GET).ok
        assert connection.ask("host", GET).ok
        assert connection.sock.getsockname()[1] == port


def test_a_closed_connection_is_not_opened_anew() -> None:
    closing = OK.replace(b"X-Seen: yes", b"Connection: close")
    with peer(answers(closing)) as address, Connection(dial(address)) as connection:
        assert connection.ask("host", GET).ok
        with pytest.raises(NoAnswer, match="closed the connection after its last answer"):
            connection.ask("host", GET)


def test_hanging_up_is_no_answer_and_no_silence() -> None:
    with peer(lambda connection: None) as address, pytest.raises(NoAnswer) as caught:
        ask(address, "host", GET)
    assert not caught.value.silence


def test_silence_is_told_apart_from_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "TIMEOUT", 0.05)
    over = threading.Event()

    def serve(_: socket.socket) -> None:
        over.wait(60)

    with peer(serve) as address:
        with pytest.raises(NoAnswer) as caught:
            ask(address, "host", GET)
        over.set()
    assert caught.value.silence


def test_what_is_not_http_is_no_answer() -> None:
    with peer(answers(b"\x15\x03\x01\x00\x02\x02\x28")) as address, pytest.raises(NoAnswer, match="not HTTP"):
        ask(address, "host", GET)


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="cannot connect"):
        ask(Address(path="/nonexistent/x.sock"), "host", GET)


def test_requests_that_change_something_carry_an_empty_object() -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        data = b""
        while not data.endswith(b"{}"):
            data += connection.recv(65536)
        seen.append(data)
        connection.sendall(OK)

    with peer(serve) as address:
        ask(address, "orders", Request("POST", "/v1/charges"), {"x-request-id": "7"})
    assert seen[0].startswith(b"POST /v1/charges HTTP/1.1\r\n")
    assert b"Host: orders\r\n" in seen[0]
    assert b"x-request-id: 7\r\n" in seen[0]


def test_a_handshake_gives_the_chain_for_judging() -> None:
    authority, foreign = TestAuthority("example.org"), TestAuthority("example.org")
    svid = authority.svid("/web")

    def serve(connection: socket.socket) -> None:
        with server_context(svid).wrap_socket(connection, server_side=True) as tls:
            tls.recv(1)

    with peer(serve) as address:
        handshake = dial_tls(address, None)
        handshake.connection.close()
    assert handshake.verified(authority.bundle, datetime.now(UTC)).spiffe_id == svid.spiffe_id
    with pytest.raises(VestibuleError):
        handshake.verified(foreign.bundle, datetime.now(UTC))


def test_a_server_that_speaks_no_tls_gives_no_handshake() -> None:
    with peer(answers(OK)) as address, pytest.raises(NoAnswer, match="no TLS handshake"):
        dial_tls(address, None)


def test_a_document_is_an_object_or_nothing() -> None:
    def body(content: bytes) -> dialling.Answer:
        return dialling.Answer(status=403, headers={}, body=content)

    assert body(b'{"error": "VST4001"}').document == {"error": "VST4001"}
    assert body(b"[1]").document == {}
    assert body(b"no json").document == {}
