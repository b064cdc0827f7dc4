"""The workload's X.509 identity, kept current."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.calls.revocations import RevocationFeed
from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.clock import Clock, SystemClock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.pki.revocation import revoked
from vestibule.sdk.codes import NO_BUNDLE, NO_SVID
from vestibule.sdk.connections import ConnectionBook, Lifetimes
from vestibule.sdk.endpoint import Endpoint
from vestibule.spiffe import Revocations, TrustBundle, TrustDomain, X509Svid

PAUSE_FIRST: Final = 0.1
PAUSE_LONGEST: Final = 10.0
PATIENCE: Final = 30.0
"""Seconds that entering a source waits for the first SVID, unless told otherwise."""

LIST_PATIENCE: Final = 2.0
"""Seconds that entering a source waits, with an SVID in hand, for what is revoked."""

_ANY_TIME: Final = datetime.min.replace(tzinfo=UTC)
_HOPELESS: Final = frozenset({Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED})
_log = logging.getLogger(__name__)


async def fetch_x509_context(address: str | None = None, *, timeout: float = PATIENCE) -> X509Context:
    """What the calling process has now: one question, one answer.

    ``address`` is that of the Workload API, the value of ``SPIFFE_ENDPOINT_SOCKET`` unless given.
    Raises: VST2400 and VST2401 (address), VST2300 (nothing answers within ``timeout`` seconds), VST2332 (the
    answer breaks the standard), and what the Workload API refuses with, such as VST2105 (no identity).
    """
    endpoint = Endpoint.find(address)
    channel = endpoint.channel()
    try:
        async with asyncio.timeout(timeout):
            return await WorkloadApi(channel).fetch()
    except TimeoutError as error:
        raise UNREACHABLE.error(f"{endpoint} did not answer within {timeout:g} s") from error
    finally:
        channel.close()


def first_svid(svids: Sequence[X509Svid]) -> X509Svid:
    """The default identity (SPIFFE_Workload_API.md, section 8)."""
    return svids[0]


class X509Source:
    """The newest SVID and trust bundles of this process, for as long as the block is entered.

    Entering waits for the first answer, at most ``patience`` seconds.  From then on every answer of the
    Workload API is followed; while it is away, the source connects again, with growing pauses, and what it
    holds stays good until it expires.  ``pick`` chooses among several SVIDs (by ``hint``, perhaps).

    A Vestibule agent also tells what is revoked, within a second; contexts of this package refuse such peers.  While
    the agent is away, its last list holds.  Other agents tell nothing: ``revocations`` is empty then.

    ``context``, ``svid``, ``bundle`` and ``revocations`` may be used from any thread.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        patience: float = PATIENCE,
        pick: Callable[[Sequence[X509Svid]], X509Svid] = first_svid,
        lifetimes: Lifetimes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``address`` as for ``fetch_x509_context``.  Raises: VST2400, VST2401, VST2310."""
        self.endpoint = Endpoint.find(address)
        self._patience = patience
        self._pick = pick
        self._clock = clock or SystemClock()
        self._context: X509Context | None = None
        self._version = 0
        self._next = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._problem: VestibuleError | None = None
        self._revocations = Revocations()
        self._listing: asyncio.Task[None] | None = None
        self._listed = asyncio.Event()
        self.connections = ConnectionBook(self, lifetimes=lifetimes, clock=self._clock)
        """Those that were made with what this source holds, and are to be retired in time."""
        self._guarding: asyncio.Task[None] | None = None

    # ----------------------------------------------------------------------------------- reading

    @property
    def context(self) -> X509Context:
        """Everything that the Workload API said last.  Raises: VST2402."""
        context = self._context
        if context is None:
            why = self._problem.message if self._problem else "the source was not entered"
            raise NO_SVID.error(f"there is no SVID: {why}")
        return context

    @property
    def svid(self) -> X509Svid:
        """The SVID to show to others; never one that has expired or is revoked.  Raises: VST2402."""
        svid = self._pick(self.context.svids)
        if (revocation := revoked(self._revocations, svid.chain, _ANY_TIME)) is not None:
            raise NO_SVID.error(f"the SVID of {svid.spiffe_id} does not count any more: {revocation}")
        if svid.not_after <= self._clock.now():
            why = f" ({self._problem.message})" if self._problem else ""
            raise NO_SVID.error(
                f"the SVID of {svid.spiffe_id} expired at {svid.not_after.isoformat()}, and no other came{why}"
            )
        return svid

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle:
        """What SVIDs of a trust domain are verified against.  Raises: VST2403, VST2402, VST1400."""
        wanted = TrustDomain.parse(str(trust_domain))
        for bundle in self.context.bundles:
            if bundle.trust_domain == wanted:
                return bundle
        raise NO_BUNDLE.error(f"the Workload API gave no trust bundle of {wanted}")

    @property
    def revocations(self) -> Revocations:
        """What is revoked, as far as the agent told."""
        return self._revocations

    @property
    def version(self) -> int:
        """Grows with every change of what the source holds."""
        return self._version

    @property
    def problem(self) -> VestibuleError | None:
        """Why the Workload API is not being followed right now; None while it is."""
        return self._problem

    async def changes(self) -> AsyncIterator[X509Context]:
        """What the source holds: now, and after every change, until the source is left.

        A slow reader misses what was replaced meanwhile, never the newest.
        """
        seen = -1
        while self._watching is not None:
            waiter = self._next
            if seen != self._version:
                seen = self._version
                if self._context is not None:
                    yield self._context
                    continue
            await waiter.wait()

    # ----------------------------------------------------------------------------------- following

    async def __aenter__(self) -> Self:
        """Raises: VST2402 when no SVID came in time, with the reason; what no waiting would mend, at once."""
        if self._watching is not None:
            raise RuntimeError("a source is entered once at a time")
        self._watching = asyncio.create_task(self._watch(), name="x509-source")
        self._guarding = asyncio.create_task(self.connections.run(), name="x509-source-connections")
        self._listed.clear()
        self._listing = asyncio.create_task(self._follow_revocations(), name="x509-source-revocations")
        try:
            await self._first()
            await self._first_list()
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = await self._leave()
        if failure is not None and error is None:
            raise failure

    async def _leave(self) -> BaseException | None:
        """Stop; what went wrong in the background, which would be a bug."""
        watching, self._watching = self._watching, None
        listing, self._listing = self._listing, None
        guarding, self._guarding = self._guarding, None
        tasks = [each for each in (watching, listing, guarding) if each is not None]
        for each in tasks:
            each.cancel()
        await asyncio.wait(tasks)
        self._become(None)
        for each in tasks:
            if not each.cancelled() and (failure := each.exception()) is not None:
                return failure
        return None

    async def _first(self) -> None:
        assert self._watching is not None
        try:
            async with asyncio.timeout(self._patience):
                while self._context is None:
                    waiter = asyncio.create_task(self._next.wait())
                    await asyncio.wait({waiter, self._watching}, return_when=asyncio.FIRST_COMPLETED)
                    waiter.cancel()
                    if self._watching.done():
                        await self._watching
        except TimeoutError as error:
            why = self._problem.message if self._problem else f"{self.endpoint} does not answer"
            advice = self._problem.advice if self._problem else None
            raise NO_SVID.error(f"no SVID within {self._patience:g} s: {why}", advice=advice) from (
                self._problem or error
            )

    async def _first_list(self) -> None:
        """So that no peer is met before it is known whether it is revoked; but an agent may not tell that at all."""
        try:
            async with asyncio.timeout(LIST_PATIENCE):
                await self._listed.wait()
        except TimeoutError:
            _log.warning("%s did not tell yet what is revoked", self.endpoint)

    async def _follow_revocations(self) -> None:
        channel = self.endpoint.channel()
        pause = PAUSE_FIRST
        try:
            while True:
                try:
                    async with aclosing(RevocationFeed(channel).watch(self._revocations.version)) as updates:
                        async for update in updates:
                            now = self._clock.now()
                            after = self._revocations.merged(update.changes, update.version, now)
                            if after is not self._revocations:
                                self._revocations = after
                                self.connections.changed()
                            pause = PAUSE_FIRST
                            if not update.more:
                                self._listed.set()
                except VestibuleError as error:
                    if _status(error) is Status.UNIMPLEMENTED:
                        _log.info("%s does not tell what is revoked", self.endpoint)
                        return
                    _log.debug("not following what is revoked: %s", error)
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load, hides nothing
                pause = min(pause * 2, PAUSE_LONGEST)
        finally:
            self._listed.set()
            channel.close()

    async def _watch(self) -> None:
        channel = self.endpoint.channel()
        pause = PAUSE_FIRST
        try:
            while True:
                version = self._version
                try:
                    await self._follow(WorkloadApi(channel))
                except VestibuleError as error:
                    self._judge(error)
                if self._version != version:
                    pause = PAUSE_FIRST
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - spreads load, hides nothing
                pause = min(pause * 2, PAUSE_LONGEST)
        finally:
            channel.close()

    async def _follow(self, api: WorkloadApi) -> None:
        async with aclosing(api.watch()) as contexts:
            async for context in contexts:
                self._problem = None
                if context != self._context:
                    self._become(context)
        raise UNREACHABLE.error("the Workload API ended the stream")

    def _judge(self, error: VestibuleError) -> None:
        """Go on; go on without an identity; or, before there was any, give up."""
        status = _status(error)
        if status in _HOPELESS and self._context is None:
            raise error
        repeated = self._problem is not None and self._problem.code is error.code
        self._problem = error
        if status is Status.PERMISSION_DENIED and self._context is not None:
            # The workload is not entitled to anything any more (section 5.2.1): what it held is not shown again.
            self._become(None)
        level = logging.DEBUG if repeated else logging.WARNING
        _log.log(level, "%s: %s (%s)", self.endpoint, error, error.advice)

    def _become(self, context: X509Context | None) -> None:
        self._context = context
        self._version += 1
        event, self._next = self._next, asyncio.Event()
        event.set()
        self.connections.changed()


def _status(error: VestibuleError) -> Status | None:
    """How the Workload API refused; None where it did not get as far as that."""
    return error.__cause__.status if isinstance(error.__cause__, GRPCError) else None
