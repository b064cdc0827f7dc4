"""The same program of the SDK, against our agent and against a Workload API that has nothing of ours."""

from __future__ import annotations

import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.interop.mesh import Mesh, eventually, mesh, shared

from vestibule.errors import VestibuleError
from vestibule.sdk import (
    JwtSource,
    SpiffeId,
    X509Source,
    authorize_ids,
    authorize_paths,
    client_context,
    peer_id,
    server_context,
)
from vestibule.sdk.codes import NO_SVID

__all__ = ["mesh", "shared"]

SCRIPT = Path(__file__).with_name("foreign_workload_api.py")
PATIENCE = 120.0


def program(address: str) -> tuple[SpiffeId, SpiffeId]:
    """Who this process is by mutual TLS with itself, and by a token of its own."""
    with X509Source(address, patience=PATIENCE) as source, JwtSource(address, patience=PATIENCE) as tokens:
        source.context.verify(datetime.now(UTC))
        token = tokens.fetch_blocking("payments")
        return seen_by_itself(source), tokens.validate(token.token, "payments").spiffe_id


def seen_by_itself(source: X509Source) -> SpiffeId:
    """Who a server sees that uses the same source."""
    client_in, client_out, server_in, server_out = (ssl.MemoryBIO() for _ in range(4))
    wanted = source.svid.spiffe_id
    client = client_context(source, authorize_ids(wanted)).wrap_bio(client_in, client_out)
    pattern = f"{wanted.trust_domain.id}/**"
    server = server_context(source, authorize_paths(pattern)).wrap_bio(
        server_in, server_out, server_side=True
    )
    for _ in range(4):
        for end in (client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
        server_in.write(client_out.read())
        client_in.write(server_out.read())
    return peer_id(server)


class Foreign:
    """The process, and what it is told."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process = process
        self.address = address

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def started() -> Iterator[Foreign]:
    with tempfile.TemporaryDirectory(prefix="v", dir="/tmp") as directory:
        path = Path(directory) / "a.sock"
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Foreign(process, f"unix://{path}")
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    with started() as process:
        yield process


def test_the_program_runs_beside_our_agent(mesh: Mesh) -> None:
    mesh.entry("spiffe://example.org/ns/shop/sa/orders")
    orders = SpiffeId.parse("spiffe://example.org/ns/shop/sa/orders")
    assert program(f"unix://{mesh.socket}") == (orders, orders)


def test_the_program_runs_beside_anybody_elses(foreign: Foreign) -> None:
    orders = SpiffeId.parse("spiffe://elsewhere.example/ns/shop/sa/orders")
    assert program(foreign.address) == (orders, orders)


@pytest.mark.parametrize(
    "ending", ["ok", "CANCELLED", "UNAVAILABLE", "INVALID_ARGUMENT", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"]
)
def test_however_a_stream_ends_the_next_rotation_arrives(foreign: Foreign, ending: str) -> None:
    """Some of these end the watch of other libraries for good."""
    with (
        X509Source(foreign.address, patience=PATIENCE) as source,
        JwtSource(foreign.address, patience=PATIENCE) as tokens,
    ):
        serial = source.svid.serial
        foreign.tell(f"end {ending}")
        assert source.svid.serial == serial, "what is held stays good"
        foreign.tell("rotate")
        eventually(lambda: source.svid.serial != serial)
        eventually(lambda: source.problem is None and tokens.problem is None)
        seen_by_itself(source)


def test_an_answer_that_breaks_the_standard_takes_nothing_away(foreign: Foreign) -> None:
    with X509Source(foreign.address, patience=PATIENCE) as source:
        serial = source.svid.serial
        foreign.tell("garbage")
        eventually(lambda: source.problem is not None)
        assert source.svid.serial == serial
        foreign.tell("rotate")
        eventually(lambda: source.svid.serial != serial)


def test_an_identity_that_is_withdrawn_is_not_shown_until_it_is_given_again(foreign: Foreign) -> None:
    with X509Source(foreign.address, patience=PATIENCE) as source:
        foreign.tell("withdraw")
        eventually(lambda: not shows(source))
        foreign.tell("rotate")
        eventually(lambda: shows(source))


def shows(source: X509Source) -> bool:
    try:
        return bool(source.svid)
    except VestibuleError as error:
        if error.code is not NO_SVID:
            raise
        return False
