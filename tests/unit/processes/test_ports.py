"""Ports that are kept for somebody."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from tests.ports import free_port

from vestibule.errors import VestibuleError
from vestibule.processes import reserve, retake


def test_a_port_is_taken_again_while_connections_of_its_last_owner_linger() -> None:
    port = free_port()
    with closing(socket.create_server(("127.0.0.1", port))) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        # Who closes first is who waits.
        accepted.close()
        assert client.recv(1) == b""
        client.close()
    with pytest.raises(VestibuleError, match="VST7005"):
        reserve("127.0.0.1", port)
    retake("127.0.0.1", port).release()


def test_a_port_where_somebody_listens_or_that_somebody_keeps_is_not() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        with closing(client), pytest.raises(VestibuleError, match="VST7005"):
            retake("127.0.0.1", port)
    kept = reserve("127.0.0.1", 0)
    try:
        with pytest.raises(VestibuleError, match="VST7005"):
            retake("127.0.0.1", kept.port)
    finally:
        kept.release()
