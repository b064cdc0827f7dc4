"""When an HTTP/2 connection is left, and by which frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated
from hyperframe.frame import GoAwayFrame

from vestibule.sdk.serving import farewell as module
from vestibule.sdk.serving.farewell import EVERY_STREAM, Leaving, announcement, farewell


class Line:
    """A connection whose calls the test begins and ends."""

    def __init__(self) -> None:
        self.running = 0
        self.pings = 0
        self.left = False
        self.leaving = Leaving(lambda: not self.running, self.ping, self.leave)

    def ping(self) -> None:
        self.pings += 1

    def leave(self) -> None:
        self.left = True

    def end(self) -> None:
        self.running -= 1
        self.leaving.ended()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_quiet_connection_is_left_when_the_ping_is_answered() -> None:
    line = Line()
    line.leaving.when_quiet()
    assert line.pings == 0
    await until(lambda: line.pings == 1)
    assert not line.left
    line.leaving.answered()
    assert line.left


async def test_one_on_which_something_runs_is_left_after_it() -> None:
    line = Line()
    line.running = 2
    line.leaving.when_idle()
    line.end()
    assert line.pings == 0
    line.end()
    assert line.pings == 1
    line.leaving.answered()
    assert line.left


async def test_what_begins_between_ping_and_answer_is_waited_for() -> None:
    line = Line()
    line.leaving.when_idle()
    assert line.pings == 1
    line.running += 1
    line.leaving.answered()
    assert not line.left
    line.end()
    assert line.pings == 2
    line.leaving.answered()
    assert line.left


async def test_a_client_that_answers_no_ping_is_left_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER", 0.02)
    line = Line()
    line.leaving.when_idle()
    await until(lambda: line.left)
    assert line.pings == 1


async def test_a_connection_that_is_gone_is_not_left() -> None:
    line = Line()
    line.leaving.when_idle()
    line.leaving.stop()
    line.leaving.answered()
    assert not line.left
    assert line.leaving._timer is None


async def test_nobody_is_left_who_is_not_to_be() -> None:
    line = Line()
    line.running = 1
    line.end()
    line.leaving.answered()
    assert (line.pings, line.left) == (0, False)


def a_pair() -> tuple[H2Connection, H2Connection]:
    client = H2Connection(H2Configuration(client_side=True))
    server = H2Connection(H2Configuration(client_side=False))
    client.initiate_connection()
    server.initiate_connection()
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    return client, server


HEADERS = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "a")]


def test_the_last_goaway_names_what_was_answered() -> None:
    client, server = a_pair()
    client.send_headers(1, HEADERS, end_stream=True)
    server.receive_data(client.data_to_send())
    (ended,) = [
        each for each in client.receive_data(farewell(server)) if isinstance(each, ConnectionTerminated)
    ]
    assert (ended.error_code, ended.last_stream_id) == (0, 1)


def test_the_announcement_names_every_stream_and_the_server_goes_on() -> None:
    client, server = a_pair()
    frame, length = GoAwayFrame.parse_frame_header(memoryview(announcement()[:9]))
    frame.parse_body(memoryview(announcement()[9 : 9 + length]))
    assert isinstance(frame, GoAwayFrame)
    assert frame.last_stream_id == EVERY_STREAM
    client.send_headers(1, HEADERS, end_stream=True)
    assert server.receive_data(client.data_to_send())


def test_where_the_other_side_has_ended_there_is_nothing_to_say() -> None:
    client, server = a_pair()
    client.close_connection()
    server.receive_data(client.data_to_send())
    assert isinstance(farewell(server), bytes)
