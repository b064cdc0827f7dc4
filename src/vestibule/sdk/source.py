"""The workload's X.509 identity, kept current."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.pki.revocation import revoked
from vestibule.sdk.codes import NO_BUNDLE, NO_SVID
from vestibule.sdk.connections import ConnectionBook, Lifetimes
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.entering import PATIENCE, Source
from vestibule.sdk.following import Following
from vestibule.spiffe import TrustBundle, TrustDomain, X509Svid

_ANY_TIME: Final = datetime.min.replace(tzinfo=UTC)


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


class X509Source(Source):
    """The newest SVID and trust bundles of this process, for as long as the block is entered.

    ``async with`` follows them in tasks of the running event loop; ``with``, for code that blocks, in a background
    thread.  Entering waits for the first answer, at most ``patience`` seconds.  From then on every answer of the
    Workload API is followed; while it is away, the source connects again, with growing pauses, and what it
    holds stays good until it expires.  ``pick`` chooses among several SVIDs (by ``hint``, perhaps).

    A Vestibule agent also tells what is revoked, within a second; contexts of this package refuse such peers.  While
    the agent is away, its last list holds.  Other agents tell nothing: ``revocations`` is empty then.

    ``connections`` is the book of those that were made with what this source holds: it tells who owns them when to
    retire them (``lifetimes``) and when to cut them.

    ``context``, ``svid``, ``bundle``, ``revocations``, ``version``, ``wait`` and ``connections`` may be used from any
    thread; ``changes`` in any event loop.  Contexts of this package may be, too.
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
        self._pick = pick
        self._lifetimes = lifetimes
        super().__init__(address, patience, clock)

    def _clear(self) -> None:
        super()._clear()
        self._following = Following[X509Context](self.endpoint, WorkloadApi.watch, self._changed)
        self.connections = ConnectionBook(self, lifetimes=self._lifetimes, clock=self._clock)

    # ----------------------------------------------------------------------------------- reading

    @property
    def context(self) -> X509Context:
        """Everything that the Workload API said last.  Raises: VST2402, VST2412, VST2413."""
        self._check()
        context = self._following.value
        if context is None:
            why = self.problem.message if self.problem else "the source was not entered"
            raise NO_SVID.error(f"there is no SVID: {why}")
        return context

    @property
    def svid(self) -> X509Svid:
        """The SVID to show to others; never one that has expired or is revoked.  Raises: as ``context``."""
        svid = self._pick(self.context.svids)
        if (revocation := revoked(self.revocations, svid.chain, _ANY_TIME)) is not None:
            raise NO_SVID.error(f"the SVID of {svid.spiffe_id} does not count any more: {revocation}")
        if svid.not_after <= self._clock.now():
            why = f" ({self.problem.message})" if self.problem else ""
            raise NO_SVID.error(
                f"the SVID of {svid.spiffe_id} expired at {svid.not_after.isoformat()}, and no other came{why}"
            )
        return svid

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle:
        """What SVIDs of a trust domain are verified against.  Raises: VST2403, VST1400, and as ``context``."""
        wanted = TrustDomain.parse(str(trust_domain))
        bundles = self.context.bundles
        for bundle in bundles:
            if bundle.trust_domain == wanted:
                return bundle
        held = ", ".join(sorted(str(each.trust_domain) for each in bundles))
        raise NO_BUNDLE.error(f"the Workload API gave no trust bundle of {wanted}, only of {held}")

    @property
    def problem(self) -> VestibuleError | None:
        """Why the Workload API is not being followed right now; None while it is."""
        return self._following.problem

    async def changes(self) -> AsyncIterator[X509Context]:
        """What the source holds: now, and after every change, until the source is left.

        A slow reader misses what was replaced meanwhile, never the newest.
        """
        seen, news = -1, self._news.listen()
        while self._tasks:
            news.event.clear()
            if seen != self._version:
                seen = self._version
                if (context := self._following.value) is not None:
                    yield context
                    continue
            await news.event.wait()

    # ----------------------------------------------------------------------------------- following

    def _jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {"x509": self._following.run(), "connections": self.connections.run()}

    @property
    def _is_ready(self) -> bool:
        return self._following.value is not None

    def _lose(self) -> None:
        self._following.become(None)

    def _changed(self) -> None:
        super()._changed()
        self.connections.changed()

    def _on_revocations(self) -> None:
        self.connections.changed()
