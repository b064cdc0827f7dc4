"""The borders of HTTP/2 frames, whatever pieces they come in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vestibule.sdk.goaway import NEWEST, Frames, goaway, refusals, settings, split_late

HEADERS_PART = bytes.fromhex("000003 01 00 00000001") + b"abc"
CONTINUATION = bytes.fromhex("000002 09 04 00000001") + b"de"
DATA = bytes.fromhex("000005 00 01 00000001") + b"hello"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(each % (len(data) + 1) for each in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(borders)]


@given(st.lists(st.integers(0, 200)))
def test_everything_but_goaway_passes_whatever_the_pieces(cuts: list[int]) -> None:
    heard: list[tuple[int, int]] = []

    def instead(last_stream: int, error: int) -> bytes:
        heard.append((last_stream, error))
        return b""

    frames = Frames(instead)
    sent = settings() + HEADERS_PART + CONTINUATION + goaway(NEWEST) + DATA + goaway(7, 2, "why") + DATA
    passed = b"".join(frames.feed(each) for each in pieces(sent, cuts))
    assert passed == settings() + HEADERS_PART + CONTINUATION + DATA + DATA
    assert heard == [(NEWEST, 0), (7, 2)]
    assert frames.is_between


@given(st.lists(st.integers(0, 200)), st.integers(0, 200))
def test_a_frame_is_put_between_others_and_never_into_one_or_a_header_block(
    cuts: list[int], when: int
) -> None:
    frames = Frames(lambda last_stream, error: None)
    whole = [settings(), HEADERS_PART + CONTINUATION, DATA, DATA]
    passed, fed, inserted = b"", 0, False
    for each in pieces(b"".join(whole), cuts):
        if fed >= when and not inserted:
            passed, inserted = passed + frames.insert(goaway(NEWEST)), True
        passed += frames.feed(each)
        fed += len(each)
    if not inserted:
        passed += frames.insert(goaway(NEWEST))
    borders = [b"".join(whole[:count]) for count in range(1, 5)]
    assert passed in [before + goaway(NEWEST) + b"".join(whole)[len(before) :] for before in borders]


def test_a_goaway_that_is_kept_passes_as_it_is() -> None:
    frames = Frames(lambda last_stream, error: None)
    assert frames.feed(goaway(3, 0xB, "calm down")) == goaway(3, 0xB, "calm down")


@pytest.mark.parametrize(
    ("last", "newest", "streams"), [(0, 5, [1, 3, 5]), (3, 7, [5, 7]), (NEWEST, 5, []), (7, 7, [])]
)
def test_streams_that_the_server_did_not_begin_are_refused(
    last: int, newest: int, streams: list[int]
) -> None:
    reset = b"".join(
        bytes.fromhex("0000040300") + each.to_bytes(4, "big") + bytes.fromhex("00000007") for each in streams
    )
    assert refusals(last, newest) == reset


def test_streams_that_are_begun_after_a_farewell_are_refused_and_not_sent() -> None:
    late = bytes.fromhex("000002 01 05 00000007") + b"ab"
    more = bytes.fromhex("000001 00 01 00000007") + b"x"
    assert split_late(DATA + late + settings() + more, 5) == (DATA + settings(), refusals(6, 7))
    assert split_late(DATA, 1) == (DATA, b"")
