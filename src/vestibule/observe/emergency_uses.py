"""Calls that only break-glass allowed, on their way from this node's proxies to the server's audit log.

None is forgotten: what the server has not yet put on record is kept on disk, sealed, through outages and restarts.
They come by two ways, told by the proxies and printed by them, and count once, whichever way is the first.
Calls of one kind become one use with their number, so that a flood of them cannot fill the disk; and of one caller
only so many uses are sent at once, so that a flood of kinds cannot fill the audit log (``emergency_budgets``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Protocol

from vestibule.errors import VestibuleError
from vestibule.keys.files import write_private
from vestibule.keys.sealing import Sealer
from vestibule.observe.access_log import AccessLine
from vestibule.observe.access_record import AccessRecord
from vestibule.observe.codes import LOG_NOT_WRITTEN
from vestibule.observe.emergency_budgets import Budgets
from vestibule.records import OTHERS, EmergencyUse, PrintedUse
from vestibule.spiffe import SpiffeId, TrustDomain

EVERY: Final = 1.0
"""Seconds between two reports, at least."""
RETRY_LONGEST: Final = 30.0
MOST_USES: Final = 100
"""In one report."""
MOST_KINDS: Final = 1000
"""Kinds of calls that wait; what would be one more is counted without its path."""
MOST_IDS: Final = 16
MOST_SEEN: Final = 20_000
"""Calls of which it is known that they came already by one of the ways."""
_DIGEST: Final = 8
_PRINTED_ID: Final = 100
"""Characters of a request's id that proxies print."""
CONTEXT: Final = b"vestibule agent uses of break-glass"

_log = logging.getLogger(__name__)


class Upstream(Protocol):
    """The server (``calls.break_glass``)."""

    async def report(self, batch: str, uses: tuple[EmergencyUse, ...]) -> None:
        """Returns when all of it is on record.  Raises: VST2300 while the server is away, VST8100."""
        ...


class UsesFile:
    """What waits, in one sealed file."""

    def __init__(self, path: Path, sealer: Sealer, trust_domain: TrustDomain) -> None:
        self._path = path
        self._sealer = sealer
        self._context = CONTEXT + b":" + trust_domain.name.encode()

    def load(self) -> tuple[str, list[EmergencyUse], list[EmergencyUse], list[bytes]]:
        """A report that was not answered (its name, what it says), what was not yet reported, and calls that came."""
        try:
            document = json.loads(self._sealer.unseal(self._path.read_bytes(), context=self._context))
            seen = b64decode(document.get("seen", ""))
            calls = [seen[start : start + _DIGEST] for start in range(0, len(seen), _DIGEST)]
            return document["batch"], _uses(document["sent"]), _uses(document["waiting"]), calls
        except FileNotFoundError:
            return "", [], [], []
        except (OSError, VestibuleError, ValueError, KeyError, TypeError) as error:
            _log.error("uses of break-glass that were kept cannot be read, and were set aside: %s", error)
            with suppress(OSError):
                self._path.replace(self._path.with_suffix(".unreadable"))
            return "", [], [], []

    def save(
        self,
        batch: str,
        sent: Iterable[EmergencyUse],
        waiting: Iterable[EmergencyUse],
        seen: Iterable[bytes] = (),
    ) -> None:
        """Replace what is kept.  Raises: VST8201."""
        calls = b64encode(b"".join(seen)).decode()
        document = {
            "batch": batch,
            "sent": _documents(sent),
            "waiting": _documents(waiting),
            "seen": calls,
        }
        sealed = self._sealer.seal(json.dumps(document).encode(), context=self._context)
        try:
            write_private(self._path, sealed)
        except OSError as error:
            raise LOG_NOT_WRITTEN.error(f"cannot write {self._path}: {error.strerror}") from error


class EmergencyUses:
    """Collects uses and reports them, each report until it is on record."""

    def __init__(self, file: UsesFile, upstream: Upstream, budgets: Budgets | None = None) -> None:
        self._file = file
        self._upstream = upstream
        self._batch = ""
        self._sent: list[EmergencyUse] = []
        self._waiting: dict[tuple[str, ...], EmergencyUse] = {}
        self._due: dict[tuple[str, ...], float] = {}
        self._budgets = budgets or Budgets()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._arrived = asyncio.Event()
        self._unsaved = False
        self._saving = asyncio.Lock()
        self.not_saved: VestibuleError | None = None
        """Why what waits is not on disk, while it is not."""

    def load(self) -> None:
        """Take up what an earlier run left."""
        self._batch, self._sent, waiting, seen = self._file.load()
        self._seen.update(dict.fromkeys(seen))
        for each in waiting:
            self._add(each)
        if self._sent or self._waiting:
            self._arrived.set()

    @property
    def waiting(self) -> int:
        """Calls that the server does not yet know of."""
        return sum(each.count for each in (*self._sent, *self._waiting.values()))

    def append(self, lines: Iterable[AccessLine]) -> None:
        """Take what break-glass allowed out of lines of the access log."""
        for line in lines:
            if line.by_break_glass:
                record = AccessRecord.from_json(line.text)
                self._hear(use_of(record), record.source_address, record.request_id)

    async def take(
        self, service: str, spiffe_id: SpiffeId, instance_id: str, uses: Iterable[PrintedUse]
    ) -> None:
        """Take what a sidecar read of its proxy's output; the proxy is the one that was attested.

        Returns once all of it is on disk.  Raises: VST8201.
        """
        for each in uses:
            use = EmergencyUse(
                rule=each.rule,
                service=service,
                spiffe_id=str(spiffe_id),
                instance_id=instance_id,
                caller=each.caller,
                port=each.port,
                method=each.method,
                path=each.path,
                count=each.count,
                first=each.time,
                last=each.time,
                request_ids=(each.request_id,) if each.request_id else (),
            )
            self._hear(use, each.address, each.request_id)
        await self._save()
        if self._unsaved and self.not_saved is not None:
            raise self.not_saved

    def _hear(self, use: EmergencyUse, address: str, request_id: str) -> None:
        """Once, however often and by whichever way it is told.

        A call is known by when it began, to the microsecond, and by the connection on which it came: its request's id
        is the caller's choice.
        """
        place = address.replace("[", "").replace("]", "")
        text = f"{use.spiffe_id} {use.rule} {use.first.isoformat()} {place} {request_id[:_PRINTED_ID]}"
        digest = blake2b(text.encode(), digest_size=_DIGEST).digest()
        if digest in self._seen:
            return
        self._seen[digest] = None
        while len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        use = self._budgets.named(use)
        if _kind(use) not in self._waiting:
            _log.warning("%s", sentence(use))
        self._add(use)
        self._unsaved = True
        self._arrived.set()

    def _add(self, use: EmergencyUse) -> None:
        key = _kind(use)
        if key not in self._waiting and len(self._waiting) >= MOST_KINDS:
            use = replace(use, path=OTHERS, method=OTHERS)
            key = _kind(use)
        known = self._waiting.get(key)
        if known is None:
            self._due[key] = self._budgets.due(use)
        self._waiting[key] = use if known is None else _sum(known, use)

    def _take_due(self) -> list[EmergencyUse]:
        """What is to be reported now, some at a time."""
        keys = [key for key, at in self._due.items() if self._budgets.is_due(at)][:MOST_USES]
        for key in keys:
            del self._due[key]
        return [self._waiting.pop(key) for key in keys]

    async def run(self) -> None:
        """Until cancelled."""
        pause = EVERY
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self._save()
            if await self._report():
                pause = EVERY
                if self._waiting:
                    self._arrived.set()
            else:
                self._arrived.set()
                pause = min(pause * 2, RETRY_LONGEST)
            await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        """What arrives meanwhile is on disk within a second, however long the server is away."""
        ends = asyncio.get_running_loop().time() + seconds
        while (left := ends - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(min(left, EVERY))
            await self._save()

    async def _save(self) -> None:
        async with self._saving:
            await self._save_alone()

    async def _save_alone(self) -> None:
        if not self._unsaved:
            return
        self._unsaved = False
        state = (self._batch, tuple(self._sent), tuple(self._waiting.values()), tuple(self._seen))
        try:
            await asyncio.to_thread(self._file.save, *state)
        except VestibuleError as error:
            self._unsaved, self.not_saved = True, error
            _log.error("uses of break-glass wait in memory only: %s", error)
        else:
            self.not_saved = None

    async def _report(self) -> bool:
        """Report all that is due, some at a time; whether all of it is on record."""
        while self._sent or (due := self._take_due()):
            if not self._sent:
                self._batch, self._sent = secrets.token_hex(12), due
                # A report keeps its name over restarts, so that it counts once.
                self._unsaved = True
                await self._save()
            try:
                await self._upstream.report(self._batch, tuple(self._sent))
            except VestibuleError as error:
                _log.warning("%d uses of break-glass are not on record yet: %s", self.waiting, error)
                return False
            self._batch, self._sent, self._unsaved = "", [], True
            await self._save()
        return True


def use_of(record: AccessRecord) -> EmergencyUse:
    """One call as a use."""
    return EmergencyUse(
        rule=record.rule,
        service=record.reporter_service,
        spiffe_id=record.reporter_spiffe_id,
        instance_id=record.reporter_instance,
        caller=record.source_spiffe_id,
        port=record.destination_port,
        method=record.method,
        path=record.path,
        count=1,
        first=record.time,
        last=record.time,
        request_ids=(record.request_id,) if record.request_id else (),
    )


def sentence(use: EmergencyUse) -> str:
    """A use as people read it."""
    what = " ".join(filter(None, (use.method, use.path)))
    return f"{use.rule} let {use.caller or 'somebody'} call {use.service}/{use.port} {what}".rstrip()


def _kind(use: EmergencyUse) -> tuple[str, ...]:
    return (use.rule, use.spiffe_id, use.instance_id, use.caller, use.port, use.method, use.path)


def _sum(one: EmergencyUse, other: EmergencyUse) -> EmergencyUse:
    return replace(
        one,
        count=one.count + other.count,
        first=min(one.first, other.first),
        last=max(one.last, other.last),
        request_ids=(*one.request_ids, *other.request_ids)[:MOST_IDS],
    )


def _documents(uses: Iterable[EmergencyUse]) -> list[dict[str, Any]]:
    return [{**asdict(each), "first": each.first.isoformat(), "last": each.last.isoformat()} for each in uses]


def _uses(documents: Iterable[dict[str, Any]]) -> list[EmergencyUse]:
    return list(_read(documents))


def _read(documents: Iterable[dict[str, Any]]) -> Iterator[EmergencyUse]:
    for each in documents:
        yield EmergencyUse(
            **{
                **each,
                "first": datetime.fromisoformat(each["first"]),
                "last": datetime.fromisoformat(each["last"]),
                "request_ids": tuple(each["request_ids"]),
            }
        )
