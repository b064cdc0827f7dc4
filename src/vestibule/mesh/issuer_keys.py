"""The keys of outside issuers that publish them at a URL: fetched by the server, for all that verify tokens.

Proxies and the token service are given what was fetched last; none of them asks an issuer itself.  An issuer that
cannot be reached, or gives what is none, takes nothing away: its last good keys count on, also after a restart, but not
for ever, since a key that it has withdrawn meanwhile would, too.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final, Protocol

from vestibule.audit import Audit, AuditEvent
from vestibule.calls.codes import KEY_SET_ANSWER
from vestibule.calls.key_sets import Fetched
from vestibule.clock import Clock
from vestibule.errors import Fault, VestibuleError
from vestibule.intent.published_keys import Published, published
from vestibule.mesh.revision import Revision

USUAL: Final = timedelta(minutes=5)
"""After which keys are looked at again where the issuer says nothing of it (RFC 9111)."""
SHORTEST: Final = timedelta(minutes=1)
LONGEST: Final = timedelta(hours=1)
"""An issuer may ask for less traffic, but what it withdraws counts until we look."""
FIRST_RETRY: Final = timedelta(seconds=2)
KEPT: Final = timedelta(hours=24)
AT_ONCE: Final = 8
_ACTOR: Final = "server"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptKeys:
    """What a URL gave last: a JWK set of keys of use, in JSON, and when it was last seen to be so."""

    url: str
    keys: str = field(repr=False)
    ids: tuple[str, ...]
    etag: str
    seen_at: datetime


class Keeping(Protocol):
    """Where the last good keys outlive a restart."""

    def read(self) -> Iterable[KeptKeys]:
        """All of them."""
        ...

    async def keep(self, kept: KeptKeys) -> None:
        """In the place of what is kept of the same URL.  Raises: OSError."""
        ...

    def forget(self, kept: KeptKeys) -> None:
        """It counts no longer."""
        ...


class Endpoints(Protocol):
    """Issuers, as a client sees them (``calls.key_sets``)."""

    async def fetch(self, url: str, etag: str = "") -> Fetched:
        """What is published there.  Raises: VST6140, VST6141, VST234n."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How the fetching from one URL goes, within this process."""

    next_at: datetime
    failures: int = 0
    problem: VestibuleError | None = None
    left_out: tuple[str, ...] = ()


def pause(fresh: timedelta | None, failures: int, jitter: float) -> timedelta:
    """How long to wait after this many ``failures`` in a row; ``jitter`` lies in [0, 1].

    After a success for as long as the issuer says, within bounds and up to a tenth less, so that servers do not march
    in step; after failures from seconds on, doubling.
    """
    if not failures:
        return min(max(fresh or USUAL, SHORTEST), LONGEST) * (1 - jitter / 10)
    growing: timedelta = FIRST_RETRY * (1 << min(failures - 1, 20))
    return min(growing, USUAL) * (1 + jitter / 4)


class IssuerKeys:
    """Keeps the keys at the URLs that are wanted fresh."""

    def __init__(
        self,
        wanted: Callable[[], frozenset[str]],
        changed: Revision,
        endpoints: Endpoints,
        keeping: Keeping,
        audit: Audit,
        clock: Clock,
        *,
        kept: timedelta = KEPT,
        jitter: Callable[[], float] = lambda: random.uniform(0, 1),  # noqa: S311 - spreads load, hides nothing
    ) -> None:
        """``wanted`` are the URLs that the intents in force name, and ``changed`` grows when they may be others.

        ``kept`` is how long keys count after they were last seen.
        """
        self._wanted = wanted
        self._changed = changed
        self._endpoints = endpoints
        self._keeping = keeping
        self._audit = audit
        self._clock = clock
        self._lasts = kept
        self._jitter = jitter
        self._known: dict[str, KeptKeys] = {}
        self._written: dict[str, datetime] = {}
        self._progress: dict[str, Progress] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._revision = Revision()
        self._now: Mapping[str, str] = MappingProxyType({})

    # ------------------------------------------------------------------------- for those who verify

    @property
    def now(self) -> Mapping[str, str]:
        """JWK sets in JSON by URL; none of those whose keys are not known, or too old."""
        return self._now

    @property
    def revision(self) -> int:
        """Grows with each change of ``now``."""
        return self._revision.value

    async def changed(self, since: int) -> int:
        """Return once ``revision`` is another than ``since``."""
        return await self._revision.changed(since)

    # -------------------------------------------------------------------------------- for operators

    def warnings(self) -> list[str]:
        """What an operator should know, in sentences."""
        return [sentence for url in sorted(self._wanted()) if (sentence := self._warning(url))]

    def seen(self) -> Mapping[str, float]:
        """When the keys at each URL were last seen there, in seconds since 1970; without those that never were."""
        wanted = self._wanted()
        return {url: each.seen_at.timestamp() for url, each in self._known.items() if url in wanted}

    def failures(self) -> Mapping[str, float]:
        """How often in a row fetching from each URL failed."""
        return {url: each.failures for url, each in self._progress.items()}

    def _warning(self, url: str) -> str:
        progress, known = self._progress.get(url), self._known.get(url)
        if progress is None or progress.problem is None:
            return ""
        why = f"{progress.problem.message} ({progress.problem.code.code})"
        if url in self._now and known is not None:
            since = known.seen_at.isoformat(timespec="seconds")
            return f"the keys at {url} are those of {since}: {why}"
        return f"there are no keys from {url}, and tokens of its issuer are refused: {why}"

    # ------------------------------------------------------------------------------- staying fresh

    def load(self) -> None:
        """What is kept from before, so that an issuer that is away while the server starts is no reason to refuse."""
        for each in self._keeping.read():
            if self._is_over(each):
                self._keeping.forget(each)
            else:
                self._known[each.url] = each
                self._written[each.url] = each.seen_at
        self._settle()

    async def run(self) -> None:
        """Fetch what is due, from every URL that is wanted."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    seen = self._changed.value
                    self._reconcile(group)
                    self._settle()
                    await self._changed.changed(seen)
        finally:
            self._tasks = {}

    def _reconcile(self, group: asyncio.TaskGroup) -> None:
        wanted = self._wanted()
        for url in self._tasks.keys() - wanted:
            self._tasks.pop(url).cancel()
            self._progress.pop(url, None)
        for url in sorted(wanted - self._tasks.keys()):
            self._tasks[url] = group.create_task(self._poll(url), name=f"issuer-keys-{url}")

    def _settle(self) -> None:
        """Tell those who verify, if anything is new to them."""
        wanted = self._wanted()
        now = {
            url: each.keys
            for url, each in sorted(self._known.items())
            if url in wanted and not self._is_over(each)
        }
        if now != self._now:
            self._now = MappingProxyType(now)
            self._revision.bump()

    def _is_over(self, kept: KeptKeys) -> bool:
        # Also of an instant that has not come: a clock was wrong then, or is now.
        return abs(self._clock.now() - kept.seen_at) > self._lasts

    async def _poll(self, url: str) -> None:
        while True:
            async with self._slots:
                await self._attempt(url)
            self._settle()
            await self._clock.sleep_until(self._progress[url].next_at)

    async def _attempt(self, url: str) -> None:
        """Fetch once, and note how it went."""
        before = self._progress.get(url)
        try:
            fetched, left_out = await self._fetch(url)
        except VestibuleError as error:
            failures = before.failures + 1 if before else 1
            if before is None or before.problem is None or before.problem.code is not error.code:
                _log.warning("no fresh keys from %s: %s (%s)", url, error, error.advice)
                await self._record_refusal(url, error)
            rest = pause(None, failures, self._jitter())
            self._progress[url] = Progress(next_at=self._clock.now() + rest, failures=failures, problem=error)
            return
        if before is not None and before.failures:
            _log.info("the keys from %s are fresh again", url)
        if left_out and (before is None or before.left_out != left_out):
            _log.info("of the keys from %s some are of no use here: %s", url, "; ".join(left_out[:10]))
        rest = pause(fetched.fresh, 0, self._jitter())
        self._progress[url] = Progress(next_at=self._clock.now() + rest, left_out=left_out)

    async def _fetch(self, url: str) -> tuple[Fetched, tuple[str, ...]]:
        """Fetch a set and take it, if it is one.

        1. Only what of it is of use counts; a set without any such key is none.
        2. Other keys than before are put on record, and count from then on.
        3. They outlive a restart.

        Raises: VST6140, VST6141, VST234n, VST8100 (2).
        """
        known, now = self._known.get(url), self._clock.now()
        fetched = await self._endpoints.fetch(url, known.etag if known else "")
        if fetched.document is None:
            assert known is not None
            before = self._progress.get(url)
            await self._take(replace(known, seen_at=now))
            return fetched, before.left_out if before else ()
        found = published(fetched.document)  # 1
        if not found.keys:
            raise KEY_SET_ANSWER.error(f"what {url} answers with {found.why}")
        if known is None or known.keys != found.keys:
            await self._audit.record([_taken(url, found, known)])  # 2
        kept = KeptKeys(url=url, keys=found.keys, ids=found.ids, etag=fetched.etag, seen_at=now)
        await self._take(kept)
        return fetched, found.left_out

    async def _take(self, kept: KeptKeys) -> None:
        known, written = self._known.get(kept.url), self._written.get(kept.url)
        self._known[kept.url] = kept
        is_news = known is None or known.keys != kept.keys
        if is_news or written is None or kept.seen_at - written > self._lasts / 24:
            try:
                await self._keeping.keep(kept)  # 3
            except OSError as error:
                _log.error("the keys from %s would not outlive a restart: %s", kept.url, error)
            else:
                self._written[kept.url] = kept.seen_at

    async def _record_refusal(self, url: str, error: VestibuleError) -> None:
        if error.code.fault is not Fault.PEER:
            return
        # That an issuer gives what is none is worth a record, but nothing depends on it.
        details = {"code": error.code.code, "reason": error.message}
        event = AuditEvent(
            actor=_ACTOR, action="issuer-keys.fetch", subject=url, outcome="refused", details=details
        )
        with suppress(VestibuleError):
            await self._audit.record([event])


def _taken(url: str, found: Published, before: KeptKeys | None) -> AuditEvent:
    known = set(before.ids) if before else set[str]()
    return AuditEvent(
        actor=_ACTOR,
        action="issuer-keys.fetch",
        subject=url,
        details={
            "keys": ", ".join(found.ids),
            "new": ", ".join(sorted(set(found.ids) - known)),
            "gone": ", ".join(sorted(known - set(found.ids))),
        },
    )
