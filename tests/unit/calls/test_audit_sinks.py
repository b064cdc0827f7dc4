"""Places for audit records: what is sent is what their protocols say."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest

from vestibule.audit import AuditEvent, Link
from vestibule.audit.chain import encode
from vestibule.calls.audit_sinks import sink_at
from vestibule.calls.audit_sinks.codes import SINK_REFUSED, SINK_UNKNOWN
from vestibule.calls.audit_sinks.http import HttpSink
from vestibule.calls.audit_sinks.otlp import OtlpSink, request
from vestibule.calls.audit_sinks.syslog import SyslogSink, message
from vestibule.errors import VestibuleError

TIME = datetime.fromisoformat("2026-05-01T12:00:00.000001+00:00")
EVENTS = [
    AuditEvent(actor="web", action="secret.read", subject="secret/ä"),
    AuditEvent(actor="web", action="secret.read", subject="secret/b", outcome="VST5300"),
]
LINES = encode(EVENTS, Link(), TIME)[0].splitlines()


def no_context() -> ssl.SSLContext:
    raise AssertionError("nothing here is https")


def sink(place: str, token: str = "") -> HttpSink | OtlpSink | SyslogSink:
    return sink_at(place, no_context, lambda: token)


class Web:
    """A server that remembers what was posted."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.asked: list[tuple[str, bytes]] = []
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        assert length is not None
        self.asked.append((head, await reader.readexactly(int(length[1]))))
        writer.write(f"HTTP/1.1 {self.status} OK\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def web(status: int = 200) -> AsyncIterator[Web]:
    there = Web(status)
    server = await asyncio.start_server(there.answer, "127.0.0.1", 0)
    there.port = server.sockets[0].getsockname()[1]
    async with server:
        yield there


async def test_an_http_server_gets_lines_of_json_and_the_token() -> None:
    async with web() as there:
        await sink(f"http://127.0.0.1:{there.port}/audit?x=1", "a-token").send(LINES)
    ((head, body),) = there.asked
    assert head.startswith("POST /audit?x=1 HTTP/1.1\r\n")
    assert "authorization: bearer a-token" in head.lower()
    assert body.splitlines() == LINES


async def test_a_collector_gets_a_request_of_otlp() -> None:
    async with web() as there:
        await sink(f"otlp+http://127.0.0.1:{there.port}").send(LINES)
    ((head, body),) = there.asked
    assert head.startswith("POST /v1/logs HTTP/1.1\r\n")
    assert "authorization" not in head.lower()
    assert json.loads(body) == request(LINES)


def test_a_record_of_otlp_has_its_time_severity_and_fields() -> None:
    (resource,) = request(LINES)["resourceLogs"]
    first, second = resource["scopeLogs"][0]["logRecords"]
    assert first["timeUnixNano"] == "1777636800000001000"
    assert (first["severityText"], second["severityText"]) == ("INFO", "WARN")
    assert first["body"] == {"stringValue": LINES[0].decode()}
    assert {"key": "audit.seq", "value": {"intValue": "1"}} in first["attributes"]
    assert {"key": "audit.subject", "value": {"stringValue": "secret/ä"}} in first["attributes"]


@pytest.mark.parametrize("status", [400, 401, 500, 302])
async def test_who_does_not_take_them_is_told_of(status: int) -> None:
    async with web(status) as there:
        with pytest.raises(VestibuleError) as refused:
            await sink(f"http://127.0.0.1:{there.port}/?secret=x").send(LINES)
    assert refused.value.code is SINK_REFUSED
    assert "secret" not in str(refused.value)


async def test_syslog_on_the_machine_gets_one_message_each(tmp_path: Path) -> None:
    place = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(place))
        server.settimeout(5)
        await sink(f"syslog:{place}").send(LINES)
        messages = [server.recv(65536) for _ in LINES]
    assert messages == [message(line) for line in LINES]


async def test_syslog_over_tcp_gets_messages_with_their_lengths() -> None:
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        await sink(f"syslog+tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}").send(LINES)
        data = await asyncio.wait_for(received, 60)
    assert data == b"".join(b"%d %b" % (len(each), each) for each in map(message, LINES))


def test_a_message_of_syslog_has_the_form_of_rfc_5424() -> None:
    first, second = (message(line).decode() for line in LINES)
    form = r"<(\d+)>1 2026-05-01T12:00:00\.000001\+00:00 \S+ vestibule \d+ secret\.read - (\{.*\})"
    found, refused = re.fullmatch(form, first), re.fullmatch(form, second)
    assert found is not None
    assert refused is not None
    assert (found[1], refused[1]) == ("110", "108")
    assert found[2].encode() == LINES[0]


@pytest.mark.parametrize(
    "place",
    [
        "",
        "syslog:",
        "syslog:relative",
        "syslog+tcp://host",
        "ftp://host/",
        "http://collector.example.org/",
        "otlp+http://192.0.2.1:4318",
        "https://user:secret@host/",
        "https:///path",
        "http://[::1",
        "syslog+tcp://host:99999",
    ],
)
def test_a_place_of_no_known_form_is_refused_and_no_password_told(place: str) -> None:
    with pytest.raises(VestibuleError) as refused:
        sink(place)
    assert refused.value.code is SINK_UNKNOWN
    assert "secret" not in str(refused.value)


async def test_nobody_there_is_an_error_that_can_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await sink(f"syslog:{tmp_path / 'nothing'}").send(LINES)
