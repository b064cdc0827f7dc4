"""What an answer without TLS means."""

from __future__ import annotations

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given
from hypothesis import strategies as st

from vestibule.diagnose.scan.asking import judged, judged_postgres
from vestibule.diagnose.scan.plaintext import plaintext
from vestibule.posture import Outcome, Plain, Plaintext


def settings() -> bytes:
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    return connection.data_to_send()


@pytest.mark.parametrize(
    ("data", "alone", "beside"),
    [
        (None, Plain.SILENT, Plain.SILENT),
        (b"", Plain.REFUSED, Plain.REFUSED),
        (b"\x15\x03\x01\x00\x02\x02\x46", Plain.REFUSED, Plain.REFUSED),
        (b"HTTP/1.1 200 OK\r\n\r\n", Plain.HTTP, Plain.HTTP),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", Plain.HTTP, Plain.HTTP),
        (
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.",
            Plain.HTTP,
            Plain.REFUSED,
        ),
        (b"HTTP/1.1 308 Moved\r\nLocation: https://a/\r\n\r\n", Plain.REDIRECT, Plain.REDIRECT),
        (b"HTTP/1.1 302 Found\r\nLocation: http://a/\r\n\r\n", Plain.HTTP, Plain.HTTP),
        (b"HTTP/1.1 x\r\n", Plain.HTTP, Plain.HTTP),
        (b"-ERR unknown command\r\n", Plain.OTHER, Plain.OTHER),
        (b"\x8f\x00\xff\xfe\x01\x02", Plain.GARBAGE, Plain.GARBAGE),
        (settings(), Plain.HTTP2, Plain.HTTP2),
    ],
)
def test_answers_without_tls(data: bytes | None, alone: Plain, beside: Plain) -> None:
    assert plaintext(data, beside_tls=False).kind is alone
    assert plaintext(data, beside_tls=True).kind is beside


@given(st.binary(max_size=300))
def test_any_answer_means_something_that_can_be_shown(data: bytes) -> None:
    found = plaintext(data, beside_tls=False)
    assert isinstance(found, Plaintext)
    assert found.detail.isprintable()


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\n", Outcome.SERVED),
        (b"HTTP/1.1 401 Unauthorized\r\n", Outcome.SERVED),
        (b"HTTP/1.1 403 Forbidden\r\n", Outcome.REFUSED_ABOVE),
        (b"HTTP/2 403 ", Outcome.REFUSED_ABOVE),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Outcome.SERVED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n400 No required SSL certificate was sent", Outcome.REFUSED_ABOVE),
        (b"220 mail.example ESMTP\r\n", Outcome.SERVED),
        (b"HTTP/1.1 4\xb2\xb3 x", Outcome.SERVED),
    ],
)
def test_answers_after_a_handshake(text: bytes, outcome: Outcome) -> None:
    assert judged(text).outcome is outcome


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0", Outcome.SERVED),
        (b"E\0\0\0\x40SFATAL\0Mconnection requires a valid client certificate\0\0", Outcome.REFUSED_ABOVE),
        (b"E\0\0\0\x40SFATAL\0Mno pg_hba.conf entry for host\0\0", Outcome.UNKNOWN),
        (b"E", Outcome.UNKNOWN),
        (b"", Outcome.SERVED),
    ],
)
def test_what_a_database_answers(message: bytes, outcome: Outcome) -> None:
    assert judged_postgres(message).outcome is outcome
