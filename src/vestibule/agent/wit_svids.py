"""WIT-SVIDs for this node's workloads: each with a key of its own, renewed at half of its life.

As with certificates the agent makes the key, and the server sees its public half alone.  Tokens and keys live in memory
only; one whose authority is tainted or has left the trust bundle is replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final
from weakref import WeakValueDictionary

from vestibule.agent.cache import SvidCache
from vestibule.agent.codes import WIT_NOT_ISSUED, WRONG_SVID
from vestibule.agent.ports import WitUpstream
from vestibule.agent.workloads import Caller, Workloads
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.pki.codes import JWT_NOT_TRUSTED
from vestibule.pki.keys import generate_key, public_key_der
from vestibule.pki.revocation import revoked_token
from vestibule.pki.wit import private_jwk, verify_wit_svid
from vestibule.records import Entry
from vestibule.spiffe import SpiffeId, WitSvid

ALGORITHM: Final = "ES256"
MAX_TOKENS: Final = 1000
"""So many are remembered; the one that was asked for longest ago goes first."""
BUNDLE_PATIENCE: Final = 3.0
"""How many seconds a token whose key we do not know yet waits for the bundle that has it."""
TRY_AGAIN: Final = timedelta(seconds=5)
"""After a failure, as long as there is a token that still holds."""

Choose = Callable[[tuple[Entry, ...]], Sequence[Entry]]
"""Which of its entries a caller asks about.  Raises: VST2105."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HeldWit:
    """A token and the private key that it is bound to, as a JWK."""

    svid: WitSvid
    key: str = field(repr=False)
    renew_at: datetime


@dataclass(frozen=True, slots=True)
class _Wanted:
    entry_id: str
    spiffe_id: SpiffeId
    ttl: timedelta | None
    revision: int


class WitSvids:
    """Hands out tokens with their keys.  Whether the caller may have them is decided in ``agent.workloads``."""

    def __init__(
        self, cache: SvidCache, upstream: WitUpstream, clock: Clock, refresh_bundle: Callable[[], None]
    ) -> None:
        """``refresh_bundle`` asks for the trust bundle to be fetched anew, soon."""
        self._cache = cache
        self._upstream = upstream
        self._clock = clock
        self._refresh_bundle = refresh_bundle
        self._held: OrderedDict[_Wanted, HeldWit] = OrderedDict()
        self._asking: WeakValueDictionary[_Wanted, asyncio.Lock] = WeakValueDictionary()

    async def watch(
        self, workloads: Workloads, caller: Caller, choose: Choose
    ) -> AsyncGenerator[tuple[HeldWit, ...], None]:
        """What a process has: now, and again after every change and renewal, each time all of it.

        Raises: VST2105, VST2106, VST2050, VST2312; VST2113, VST2109, VST1312 if there is nothing to give.
        """
        async with aclosing(workloads.watch_entitlement(caller)) as changes:
            news = asyncio.ensure_future(anext(changes))
            last: tuple[HeldWit, ...] = ()
            try:
                entries, _ = await news
                news = asyncio.ensure_future(anext(changes))
                while True:
                    held, due = await self._all(choose(entries))
                    if held != last:
                        last = held
                        yield held
                    await self._until(news, due)
                    if news.done():
                        entries, _ = news.result()
                        news = asyncio.ensure_future(anext(changes))
            finally:
                news.cancel()
                await asyncio.gather(news, return_exceptions=True)

    async def _until(self, news: asyncio.Future[Any], due: datetime) -> None:
        timer = asyncio.ensure_future(self._clock.sleep_until(due))
        waits: set[asyncio.Future[Any]] = {news, timer}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    async def _all(self, entries: Sequence[Entry]) -> tuple[tuple[HeldWit, ...], datetime]:
        """Tokens for entries, and when to look again; those that cannot be had now are left out, if not all are."""
        found: list[HeldWit] = []
        dues: list[datetime] = []
        failure: VestibuleError | None = None
        for entry in entries:
            try:
                held = await self.fetch(entry)
            except VestibuleError as error:
                if error.code.kind is Kind.UNIMPLEMENTED:
                    raise
                failure = error
            else:
                found.append(held)
                dues.append(held.renew_at)
        if failure is not None and not found:
            raise failure
        again = self._clock.now() + TRY_AGAIN
        # What is past its renewal, or missing, could not be had just now.
        late = failure is not None or any(due <= self._clock.now() for due in dues)
        return tuple(found), min([*dues, again]) if not late else again

    async def fetch(self, entry: Entry) -> HeldWit:
        """A token of the entry's identity, good for at least half of its life if possible.

        Raises: VST2113 (the server is away or refuses), VST2109 (its answer is wrong), VST1312 (it issues none).
        """
        wanted = _Wanted(entry.id, entry.spiffe_id, entry.x509_svid_ttl, entry.revision)
        lock = self._asking.setdefault(wanted, asyncio.Lock())
        async with lock:  # of many who ask at once, one asks the server
            held = await self._answer(wanted)
        return replace(held, svid=replace(held.svid, hint=entry.hint))

    async def _answer(self, wanted: _Wanted) -> HeldWit:
        kept = self._usable(wanted)
        if kept is not None and self._clock.now() < kept.renew_at:
            return kept
        try:
            held = await self._new(wanted)
        except VestibuleError as error:
            if kept is not None and self._usable(wanted) is not None:
                _log.debug("no newer WIT-SVID for %s: %s", wanted.spiffe_id, error)
                return kept
            if error.code.kind is Kind.UNIMPLEMENTED or error.code is WRONG_SVID:
                raise
            raise WIT_NOT_ISSUED.error(f"no WIT-SVID for {wanted.spiffe_id}: {error.message}") from error
        self._held[wanted] = held
        self._held.move_to_end(wanted)
        while len(self._held) > MAX_TOKENS:
            self._held.popitem(last=False)
        return held

    def _usable(self, wanted: _Wanted) -> HeldWit | None:
        kept, bundle, now = self._held.get(wanted), self._cache.bundle, self._clock.now()
        if kept is None or bundle is None or kept.svid.expires_at <= now:
            return None
        trusted = (each for each in bundle.wit_authorities if not each.tainted)
        if all(each.key_id != kept.svid.key_id for each in trusted):
            del self._held[wanted]
            return None
        if revoked_token(self._cache.revocations, kept.svid, now) is not None:
            del self._held[wanted]
            return None
        self._held.move_to_end(wanted)
        return kept

    async def _new(self, wanted: _Wanted) -> HeldWit:
        key = generate_key()
        public_key = public_key_der(key.public_key())
        token = await self._upstream.new_wit_svid(wanted.entry_id, public_key, ALGORITHM)
        try:
            svid = self._checked(token, wanted, public_key)
        except VestibuleError as error:
            if error.code is not JWT_NOT_TRUSTED:
                raise _wrong(error) from error
            # The server may have begun to sign with a key that we have not been told of yet.
            await self._next_bundle()
            try:
                svid = self._checked(token, wanted, public_key)
            except VestibuleError as still:
                raise _wrong(still) from still
        now = self._clock.now()
        return HeldWit(svid, private_jwk(key, ALGORITHM), now + (svid.expires_at - now) / 2)

    async def _next_bundle(self) -> None:
        before = self._cache.now.bundle
        self._refresh_bundle()
        try:
            async with asyncio.timeout(BUNDLE_PATIENCE):
                while self._cache.now.bundle == before:
                    await self._cache.changed.after(self._cache.changed.version)
        except TimeoutError:
            return

    def _checked(self, token: str, wanted: _Wanted, public_key: bytes) -> WitSvid:
        """The token, if it is what was asked for, bound to our key, and valid under our bundle."""
        bundle = self._cache.bundle
        svid = verify_wit_svid(token, lambda _: bundle, self._clock.now())
        if svid.spiffe_id != wanted.spiffe_id:
            raise WRONG_SVID.error(
                f"the server returned a WIT-SVID of {svid.spiffe_id} for {wanted.spiffe_id}"
            )
        if svid.public_key != public_key or svid.algorithm != ALGORITHM:
            raise WRONG_SVID.error(f"the server returned a WIT-SVID of {svid.spiffe_id} for another key")
        return svid


def _wrong(error: VestibuleError) -> VestibuleError:
    if error.code is WRONG_SVID:
        return error
    return WRONG_SVID.error(f"the server's answer is not a valid WIT-SVID: {error.message}")
