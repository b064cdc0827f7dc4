"""What break-glass let through, as the proxy prints it: handed to the agent, and kept until the agent has it.

A proxy tells its agent of such calls itself, but what it sends while the agent is away is lost.  What it prints comes
through its sidecar, which keeps it: on disk, if the agent does not take it within a moment, so that neither a
restart of the agent nor one of the sidecar loses it.  The agent knows what it has heard of both ways.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from vestibule.calls.printed_uses import MOST, is_permission
from vestibule.keys.files import make_private_directory, read_private, written
from vestibule.records import BREAK_GLASS, OTHERS, PrintedUse

EVERY: Final = 0.25
"""Seconds between two messages, at least, as long as one message has room for all."""
PATIENCE: Final = 1.0
"""Seconds for which the agent may keep silent before what it was told is written down."""
AGAIN: Final = 30.0
"""Seconds of silence after which it is told again."""
MOST_HELD: Final = 10_000
"""Calls that are kept one by one; what comes then is only counted, by permission, caller and port."""
MOST_KINDS: Final = 16
COUNTED_FOR: Final = 10.0
"""Seconds for which such a number grows, before it is kept as well."""
LONGEST_FILE: Final = 64 * 1024 * 1024
_MOST_CONNECTIONS: Final = 10_000
_ESCAPE: Final = re.compile(r"\\(\\|[0-3][0-7]{2})")
_RULE: Final = re.compile(rf'"break_glass":\s*"({re.escape(BREAK_GLASS)}[A-Za-z0-9]{{1,64}})')

_log = logging.getLogger(__name__)


class Agent(Protocol):
    """Whom it is handed to (``proxy.attachment``)."""

    @property
    def welcomes(self) -> int:
        """How often it was attached to; 0 while it is not there."""
        ...

    def hand_over(self, number: int, uses: Sequence[PrintedUse]) -> None:
        """Tell it calls; it answers with the number, once it has them."""
        ...


class PrintedUses:
    """The calls that one sidecar's proxy has printed and that the agent has not taken yet."""

    def __init__(self, directory: Path, service: str, owner: str, agent: Agent) -> None:
        """``directory`` outlives sidecars; ``owner`` is this one's name, as no other's is."""
        self._directory = directory
        self._prefix = f"{quote(service, safe='')}."
        self._file = directory / f"{self._prefix}{owner}.jsonl"
        self._agent = agent
        self._held: OrderedDict[int, PrintedUse] = OrderedDict()
        self._number = 0
        self._kept = 0
        """The last that is in the file."""
        self._told = 0
        self._told_at = 0.0
        self._welcome = 0
        self._connections: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._counted: dict[tuple[str, str, str], PrintedUse] = {}
        self._counting_since = 0.0
        self._arrived = asyncio.Event()
        self._moved = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held) + sum(each.count for each in self._counted.values())

    def adopt(self, living: Set[str]) -> None:
        """Take up what sidecars of the service left behind that are not among the living."""
        for file in sorted(self._directory.glob("*.jsonl")):
            owner = file.name.removeprefix(self._prefix).removesuffix(".jsonl")
            if "." in owner or owner in living:
                continue
            try:
                found = list(_documents(read_private(file, LONGEST_FILE).decode(errors="replace")))
                for use in found:
                    self._add(use)
                self._keep(self._unkept())
                file.unlink()
            except OSError as error:
                _log.error("uses of break-glass in %s cannot be taken up: %s", file, error)

    def hear(self, line: str) -> None:
        """Take a line of the proxy's output; most are about something else."""
        if BREAK_GLASS not in line or (use := _use_of(line)) is None:
            return
        if '"stream"' in line and (stream := _stream_of(line)) and self._knows((use.rule, stream)):
            # A connection that lasts is printed again and again.
            return
        if len(self._held) < MOST_HELD:
            self._add(use)
        else:
            self._count(use)
        self._arrived.set()

    def taken(self, number: int) -> None:
        """The agent has all up to this one."""
        while self._held and next(iter(self._held)) <= number:
            self._held.popitem(last=False)
        self._moved.set()

    async def run(self) -> None:
        """Hand over what comes, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while len(self):
                await self._hand_over()
            self._forget_file()

    def close(self) -> None:
        """Nothing more comes: what the agent has not taken waits on disk, for the next sidecar of the service."""
        self._settle(at_once=True)
        if self._held:
            self._written(self._unkept())
        else:
            self._forget_file()

    async def _hand_over(self) -> None:
        """One step: tell the agent what it was not told, and write down what it does not take."""
        self._settle()
        now = asyncio.get_running_loop().time()
        if self._welcome != self._agent.welcomes or now - self._told_at > AGAIN:
            self._welcome, self._told = self._agent.welcomes, 0
        untold = [(number, use) for number, use in self._held.items() if number > self._told][:MOST]
        waits = self._told > 0 and next(iter(self._held), self._told + 1) <= self._told
        if self._welcome and untold and not waits:
            self._told, self._told_at = untold[-1][0], now
            self._moved.clear()
            self._agent.hand_over(self._told, [use for _, use in untold])
        try:
            async with asyncio.timeout(PATIENCE):
                await self._moved.wait()
            self._moved.clear()
        except TimeoutError:
            new = self._unkept()
            await written(lambda: self._written(new))
        if len(self._held) < MOST:
            await asyncio.sleep(EVERY)

    def _add(self, use: PrintedUse) -> None:
        self._number += 1
        self._held[self._number] = use
        self._arrived.set()

    def _count(self, use: PrintedUse) -> None:
        if not self._counted:
            _log.warning("%d uses of break-glass wait for the agent; more are counted", len(self._held))
            self._counting_since = asyncio.get_running_loop().time()
        key = (use.rule, use.caller, use.port)
        if key not in self._counted and len(self._counted) >= MOST_KINDS:
            use = replace(use, caller=OTHERS, port=OTHERS)
            key = (use.rule, OTHERS, OTHERS)
        count = self._counted[key].count if key in self._counted else 0
        counted = replace(use, address="", request_id="", method=OTHERS, path=OTHERS, count=count + use.count)
        self._counted[key] = counted

    def _settle(self, *, at_once: bool = False) -> None:
        """What was counted for a while waits with the others."""
        if not self._counted:
            return
        due = self._counting_since + COUNTED_FOR <= asyncio.get_running_loop().time()
        if at_once or due or len(self._held) < MOST_HELD:
            counted, self._counted = self._counted, {}
            for use in counted.values():
                self._add(use)

    def _knows(self, connection: tuple[str, str]) -> bool:
        known = connection in self._connections
        self._connections[connection] = None
        self._connections.move_to_end(connection)
        while len(self._connections) > _MOST_CONNECTIONS:
            self._connections.popitem(last=False)
        return known

    def _written(self, new: Sequence[tuple[int, PrintedUse]]) -> None:
        try:
            self._keep(new)
        except OSError as error:
            _log.error("uses of break-glass wait in memory only: %s: %s", self._file, error)

    def _unkept(self) -> list[tuple[int, PrintedUse]]:
        return [(number, use) for number, use in self._held.items() if number > self._kept]

    def _keep(self, new: Sequence[tuple[int, PrintedUse]]) -> None:
        """Append to the file what is not in it.  Raises: OSError."""
        if not new:
            return
        make_private_directory(self._directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._file, flags, 0o600)
        try:
            data = memoryview("".join(f"{_written_down(use)}\n" for _, use in new).encode())
            while data:
                data = data[os.write(file, data) :]
            os.fdatasync(file)
        finally:
            os.close(file)
        self._kept = new[-1][0]

    def _forget_file(self) -> None:
        with suppress(OSError):
            self._file.unlink(missing_ok=True)


def _use_of(line: str) -> PrintedUse | None:
    """What a line says, if it is about a use of break-glass.  Of one that is broken only that is known."""
    if (found := _RULE.search(line)) is None:
        return None
    try:
        if (use := _read(json.loads(_as_json(line)), "break_glass")) is not None:
            return use
    except (ValueError, TypeError, AttributeError, OverflowError, KeyError):
        pass
    _log.error("a line about a use of %s cannot be read", found[1])
    return PrintedUse(
        rule=found[1], time=datetime.now(UTC), caller="", address="", port="", path="(unreadable)"
    )


def _as_json(line: str) -> str:
    """Bytes that are no UTF-8 Envoy writes in octal, which JSON does not know: a caller must not hide behind them."""
    return _ESCAPE.sub(lambda found: found[0] if found[1] == "\\" else "\ufffd", line)


def _stream_of(line: str) -> str:
    try:
        return str(json.loads(_as_json(line)).get("stream") or "")
    except (ValueError, AttributeError):
        return ""


def _read(document: dict[str, Any], rule: str) -> PrintedUse | None:
    """Raises: ValueError, TypeError, AttributeError, OverflowError, KeyError."""
    if not is_permission(str(document.get(rule))):
        return None
    return PrintedUse(
        rule=document[rule],
        time=_instant(document["time"]),
        caller=_text(document.get("caller")),
        address=_text(document.get("address")),
        port=_text(document.get("port")),
        method=_text(document.get("method")),
        path=_text(document.get("path")),
        request_id=_text(document.get("request_id")),
        count=int(document.get("count", 1)),
    )


def _instant(text: object) -> datetime:
    """Seconds and microseconds, which a float would round."""
    whole, _, fraction = str(text).partition(".")
    return datetime.fromtimestamp(int(whole), UTC).replace(microsecond=int(fraction.ljust(6, "0")[:6] or "0"))


def _text(value: object) -> str:
    # What is no character cannot be sent.
    text = "" if value is None or value == "-" else str(value)
    return text.encode(errors="replace").decode()


def _written_down(use: PrintedUse) -> str:
    document = {name: getattr(use, name) for name in PrintedUse.__dataclass_fields__}
    return json.dumps({**document, "time": f"{int(use.time.timestamp())}.{use.time.microsecond:06d}"})


def _documents(text: str) -> Iterator[PrintedUse]:
    """Of a file; a last line that was not finished is none."""
    for line in text.splitlines():
        try:
            use = _read(json.loads(line), "rule")
        except (ValueError, TypeError, AttributeError, OverflowError, KeyError):
            use = None
        if use is not None:
            yield use
        else:
            _log.error("a line about a use of break-glass that was kept cannot be read")
