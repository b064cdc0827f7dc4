"""Protobuf in a form that is always the same bytes for the same meaning."""

from __future__ import annotations

from typing import Final

from envoy.type.v3 import percent_pb2
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

_PARTS_PER_PERCENT: Final = 10_000


def serialized(message: Message) -> bytes:
    """The message's bytes, with map entries in order, so that equal messages have equal bytes."""
    return message.SerializeToString(deterministic=True)


def packed(message: Message) -> Any:
    """The message in an ``Any``, with the same promise as ``serialized``."""
    return Any(type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}", value=serialized(message))


def seconds(amount: float) -> Duration:
    """A duration, exact to the millisecond."""
    whole, milliseconds = divmod(round(amount * 1000), 1000)
    return Duration(seconds=whole, nanos=milliseconds * 1_000_000)


def fraction(percent: float) -> percent_pb2.FractionalPercent:
    """Per cent, exact to the millionth of the whole."""
    return percent_pb2.FractionalPercent(
        numerator=round(percent * _PARTS_PER_PERCENT), denominator=percent_pb2.FractionalPercent.MILLION
    )
