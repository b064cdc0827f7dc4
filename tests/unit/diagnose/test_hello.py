"""First messages of TLS, made by hand, and their answers."""

from __future__ import annotations

import ssl
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.diagnose.scan.hello import Refused, ServerHello, client_hello, read_answer
from vestibule.net.tls import load_svid
from vestibule.posture.ciphers import BROKEN, SUITES, named
from vestibule.testing.authority import TestAuthority

HELLO = ServerHello("TLSv1.2", 0xC02B)


def server(*, lowest: ssl.TLSVersion, ciphers: str = "ALL:@SECLEVEL=0") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_svid(context, TestAuthority().svid("/web"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what is tested
        context.minimum_version = lowest
    context.set_ciphers(ciphers)
    return context


def answer_of(context: ssl.SSLContext, hello: bytes) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello)
    with pytest.raises(ssl.SSLError):
        connection.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.1", "TLSv1"])
def test_a_server_agrees_to_the_version_that_is_offered(version: str) -> None:
    data = answer_of(server(lowest=ssl.TLSVersion.TLSv1), client_hello(version, tuple(SUITES), "web.example"))
    answer = read_answer(data)
    assert isinstance(answer, ServerHello)
    assert answer.version == version
    assert named([answer.suite])[0].startswith("TLS_ECDHE_ECDSA_")


def test_a_server_refuses_versions_below_its_own() -> None:
    data = answer_of(server(lowest=ssl.TLSVersion.TLSv1_3), client_hello("TLSv1.2", tuple(SUITES), None))
    assert read_answer(data) == Refused(70)


def test_a_server_refuses_broken_ciphers_that_it_does_not_know() -> None:
    good = server(lowest=ssl.TLSVersion.TLSv1_2, ciphers="ECDHE+AESGCM")
    assert read_answer(answer_of(good, client_hello("TLSv1.2", BROKEN, None))) == Refused(40)


def test_an_answer_is_known_once_enough_of_it_is_there() -> None:
    data = answer_of(server(lowest=ssl.TLSVersion.TLSv1_2), client_hello("TLSv1.2", (0xC02B,), None))
    known = [read_answer(data[:length]) for length in range(len(data) + 1)]
    first = known.index(HELLO)
    assert set(known[:first]) == {None}
    assert set(known[first:]) == {HELLO}


def test_an_answer_may_come_in_many_records_and_after_a_warning() -> None:
    data = answer_of(server(lowest=ssl.TLSVersion.TLSv1_2), client_hello("TLSv1.2", (0xC02B,), None))
    message = data[5 : 5 + int.from_bytes(data[3:5], "big")]
    pieces = b"".join(b"\x16\x03\x03\x00\x01" + bytes([each]) for each in message)
    warning = b"\x15\x03\x03\x00\x02\x01\x70"
    assert read_answer(warning + pieces) == HELLO


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x16\x02\x03\x00\x01\x02",
        b"\x16\x03\x03\x00\x00",
        b"\x16\x03\x03\xff\xff" + b"\x02" * 10,
        b"\x15\x03\x03\x00\x01\x02",
        b"\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00",
        b"\x16\x03\x03\x00\x01\x0b",
    ],
)
def test_what_is_no_answer_is_a_refusal(data: bytes) -> None:
    assert read_answer(data) == Refused()


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_a_refusal_or_too_few(data: bytes) -> None:
    assert isinstance(read_answer(data), ServerHello | Refused | None)


@given(st.binary(max_size=60))
def test_any_message_in_a_record_is_read(data: bytes) -> None:
    record = b"\x16\x03\x03" + len(data).to_bytes(2, "big") + data
    assert isinstance(read_answer(record), ServerHello | Refused | None)
