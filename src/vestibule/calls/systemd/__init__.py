"""Asking systemd, over the system bus, which unit a process belongs to.  Every user may."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vestibule.calls.systemd import messages
from vestibule.calls.systemd.codes import BUS_ANSWER, BUS_UNREACHABLE
from vestibule.calls.systemd.messages import Message

SYSTEM_BUS: Final = Path("/run/dbus/system_bus_socket")
SYSTEMD: Final = "org.freedesktop.systemd1"
NO_UNIT: Final = "org.freedesktop.systemd1.NoUnitForPID"
MAX_UNRELATED: Final = 64
"""Signals and other messages that may come before an answer."""

_BUS: Final = "org.freedesktop.DBus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit by its name, and the file that defines it ("" for units that have none)."""

    id: str
    fragment_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Systemd:
    """systemd, by way of a bus.  Each question has its own connection; nothing is kept."""

    bus: Path = SYSTEM_BUS

    async def unit_of(self, pid: int) -> Unit | None:
        """The unit of a process of systemd's own PID namespace, if it has one.  Raises: VST2345, VST2346."""
        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(self.bus))
        except OSError as error:
            raise BUS_UNREACHABLE.error(f"{self.bus}: {error.strerror or error}") from error
        try:
            return await _Conversation(reader, writer).unit_of(pid)
        except (ValueError, EOFError, OSError, asyncio.LimitOverrunError) as error:
            raise BUS_ANSWER.error(f"{self.bus} does not speak D-Bus: {error}") from error
        finally:
            writer.transport.abort()


class _Conversation:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._serial = 0

    async def unit_of(self, pid: int) -> Unit | None:
        await self._authenticate()
        await self._ask(_BUS, "/org/freedesktop/DBus", _BUS, "Hello")
        manager = ("/org/freedesktop/systemd1", f"{SYSTEMD}.Manager", "GetUnitByPID")
        found = await self._call(SYSTEMD, *manager, pid)
        if found.kind == messages.ERROR and found.error == NO_UNIT:
            return None
        unit = _text(found)
        return Unit(
            id=await self._property(unit, "Id"), fragment_path=await self._property(unit, "FragmentPath")
        )

    async def _authenticate(self) -> None:
        # The bus reads our user from the socket; the claim only has to agree with it.
        self._writer.write(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        answer = await self._reader.readuntil(b"\r\n")
        if not answer.startswith(b"OK "):
            raise BUS_UNREACHABLE.error("the bus refuses this user")
        self._writer.write(b"BEGIN\r\n")

    async def _property(self, unit: str, name: str) -> str:
        return await self._ask(SYSTEMD, unit, f"{_BUS}.Properties", "Get", f"{SYSTEMD}.Unit", name)

    async def _ask(
        self, destination: str, path: str, interface: str, member: str, *arguments: str | int
    ) -> str:
        return _text(await self._call(destination, path, interface, member, *arguments))

    async def _call(
        self, destination: str, path: str, interface: str, member: str, *arguments: str | int
    ) -> Message:
        self._serial += 1
        self._writer.write(messages.call(self._serial, destination, path, interface, member, arguments))
        for _ in range(MAX_UNRELATED):
            answer = await self._receive()
            if answer.kind in (messages.RETURN, messages.ERROR) and answer.reply_to == self._serial:
                return answer
        raise BUS_ANSWER.error(f"{member} got no answer among {MAX_UNRELATED} messages")

    async def _receive(self) -> Message:
        head = await self._reader.readexactly(messages.FIXED_HEADER)
        rest = await self._reader.readexactly(messages.length_of(head) - len(head))
        return messages.parse(head + rest)


def _text(answer: Message) -> str:
    if answer.kind == messages.ERROR:
        raise BUS_ANSWER.error(f"{answer.error}: {' '.join(answer.texts)}")
    if not answer.texts:
        raise BUS_ANSWER.error("the answer holds no text")
    return answer.texts[0]
