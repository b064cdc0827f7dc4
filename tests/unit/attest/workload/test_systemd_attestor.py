"""The systemd attestor, on a bus that speaks D-Bus."""

from __future__ import annotations

import asyncio
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.attest.doubles import FakeProcess

from vestibule.attest.workload.systemd import SystemdAttestor
from vestibule.calls.systemd import Systemd, messages
from vestibule.errors import VestibuleError

UNIT = "/org/freedesktop/systemd1/unit/orders_2eservice"
FILE = "/etc/systemd/system/orders.service"
IN_UNIT = FakeProcess(b"0::/system.slice/orders.service\n")


def string(text: str, order: str = "<") -> bytes:
    data = text.encode()
    return struct.pack(f"{order}I", len(data)) + data + b"\0"


def answer(kind: int, serial: int, signature: str, body: bytes, order: str = "<", error: str = "") -> bytes:
    """A message as the specification lays it out, written here by hand."""
    fields = bytes([5, 1]) + b"u\0" + struct.pack(f"{order}I", serial)
    fields += bytes([8, 1]) + b"g\0" + bytes([len(signature)]) + signature.encode() + b"\0"
    if error:
        fields += bytes(-len(fields) % 8) + bytes([4, 1]) + b"s\0" + string(error, order)
    head = {"<": b"l", ">": b"B"}[order] + bytes([kind, 0, 1])
    head += struct.pack(f"{order}III", len(body), 99, len(fields)) + fields
    return head + bytes(-len(head) % 8) + body


class FakeBus:
    """Knows one unit; ``order`` is the byte order that it writes in."""

    def __init__(self, order: str = "<") -> None:
        self.order = order
        self.units = {4711: UNIT}
        self.properties = {"Id": "orders.service", "FragmentPath": FILE}
        self.members: list[str] = []
        self.refuses = False
        self.chatter = 1
        self.raw = b""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n")).startswith(b"\0AUTH EXTERNAL ")
        writer.write(b"REJECTED EXTERNAL\r\n" if self.refuses else b"OK 1234\r\n")
        assert await reader.readuntil(b"\r\n") == b"BEGIN\r\n"
        while True:
            head = await reader.readexactly(16)
            body_length, serial, fields_length = struct.unpack("<III", head[4:])
            rest = await reader.readexactly(fields_length + -fields_length % 8 + body_length)
            writer.write(
                self.raw or self.reply(serial, rest[:fields_length], rest[-body_length or len(rest) :])
            )

    def reply(self, serial: int, fields: bytes, body: bytes) -> bytes:
        member = next(
            m
            for m in (b"Hello", b"GetUnitByPID", b"Get")
            if b"\x01s\0" + struct.pack("<I", len(m)) + m in fields
        )
        self.members.append(member.decode())
        signal = answer(messages.SIGNAL, 0, "s", string("noise", self.order), self.order) * self.chatter
        if member == b"Hello":
            return signal + self.said("s", string(":1.7", self.order), serial)
        if member == b"GetUnitByPID":
            (pid,) = struct.unpack("<I", body)
            if pid not in self.units:
                text = string("no unit", self.order)
                error = "org.freedesktop.systemd1.NoUnitForPID"
                return signal + answer(messages.ERROR, serial, "s", text, self.order, error)
            return signal + self.said("o", string(self.units[pid], self.order), serial)
        name = next(name for name in self.properties if string(name) in body)
        variant = b"\x01s\0\0" + string(self.properties[name], self.order)
        return self.said("v", variant, serial)

    def said(self, signature: str, body: bytes, serial: int) -> bytes:
        return answer(messages.RETURN, serial, signature, body, self.order)


Serve = Callable[[FakeBus], Awaitable[SystemdAttestor]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers = []
    with tempfile.TemporaryDirectory(prefix="vb-") as directory:

        async def start(bus: FakeBus) -> SystemdAttestor:
            path = Path(directory) / "bus"
            servers.append(await asyncio.start_unix_server(bus.handle, path))
            return SystemdAttestor(Systemd(bus=path).unit_of)

        yield start
        for server in servers:
            server.close()


@pytest.mark.parametrize("order", ["<", ">"])
async def test_a_process_is_known_by_its_unit(serve: Serve, order: str) -> None:
    bus = FakeBus(order)
    found = await (await serve(bus)).attest(IN_UNIT)
    assert {str(each) for each in found} == {"systemd:id:orders.service", f"systemd:fragment_path:{FILE}"}
    assert bus.members == ["Hello", "GetUnitByPID", "Get", "Get"]


async def test_a_unit_without_a_file_has_no_path(serve: Serve) -> None:
    bus = FakeBus()
    bus.properties["FragmentPath"] = ""
    found = await (await serve(bus)).attest(IN_UNIT)
    assert {str(each) for each in found} == {"systemd:id:orders.service"}


async def test_a_process_without_a_unit_has_no_selectors(serve: Serve) -> None:
    bus = FakeBus()
    bus.units.clear()
    assert await (await serve(bus)).attest(IN_UNIT) == frozenset()


async def test_a_unit_that_the_kernel_does_not_know_of_is_not_believed(serve: Serve) -> None:
    attestor = await serve(FakeBus())
    for path in (b"/system.slice/payments.service", b"/system.slice/orders.service.d", b"/"):
        with pytest.raises(VestibuleError, match="VST2056"):
            await attestor.attest(FakeProcess(b"0::" + path + b"\n"))


async def test_a_bus_that_is_away_or_refuses_is_named(serve: Serve) -> None:
    with pytest.raises(VestibuleError, match="VST2345 /nowhere/bus"):
        await Systemd(bus=Path("/nowhere/bus")).unit_of(1)
    bus = FakeBus()
    bus.refuses = True
    with pytest.raises(VestibuleError, match="VST2345"):
        await (await serve(bus)).attest(IN_UNIT)


@pytest.mark.parametrize("raw", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"l\x02\0\x01" + b"\xff" * 12])
async def test_what_is_not_dbus_is_refused(serve: Serve, raw: bytes) -> None:
    bus = FakeBus()
    bus.raw = raw
    with pytest.raises(VestibuleError, match="VST2346"):
        async with asyncio.timeout(60):
            await (await serve(bus)).attest(IN_UNIT)


async def test_an_error_of_the_bus_is_passed_on(serve: Serve) -> None:
    bus = FakeBus()
    bus.properties = {"FragmentPath": FILE, "Id": ""}
    bus.raw = answer(
        messages.ERROR, 1, "s", string("not allowed"), error="org.freedesktop.DBus.Error.AccessDenied"
    )
    with pytest.raises(
        VestibuleError, match=r"VST2346 org\.freedesktop\.DBus\.Error\.AccessDenied: not allowed"
    ):
        await (await serve(bus)).attest(IN_UNIT)


@given(st.binary(min_size=16, max_size=300))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    data = b"l" + data[1:3] + b"\x01" + data[4:]
    with suppress(ValueError):
        messages.parse(data)


@given(st.text(max_size=30).filter(lambda text: "\0" not in text), st.integers(0, 2**32 - 1))
def test_a_call_says_its_own_length_and_can_be_read(text: str, number: int) -> None:
    data = messages.call(7, "org.example", "/a", "org.example.I", "M", [text, number])
    assert messages.length_of(data[:16]) == len(data)
    assert messages.parse(data).texts == (text,)
