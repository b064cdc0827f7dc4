"""Stands between the Envoys of this node and the server: they get their configuration from here, also when the
server is away.

For each proxy there is one stream upstream while its Envoy is connected.  What the server sends is handed on at
once; what Envoy answers is answered upstream, refusals with Envoy's own words.  What Envoy took last is sealed on
disk, so that an Envoy that starts during an outage, beside an agent that started during it, still gets it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

from vestibule.agent.keeping_snapshots import Files
from vestibule.agent.kept_snapshots import KeptSnapshots
from vestibule.errors import VestibuleError
from vestibule.xds.client import Change, DeltaClient
from vestibule.xds.messages import DeltaRequest, DeltaResponse, Event, Settled
from vestibule.xds.relayed import Answer, Relayed
from vestibule.xds.resources import DECISIONS, RELAYED_TYPES, ProxyKey, Resource, Snapshot

RETRY_FIRST: Final = 0.2
RETRY_LONGEST: Final = 5.0
LINGER: Final = 5.0
"""Seconds for which the stream upstream outlives the last Envoy, which may be restarting."""

_log = logging.getLogger(__name__)


class UpstreamStream(Protocol):
    """An open ADS stream to the server."""

    async def send(self, request: DeltaRequest) -> None: ...

    def send_at_once(self, request: DeltaRequest) -> bool:
        """Send without waiting; False if that cannot be."""
        ...

    async def each(self, take: Callable[[DeltaResponse], bool]) -> DeltaResponse | None:
        """Call ``take`` with every response; returns the first that it does not take, None at the end of the stream.

        ``take`` may be asked twice about one that it does not take.
        """
        ...


class AdsUpstream(Protocol):
    """Opens streams to the server (``calls.ads``)."""

    def open(self, proxy: ProxyKey) -> AbstractAsyncContextManager[UpstreamStream]:
        """Raises: VestibuleError when the server is away or refuses, on entry, use or exit."""
        ...


class Relay:
    """The proxies of this node.  ``run`` must be running; doors call ``attach`` for each stream of an Envoy."""

    def __init__(
        self,
        upstream: AdsUpstream,
        kept: KeptSnapshots,
        *,
        types: Iterable[str] = RELAYED_TYPES,
        linger: float = LINGER,
    ) -> None:
        self.prepare: Callable[[list[Resource]], None] = lambda _: None
        """Called in a thread with policies for the decision service, before what needs them is handed on."""
        self.revise: Callable[[Snapshot], Snapshot] = lambda kept: kept
        """Called in a thread with what was kept, which may be older than what else is known."""
        self._upstream = upstream
        self._kept = kept
        self._types = tuple(types)
        self._linger = linger
        self._lines: dict[ProxyKey, _Line] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._files = Files(kept)
        self._expected: set[ProxyKey] = set()

    async def run(self) -> None:
        """Keep the streams upstream, until cancelled."""
        await asyncio.to_thread(self._kept.prune)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._files.run(), name="relay files")
            for line in self._lines.values():
                self._start(line)
            await asyncio.Event().wait()

    @asynccontextmanager
    async def attach(self, proxy: ProxyKey) -> AsyncIterator[Feed]:
        """What an Envoy's stream is served from, until the block is left."""
        line = self._lines.get(proxy) or self._open(proxy, await asyncio.to_thread(self._load, proxy))
        if not line.feeds:
            line.is_another()
        feed = Feed(line)
        line.feeds.add(feed)
        try:
            yield feed
        finally:
            line.feeds.discard(feed)
            if line.feeds:
                # An Envoy that was replaced is gone.
                line.is_another()
            else:
                asyncio.get_running_loop().call_later(self._linger, self._close_if_idle, line)

    async def watch(self, proxy: ProxyKey) -> AsyncIterator[Snapshot]:
        """The proxy's snapshots without a say in them (``SnapshotSource``)."""
        async with self.attach(proxy) as feed:
            async for snapshot in feed.snapshots():
                yield snapshot

    def expect(self, proxy: ProxyKey) -> None:
        """Take up what is kept for a proxy now; its Envoy will ask for it in a moment, others ask already."""
        if self._tasks is None or proxy in self._lines or proxy in self._expected:
            return
        self._expected.add(proxy)
        self._tasks.create_task(self._take_up(proxy), name=f"take up {proxy.instance_id}")

    async def _take_up(self, proxy: ProxyKey) -> None:
        try:
            async with self.attach(proxy):
                pass
        finally:
            self._expected.discard(proxy)

    def holdings(self, proxy: ProxyKey) -> Snapshot | None:
        """What a connected or expected proxy should have now; None for others."""
        line = self._lines.get(proxy)
        return None if line is None else line.relayed.snapshot

    def forget(self, proxy: ProxyKey) -> None:
        """The instance is gone for good: nothing of it is kept."""
        if (line := self._lines.pop(proxy, None)) is not None:
            line.stop()
        self._files.forget(proxy)

    def _open(self, proxy: ProxyKey, kept: Snapshot | None) -> _Line:
        if (line := self._lines.get(proxy)) is None:
            line = self._lines[proxy] = _Line(
                proxy, self._types, kept, self._upstream, self._files, lambda found: self.prepare(found)
            )
            if self._tasks is not None:
                self._start(line)
        return line

    def _load(self, proxy: ProxyKey) -> Snapshot | None:
        try:
            kept = self._kept.load(proxy)
        except (VestibuleError, OSError) as error:
            _log.warning("the configuration kept for %s is of no use: %s", proxy.spiffe_id, error)
            return None
        if kept is not None:
            kept = self.revise(kept)
            self.prepare(list(kept.of_type(DECISIONS).values()))
        return kept

    def _start(self, line: _Line) -> None:
        assert self._tasks is not None
        line.task = self._tasks.create_task(line.run(), name=f"relay {line.proxy.instance_id}")

    def _close_if_idle(self, line: _Line) -> None:
        if not line.feeds and self._lines.get(line.proxy) is line:
            del self._lines[line.proxy]
            line.stop()


class Feed:
    """What one stream of an Envoy is served from, and where its outcomes go."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self.news = asyncio.Event()
        self.news.set()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """The snapshot as soon as there is one, then every newer one; skipped ones are not made up for."""
        last: Snapshot | None = None
        while True:
            await self.news.wait()
            self.news.clear()
            snapshot = self._line.relayed.snapshot
            if snapshot is not None and snapshot is not last:
                last = snapshot
                yield snapshot

    def note(self, event: Event) -> None:
        """Something happened on the Envoy's stream."""
        if isinstance(event, Settled):
            self._line.settled(event)


class _Line:
    """One proxy: its state, its stream upstream, its file."""

    def __init__(
        self,
        proxy: ProxyKey,
        types: tuple[str, ...],
        kept: Snapshot | None,
        upstream: AdsUpstream,
        files: Files,
        prepare: Callable[[list[Resource]], None],
    ) -> None:
        self._prepare = prepare
        self.proxy = proxy
        self.relayed = Relayed(types, kept)
        self.feeds: set[Feed] = set()
        self.task: asyncio.Task[None] | None = None
        self._client = DeltaClient(types, node_id=proxy.instance_id)
        self._upstream = upstream
        self._files = files
        self._heard = False
        self._answerable = asyncio.Event()
        self._afresh = asyncio.Event()
        self._unsent: list[Answer] = []
        self._stream: UpstreamStream | None = None

    def settled(self, event: Settled) -> None:
        before = self.relayed.snapshot
        if self.relayed.note(event):
            self._files.keep(self.proxy, self.relayed)
            if self.relayed.snapshot is not before:
                self._tell_feeds()
        self._tell_upstream()

    def is_another(self) -> None:
        """The Envoy may be another than before, which may take what that one refused: it is asked for again."""
        if self.relayed.forgive():
            self._afresh.set()

    def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self) -> None:
        """Stay connected."""
        pause, away = RETRY_FIRST, False
        while True:
            self._heard = False
            try:
                async with self._upstream.open(self.proxy) as stream:
                    await self._converse(stream)
            except VestibuleError as error:
                log = _log.debug if away and not self._heard else _log.warning
                log("no configuration from the server for %s: %s", self.proxy.spiffe_id, error)
            except Exception:  # noqa: BLE001 - what one proxy brings to light must not end the others' agent
                _log.exception("the stream to the server for %s failed", self.proxy.spiffe_id)
            away = not self._heard
            pause = RETRY_FIRST if self._heard else min(pause * 2, RETRY_LONGEST)
            # Agents that lost the server together do not come back together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load only

    async def _converse(self, stream: UpstreamStream) -> None:
        """Hand on what comes and answer what was judged, until the server ends the stream or it is to begin anew."""
        self._afresh.clear()
        for request in self._client.opening(self.relayed.begin()):
            await stream.send(request)
        talks = (
            asyncio.create_task(self._listen(stream), name="relay changes"),
            asyncio.create_task(self._answer(stream), name="relay answers"),
            asyncio.create_task(self._afresh.wait(), name="relay afresh"),
        )
        try:
            done, _ = await asyncio.wait(talks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stream = None
            for task in talks:
                task.cancel()
            await asyncio.gather(*talks, return_exceptions=True)

    async def _listen(self, stream: UpstreamStream) -> None:
        while (response := await stream.each(self._take_at_once)) is not None:
            self._heard = True
            await self._take(stream, response)

    def _take_at_once(self, response: DeltaResponse) -> bool:
        """What needs nobody else; whether it did."""
        if response.type_url == DECISIONS and response.resources:
            return False
        try:
            change = self._client.read(response)
        except VestibuleError:
            return False
        self._heard = True
        self._hand_on(change)
        return True

    async def _take(self, stream: UpstreamStream, response: DeltaResponse) -> None:
        try:
            change = self._client.read(response)
        except VestibuleError as error:
            _log.warning("refused a response of the server: %s", error)
            await stream.send(self._client.refuse(response.type_url, response.nonce, error.message))
            return
        if change.type_url == DECISIONS and change.resources:
            await asyncio.to_thread(self._prepare, list(change.resources.values()))
        self._hand_on(change)

    def _hand_on(self, change: Change) -> None:
        self.relayed.receive(change)
        self._tell_feeds()
        self._tell_upstream()

    async def _answer(self, stream: UpstreamStream) -> None:
        self._unsent = []
        self._stream = stream
        while True:
            await self._answerable.wait()
            while self._unsent or self.relayed.has_answers:
                self._unsent += self.relayed.take_answers()
                await stream.send(self._request(self._unsent[0]))
                del self._unsent[0]
            self._answerable.clear()

    def _request(self, answer: Answer) -> DeltaRequest:
        if answer.error is None:
            return self._client.accept(answer.type_url, answer.nonce)
        return self._client.refuse(answer.type_url, answer.nonce, answer.error)

    def _tell_upstream(self) -> None:
        """At once, if nobody has to wait for it; else ``_answer`` does."""
        if not self.relayed.has_answers:
            return
        if self._stream is None or self._answerable.is_set():
            self._answerable.set()
            return
        self._unsent = self.relayed.take_answers()
        while self._unsent and self._stream.send_at_once(self._request(self._unsent[0])):
            del self._unsent[0]
        if self._unsent:
            self._answerable.set()

    def _tell_feeds(self) -> None:
        for feed in self.feeds:
            feed.news.set()
