"""The workload's tokens, kept current, and the keys that the tokens of others are verified with."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, TypeVar

from grpclib.client import Channel

from vestibule.calls.workload_api import WorkloadApi
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.pki.revocation import revoked_token, verify_unrevoked_token
from vestibule.sdk.codes import NO_BUNDLE, NO_SVID
from vestibule.sdk.entering import PATIENCE, Source
from vestibule.sdk.following import Following
from vestibule.spiffe import JwtSvid, SpiffeId, TrustBundle, TrustDomain

RENEW_AT: Final = 1 / 2
"""Of what a token had left when it came: from then on another one is got in the background."""

MARGIN: Final = timedelta(seconds=10)
LAST: Final = 1 / 10
"""So long before its end, or the last tenth of its life, nobody starts a request with a token."""

RETRY: Final = timedelta(seconds=5)
MOST: Final = 256
"""Tokens that are kept; beyond, those that were not used for the longest are forgotten."""

_Asked: TypeAlias = tuple[frozenset[str], SpiffeId | None]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Kept:
    """A token that came, and when."""

    def __init__(self, svid: JwtSvid, came: datetime) -> None:
        self.svid = svid
        life = max(svid.expires_at - came, timedelta())
        self.renew = came + life * RENEW_AT
        self.last = svid.expires_at - min(MARGIN, life * LAST)


class JwtSource(Source):
    """JWT-SVIDs for whom this process calls, and the word on those that it is shown.

    ``async with`` or ``with``, like ``X509Source``.  Entering waits for the trust bundles, at most ``patience``
    seconds; they are followed from then on, and so is what is revoked, where the agent tells.  ``spiffe_id`` chooses
    among several identities; the default one is used unless given.

    A token is asked for once per audience, kept, and replaced in the background before it ends; while the agent is
    away, it stays good until then.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        spiffe_id: SpiffeId | str | None = None,
        patience: float = PATIENCE,
        clock: Clock | None = None,
    ) -> None:
        """``address`` as for ``fetch_jwt_svid``.  Raises: VST2400, VST2401, VST2310, VST1400."""
        self._spiffe_id = SpiffeId.parse(str(spiffe_id)) if spiffe_id is not None else None
        super().__init__(address, patience, clock)

    def _clear(self) -> None:
        super()._clear()
        self._following = Following[tuple[TrustBundle, ...]](
            self.endpoint, WorkloadApi.watch_jwt_bundles, self._changed
        )
        self._kept: OrderedDict[_Asked, _Kept] = OrderedDict()
        self._flights: dict[_Asked, asyncio.Task[JwtSvid]] = {}
        self._not_before: dict[_Asked, datetime] = {}
        self._channel: Channel | None = None

    # ----------------------------------------------------------------------------------- our own

    async def fetch(self, *audience: str) -> JwtSvid:
        """A token for ``audience`` that lasts; in any event loop.

        Raises: VST2402 (not entered), VST2412, VST2413, VST2300 (the agent does not answer within ``patience``
        seconds), and what the Workload API refuses with, such as VST2105 (no identity).
        """
        loop = self._entered_loop()
        if asyncio.get_running_loop() is loop:
            return await self._fetched(audience)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._fetched(audience), loop))

    def fetch_blocking(self, *audience: str) -> JwtSvid:
        """As ``fetch``, for code that blocks; from any thread but that of the loop which follows."""
        loop = self._entered_loop()
        if _running_loop() is loop:
            raise RuntimeError("in the event loop of the source, await fetch() instead")
        return asyncio.run_coroutine_threadsafe(self._fetched(audience), loop).result()

    async def _fetched(self, audience: tuple[str, ...]) -> JwtSvid:
        asked = (frozenset(audience), self._spiffe_id)
        kept, now = self._kept.get(asked), self._clock.now()
        if kept is None or now >= kept.last or revoked_token(self.revocations, kept.svid, now):
            # Whoever stops waiting does not take it from the others.
            return await asyncio.shield(self._flight(asked))
        self._kept.move_to_end(asked)
        if now >= kept.renew and now >= self._not_before.get(asked, now):
            self._flight(asked)
        return kept.svid

    def _flight(self, asked: _Asked) -> asyncio.Task[JwtSvid]:
        task = self._flights.get(asked)
        if task is None:
            task = self._flights[asked] = asyncio.create_task(self._asked(asked), name="jwt-source-fetch")
            task.add_done_callback(lambda done: self._landed(asked, done))
        return task

    async def _asked(self, asked: _Asked) -> JwtSvid:
        if self._channel is None:
            self._channel = self.endpoint.channel()
        try:
            async with asyncio.timeout(self._patience):
                svids = await WorkloadApi(self._channel).fetch_jwt_svids(sorted(asked[0]), asked[1])
        except TimeoutError as error:
            raise UNREACHABLE.error(f"{self.endpoint} did not answer within {self._patience:g} s") from error
        kept = self._kept[asked] = _Kept(svids[0], self._clock.now())
        self._kept.move_to_end(asked)
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return kept.svid

    def _landed(self, asked: _Asked, done: asyncio.Task[JwtSvid]) -> None:
        self._flights.pop(asked, None)
        self._not_before.pop(asked, None)
        if done.cancelled() or (error := done.exception()) is None:
            return
        if asked in self._kept:
            self._not_before[asked] = self._clock.now() + RETRY
            _log.warning("a token that ends soon is not replaced yet: %s", error)

    # ----------------------------------------------------------------------------------- those of others

    def validate(self, token: str, *audience: str) -> JwtSvid:
        """What ``token`` proves to (any of) ``audience``, verified here; from any thread, without a call.

        Raises: VST1012 (no JWT-SVID), VST1013 (key or signature), VST1014 (audience), VST1015 (time), VST1020
        (revoked), VST2402 (there are no bundles), VST2412, VST2413.
        """
        trusted = {bundle.trust_domain: bundle for bundle in self.bundles}
        return verify_unrevoked_token(token, audience, trusted.get, self._clock.now(), self.revocations)

    @property
    def bundles(self) -> tuple[TrustBundle, ...]:
        """The keys that tokens of each trust domain are verified with.  Raises: VST2402, VST2412, VST2413."""
        self._check()
        if (bundles := self._following.value) is None:
            why = self.problem.message if self.problem else "the source was not entered"
            raise NO_SVID.error(f"there are no trust bundles: {why}")
        return bundles

    def bundle(self, trust_domain: TrustDomain | str) -> TrustBundle:
        """Those of one trust domain.  Raises: VST2403, VST1400, and as ``bundles``."""
        wanted = TrustDomain.parse(str(trust_domain))
        for bundle in self.bundles:
            if bundle.trust_domain == wanted:
                return bundle
        raise NO_BUNDLE.error(f"the Workload API gave no trust bundle of {wanted}")

    @property
    def problem(self) -> VestibuleError | None:
        """Why the Workload API is not being followed right now; None while it is."""
        return self._following.problem

    # ----------------------------------------------------------------------------------- following

    def _entered_loop(self) -> asyncio.AbstractEventLoop:
        self._check()
        if self._loop is None:
            raise NO_SVID.error("there are no tokens: the source was not entered")
        return self._loop

    def _jobs(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        return {"jwt": self._following.run(), "jwt-tokens": self._tidy()}

    @property
    def _is_ready(self) -> bool:
        return self._following.value is not None

    async def _tidy(self) -> None:
        """Holds the flights: whoever leaves the source leaves none behind."""
        try:
            await asyncio.Event().wait()
        finally:
            flights = list(self._flights.values())
            for each in flights:
                each.cancel()
            if flights:
                await asyncio.wait(flights)
            if self._channel is not None:
                self._channel.close()
                self._channel = None

    def _lose(self) -> None:
        self._kept.clear()
        self._not_before.clear()
        self._following.become(None)

    def _changed(self) -> None:
        if self._following.value is None:
            # Not entitled to anything any more: what was held is not shown again.
            self._kept.clear()
        super()._changed()

    def _on_revocations(self) -> None:
        """Looked at whenever a token is used."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
