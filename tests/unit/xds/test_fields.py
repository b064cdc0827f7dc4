"""A message is taken apart as protobuf would read it."""

from __future__ import annotations

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.wrappers_pb2 import UInt32Value
from hypothesis import given
from hypothesis import strategies as st

from vestibule.xds.fields import fields


def test_each_field_has_its_number_and_its_place() -> None:
    hosts = [VirtualHost(name="a", domains=["x" * 300]), VirtualHost(name="b")]
    message = RouteConfiguration(
        name="r", virtual_hosts=hosts, max_direct_response_body_size_bytes=UInt32Value(value=9)
    )
    body = message.SerializeToString()
    found = list(fields(body))
    assert [each.number for each in found] == [1, 2, 2, 11]
    assert b"".join(body[each.start : each.end] for each in found) == body
    assert [
        VirtualHost.FromString(body[each.value : each.end]) for each in found if each.number == 2
    ] == hosts


def test_numbers_of_all_kinds_are_passed_over() -> None:
    body = b"\x08\xff\xff\x03" + b"\x11" + bytes(8) + b"\x1d" + bytes(4) + b"\x22\x01a"
    assert [(each.number, each.end - each.start) for each in fields(body)] == [(1, 4), (2, 9), (3, 5), (4, 3)]


@pytest.mark.parametrize(
    "body",
    [b"\x0a\x05abc", b"\x0a", b"\x0b\x0c", b"\x11\x00", b"\x08" + b"\xff" * 10, b"\xff"],
    ids=["text cut short", "no length", "a group", "number cut short", "number too long", "tag cut short"],
)
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|no end|no wire type"):
        list(fields(body))


@given(st.binary(max_size=64))
def test_nothing_is_left_out(body: bytes) -> None:
    try:
        found = list(fields(body))
    except ValueError:
        return
    assert b"".join(body[each.start : each.end] for each in found) == body
