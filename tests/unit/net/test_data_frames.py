"""Plain data frames are treated as h2 would treat them, whatever they arrive with and however they are cut."""

from __future__ import annotations

import random
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived
from h2.exceptions import ProtocolError

from vestibule.net.data_frames import PlainFrames, put

HEADERS = [(":method", "POST"), (":path", "/"), (":scheme", "https"), (":authority", "x")]


def connected(*receivers: H2Connection) -> H2Connection:
    """A client with two open streams, of which every one of the receivers heard the same."""
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    for stream in (1, 3):
        client.send_headers(stream, HEADERS)
    said = client.data_to_send()
    for each in receivers:
        each.initiate_connection()
        each.receive_data(said)
    client.receive_data(receivers[0].data_to_send())
    said = client.data_to_send()
    for each in receivers:
        each.receive_data(said)
        each.data_to_send()
    return client


def server() -> H2Connection:
    return H2Connection(H2Configuration(client_side=False))


def windows(h2: Any) -> list[int]:
    streams = [h2.streams[each]._inbound_window_manager.current_window_size for each in sorted(h2.streams)]
    return [h2._inbound_flow_control_window_manager.current_window_size, *streams]


def test_the_same_as_by_h2() -> None:
    assert sum(as_by_h2(random.Random(seed)) for seed in range(40)) > 40


def as_by_h2(drawn: random.Random) -> int:
    """How many frames were not left to h2."""
    plain, usual = server(), server()
    client = connected(plain, usual)
    for number in range(60):
        what = drawn.random()
        if what < 0.8:
            put(client, drawn.choice((1, 3)), bytes([number]) * drawn.randint(1, 400))
        elif what < 0.9:
            client.ping(b"12345678")
        else:
            client.send_data(drawn.choice((1, 3)), b"padded", pad_length=drawn.randint(0, 9))
    client.end_stream(3)
    said = client.data_to_send()

    expected = [
        (e.stream_id, e.data) for e in usual.receive_data(said) if isinstance(e, DataReceived) and e.data
    ]
    found: list[tuple[int, bytes]] = []
    by_hand = 0

    def take(event: Any) -> None:
        nonlocal by_hand
        by_hand += 1
        found.append((event.stream_id, bytes(event.data)))

    frames = PlainFrames(plain, take)
    while said:
        size = drawn.randint(1, 700)
        left, said = frames.receive(said[:size]), said[size:]
        if left:
            events = plain.receive_data(left)
            found += [(e.stream_id, bytes(e.data)) for e in events if isinstance(e, DataReceived) and e.data]
    assert found == expected
    assert windows(plain) == windows(usual)
    return by_hand


def test_what_is_sent_counts_as_sent() -> None:
    by_hand, by_h2 = connected(server()), connected(server())
    put(by_hand, 1, b"x" * 100)
    by_h2.send_data(1, b"x" * 100)
    assert by_hand.data_to_send() == by_h2.data_to_send()
    assert by_hand.local_flow_control_window(1) == by_h2.local_flow_control_window(1)


def test_a_stream_that_has_ended_sends_nothing_more() -> None:
    client = connected(server())
    client.end_stream(1)
    with pytest.raises(ProtocolError):
        put(client, 1, b"late")
    client.reset_stream(3)
    with pytest.raises(ProtocolError):
        put(client, 3, b"late")


def test_more_than_the_window_is_left_to_h2() -> None:
    receiver = server()
    connected(receiver)
    receiver.streams[1]._inbound_window_manager.current_window_size = 3
    frames = PlainFrames(receiver, lambda _: pytest.fail("taken"))
    frame = (4).to_bytes(3) + b"\0\0" + (1).to_bytes(4) + b"four"
    assert frames.receive(frame) == frame
