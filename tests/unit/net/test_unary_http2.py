"""A connection on which one method is called, against h2 as the client, and against bytes that are none."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings
from hypothesis import strategies as st

from vestibule.net.unary_http2 import MAX_UNFINISHED, PREFACE, UnaryConnection, calls

PATH = "/p.S/M"
WINDOW = 4 * 2**20
MAX_MESSAGE = 64 * 1024


def echo(data: bytes) -> bytes:
    return b"<" + data + b">"


def message(data: bytes, compressed: int = 0) -> bytes:
    return struct.pack(">BI", compressed, len(data)) + data


@dataclass
class Seen:
    """What came back for one call."""

    headers: dict[str, str] = field(default_factory=dict)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str:
        return self.headers["grpc-status"]


class Client:
    """A whole implementation of HTTP/2 in front of the connection, whose own half speaks first."""

    def __init__(self, answer: Callable[[bytes], bytes] = echo, **settings_: int) -> None:
        self.server = UnaryConnection(PATH, answer, max_message=MAX_MESSAGE, window=WINDOW)
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.seen: dict[int, Seen] = {}
        self.terminated: int | None = None
        if settings_:
            given = {getattr(SettingCodes, name): value for name, value in settings_.items()}
            self.h2.local_settings = Settings(client=True, initial_values=given)
        self.h2.initiate_connection()
        # As grpclib has announced it by then.
        frames = frame(4, 0, 0, struct.pack(">HI", 4, WINDOW)) + frame(
            8, 0, 0, struct.pack(">I", WINDOW - 65535)
        )
        self._take(frames)
        self.flush()

    def flush(self) -> None:
        self._take(self.server.receive(self.h2.data_to_send()))

    def call(self, data: bytes, path: str = PATH, more: tuple[tuple[str, str], ...] = ()) -> int:
        stream = self.h2.get_next_available_stream_id()
        headers = (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "a"),
            ("content-type", "application/grpc"),
        )
        self.h2.send_headers(stream, (*headers, *more), end_stream=not data)
        for start in range(0, len(data), 16_384):
            self.h2.send_data(stream, data[start : start + 16_384], end_stream=start + 16_384 >= len(data))
        self.seen[stream] = Seen()
        return stream

    def ask(self, data: bytes, path: str = PATH, more: tuple[tuple[str, str], ...] = ()) -> Seen:
        stream = self.call(data, path, more)
        self.flush()
        return self.seen[stream]

    def _take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case ResponseReceived() | TrailersReceived():
                    self.seen[event.stream_id].headers.update({str(k): str(v) for k, v in event.headers})
                case DataReceived():
                    self.seen[event.stream_id].data += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.seen[event.stream_id].ended = True
                case StreamReset():
                    self.seen[event.stream_id].reset = event.error_code
                case ConnectionTerminated():
                    self.terminated = event.error_code


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def test_a_call_is_answered() -> None:
    seen = Client().ask(message(b"hello"))
    assert seen.data == message(b"<hello>")
    assert seen.headers == {":status": "200", "content-type": "application/grpc", "grpc-status": "0"}
    assert seen.ended


def test_thousands_of_calls_over_one_connection() -> None:
    client = Client()
    for number in range(3000):
        text = b"%d" % number * 500
        assert client.ask(message(text)).data == message(b"<" + text + b">")


def test_calls_at_once_are_all_answered() -> None:
    client = Client()
    streams = [client.call(message(b"%d" % number)) for number in range(100)]
    client.flush()
    assert [client.seen[each].data for each in streams] == [
        message(b"<%d>" % number) for number in range(100)
    ]


def test_headers_may_change_from_call_to_call() -> None:
    client = Client()
    for number in range(200):
        more = (("x-number", str(number)), ("x-long", "y" * (number * 7 % 300)))
        assert client.ask(message(b"a"), more=more).status == "0"
        assert client.ask(message(b"a")).status == "0"
        assert client.ask(message(b"a"), path="/p.S/Other", more=more).status == "12"


def test_the_same_bytes_mean_another_path_once_the_table_has_changed() -> None:
    client = Client()
    for _ in range(3):
        assert client.ask(message(b"a")).status == "0"
    # Enough to push everything out of the table, so that the indexes mean other headers.
    for number in range(100):
        client.ask(message(b"a"), path=f"/p.S/{number}" + "z" * 100)
    assert client.ask(message(b"a")).status == "0"
    assert client.ask(message(b"a"), path="/p.S/Other").status == "12"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "3"),
        (b"\0\0", "3"),
        (message(b"abc")[:-1], "3"),
        (message(b"abc") + b"d", "3"),
        (message(b"abc", compressed=1), "12"),
    ],
)
def test_what_is_no_message_is_refused_and_the_connection_goes_on(data: bytes, status: str) -> None:
    client = Client()
    assert client.ask(data).status == status
    assert client.ask(message(b"a")).status == "0"


def test_a_message_that_is_too_long_is_refused_before_it_is_there() -> None:
    client = Client(lambda _: b"")
    stream = client.call(message(b"x" * (MAX_MESSAGE + 1)))
    client.flush()
    assert client.seen[stream].status == "8"
    assert client.ask(message(b"x" * MAX_MESSAGE)).status == "0"


def test_a_bug_in_an_answer_ends_that_call_alone() -> None:
    def answer(data: bytes) -> bytes:
        if data == b"bad":
            raise ZeroDivisionError
        return data

    client = Client(answer)
    assert client.ask(message(b"bad")).status == "13"
    assert client.ask(message(b"good")).status == "0"


def test_a_call_that_was_taken_back_in_the_same_breath_is_not_decided() -> None:
    asked: list[bytes] = []

    def answer(data: bytes) -> bytes:
        asked.append(data)
        return data

    client = Client(answer)
    client.call(message(b"first"))
    stream = client.call(message(b"second"))
    client.h2.reset_stream(stream)
    client.flush()
    assert asked == [b"first"]


def test_answers_wait_for_the_clients_windows() -> None:
    client = Client(lambda _: b"y" * 40_000, INITIAL_WINDOW_SIZE=30_000)
    stream = client.call(message(b"a"))
    client._take(client.server.receive(client.h2.data_to_send()))
    assert client.seen[stream].data == b""
    client.h2.increment_flow_control_window(20_000, stream)
    client.flush()
    assert len(client.seen[stream].data) == 40_005
    assert client.seen[stream].ended


def test_a_ping_is_answered() -> None:
    client = Client()
    client.h2.ping(b"12345678")
    assert frame(6, 1, 0, b"12345678") in client.server.receive(client.h2.data_to_send())


def test_more_unfinished_calls_than_are_kept_are_refused() -> None:
    server = Client().server
    block = bytes([0x83, 0x86])
    out = b"".join(server.receive(frame(1, 4, 2 * number + 1, block)) for number in range(MAX_UNFINISHED + 1))
    assert out == frame(3, 0, 2 * MAX_UNFINISHED + 1, struct.pack(">I", 7))


def hostile() -> Iterator[tuple[str, bytes]]:
    block = bytes([0x83, 0x86])
    yield "no HTTP/2", b"GET / HTTP/1.1\r\n\r\n"
    yield "a frame longer than announced", PREFACE + struct.pack(">I", 16_385)[1:] + bytes(6)
    yield "an even stream", PREFACE + frame(1, 4, 2, block)
    yield "stream 0", PREFACE + frame(1, 4, 0, block)
    yield "a stream twice", PREFACE + frame(1, 5, 1, block) + frame(1, 5, 1, block)
    yield "trailers", PREFACE + frame(1, 4, 1, block) + frame(1, 5, 1, block)
    yield "data of nobody", PREFACE + frame(0, 0, 7, b"a")
    yield "data of the connection", PREFACE + frame(0, 0, 0, b"a")
    yield "interrupted headers", PREFACE + frame(1, 0, 1, block) + frame(6, 0, 0, bytes(8))
    yield "a continuation of nothing", PREFACE + frame(9, 4, 1, block)
    yield "empty continuations", PREFACE + frame(1, 0, 1, block) + frame(9, 0, 1, b"")
    yield "endless continuations", PREFACE + frame(1, 0, 1, block) + frame(9, 0, 1, bytes(10_000)) * 2
    yield "padding only", PREFACE + frame(1, 4, 1, block) + frame(0, 8, 1, b"\x05abc")
    yield "an index that is not there", PREFACE + frame(1, 4, 1, b"\xfe")
    yield "a header bomb", PREFACE + frame(1, 4, 1, b"\x40\x01a\x7f\xe0\x1e" + b"b" * 4000 + b"\xbe" * 6000)
    yield "a pushed promise", PREFACE + frame(5, 4, 1, bytes(4))
    yield "a window update of nothing", PREFACE + frame(8, 0, 0, bytes(4))
    yield "a window beyond all bounds", PREFACE + frame(8, 0, 0, b"\x7f\xff\xff\xff")
    yield "a reset of nobody", PREFACE + frame(3, 0, 9, bytes(4))
    yield "half a setting", PREFACE + frame(4, 0, 0, bytes(5))
    yield "a window setting beyond all bounds", PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 2**31))
    yield "half a ping", PREFACE + frame(6, 0, 0, bytes(7))
    crumbs = b"".join(frame(0, 0, 1, b"") for _ in range(1001))
    yield "crumbs", PREFACE + frame(1, 4, 1, block) + crumbs


@pytest.mark.parametrize(("what", "data"), list(hostile()), ids=[what for what, _ in hostile()])
def test_what_is_not_understood_ends_the_connection(what: str, data: bytes) -> None:
    server = UnaryConnection(PATH, echo, max_message=MAX_MESSAGE, window=WINDOW)
    out = server.receive(data)
    assert server.closed, what
    assert out[-17:-8] == frame(7, 0, 0, bytes(8))[:9]
    assert server.receive(data) == b""


@settings(max_examples=300)
@given(st.binary(max_size=2000), st.integers(1, 64))
def test_no_bytes_break_it(data: bytes, size: int) -> None:
    server = UnaryConnection(PATH, echo, max_message=MAX_MESSAGE, window=WINDOW)
    server.receive(PREFACE)
    for start in range(0, len(data), size):
        server.receive(data[start : start + size])


_FRAMES = st.tuples(st.integers(0, 10), st.integers(0, 63), st.integers(0, 9), st.binary(max_size=60))


@settings(max_examples=300)
@given(st.lists(_FRAMES, max_size=20))
def test_no_frames_break_it(frames: list[tuple[int, int, int, bytes]]) -> None:
    server = UnaryConnection(PATH, echo, max_message=MAX_MESSAGE, window=WINDOW)
    server.receive(PREFACE + b"".join(frame(*each) for each in frames))


def test_how_the_bytes_come_does_not_matter() -> None:
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    headers = ((":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "a"))
    client.send_headers(1, [*headers, ("content-type", "application/grpc")])
    client.send_data(1, message(b"hello"), end_stream=True)
    data = client.data_to_send()
    whole = UnaryConnection(PATH, echo, max_message=MAX_MESSAGE, window=WINDOW).receive(data)
    server = UnaryConnection(PATH, echo, max_message=MAX_MESSAGE, window=WINDOW)
    assert b"".join(server.receive(data[n : n + 1]) for n in range(len(data))) == whole


def test_a_connection_is_known_by_its_first_call() -> None:
    def first(path: str) -> bytes:
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        client.send_headers(
            1, [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        )
        return bytes(client.data_to_send())

    assert calls(PATH, first(PATH))
    assert not calls(PATH, first("/p.S/Other"))
    assert not calls(PATH, PREFACE)
    assert not calls(PATH, b"")
    assert not calls(PATH, PREFACE + frame(1, 4, 1, b"\xfe"))
