"""JWT-SVIDs for this node's workloads: asked of the server once, handed out until half of their life is over.

A token that is past its half-life is replaced when somebody asks for it; if the server is away, it is served
until it expires.  Tokens live in memory only, and one whose key is tainted or has left the trust bundle is not
served again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from weakref import WeakValueDictionary

from vestibule.agent.cache import SvidCache
from vestibule.agent.codes import JWT_NOT_ISSUED, WRONG_SVID
from vestibule.agent.ports import JwtUpstream
from vestibule.clock import Clock
from vestibule.errors import Kind, VestibuleError
from vestibule.pki.codes import JWT_NOT_TRUSTED
from vestibule.pki.jwt import check_audience
from vestibule.pki.revocation import revoked_token, verify_unrevoked_token
from vestibule.records import Entry
from vestibule.spiffe import JwtSvid, SpiffeId

MAX_TOKENS: Final = 1000
"""So many are remembered; the one that was asked for longest ago goes first."""
BUNDLE_PATIENCE: Final = 3.0
"""How many seconds a token whose key we do not know yet waits for the bundle that has it."""

_AS_THEY_ARE: Final = (Kind.UNIMPLEMENTED, Kind.INVALID)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a token is for; an entry that changes in one of these needs another token."""

    entry_id: str
    spiffe_id: SpiffeId
    ttl: timedelta | None
    revision: int
    """Of the entry: its claims are not known here, but change with it."""
    audience: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Kept:
    svid: JwtSvid
    renew_at: datetime


class JwtSvids:
    """Hands out tokens.  Whether the caller may have them is decided before (``agent.workloads``)."""

    def __init__(
        self, cache: SvidCache, upstream: JwtUpstream, clock: Clock, refresh_bundle: Callable[[], None]
    ) -> None:
        """``refresh_bundle`` asks for the trust bundle to be fetched anew, soon."""
        self._cache = cache
        self._upstream = upstream
        self._clock = clock
        self._refresh_bundle = refresh_bundle
        self._tokens: OrderedDict[_Wanted, _Kept] = OrderedDict()
        self._asking: WeakValueDictionary[_Wanted, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        """How many tokens are remembered, expired ones among them until they are asked for."""
        return len(self._tokens)

    async def fetch(self, entry: Entry, audience: Sequence[str]) -> JwtSvid:
        """A token of the entry's identity for all of ``audience``, good for at least half of its life if possible.

        Raises: VST1016 (audience), VST2110 (the server is away or refuses), VST2109 (its answer is wrong), VST1303
        (it issues none).
        """
        names = tuple(sorted(check_audience(audience)))
        wanted = _Wanted(entry.id, entry.spiffe_id, entry.jwt_svid_ttl, entry.revision, names)
        if entry.jwt_svid_include_jti:
            # Each such token is told from all others by its jti: handed out twice, it would be refused as a replay.
            return replace(await self._asked_for(wanted), hint=entry.hint)
        lock = self._asking.setdefault(wanted, asyncio.Lock())
        async with lock:  # of many who ask at once, one asks the server
            svid = await self._answer(wanted)
        return replace(svid, hint=entry.hint)

    async def _answer(self, wanted: _Wanted) -> JwtSvid:
        kept = self._usable(wanted)
        if kept is not None and self._clock.now() < kept.renew_at:
            return kept.svid
        try:
            svid = await self._asked_for(wanted)
        except VestibuleError as error:
            if kept is not None and self._usable(wanted) is not None:
                _log.debug("no newer JWT-SVID for %s: %s", wanted.spiffe_id, error)
                return kept.svid
            raise
        self._keep(wanted, svid)
        return svid

    async def _asked_for(self, wanted: _Wanted) -> JwtSvid:
        """A new one; that the server cannot be asked now is told as temporary."""
        try:
            return await self._new(wanted)
        except VestibuleError as error:
            if error.code.kind in _AS_THEY_ARE or error.code is WRONG_SVID:
                raise
            raise JWT_NOT_ISSUED.error(f"no JWT-SVID for {wanted.spiffe_id}: {error.message}") from error

    def _usable(self, wanted: _Wanted) -> _Kept | None:
        kept, bundle = self._tokens.get(wanted), self._cache.bundle
        if kept is None or bundle is None or kept.svid.expires_at <= self._clock.now():
            return None
        # A tainted key's tokens are dropped at once: its revocation may follow within seconds.
        if all(each.key_id != kept.svid.key_id or each.tainted for each in bundle.jwt_authorities):
            del self._tokens[wanted]
            return None
        if revoked_token(self._cache.revocations, kept.svid, self._clock.now()) is not None:
            del self._tokens[wanted]
            return None
        self._tokens.move_to_end(wanted)
        return kept

    def _keep(self, wanted: _Wanted, svid: JwtSvid) -> None:
        now = self._clock.now()
        self._tokens[wanted] = _Kept(svid, now + (svid.expires_at - now) / 2)
        self._tokens.move_to_end(wanted)
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)

    async def _new(self, wanted: _Wanted) -> JwtSvid:
        token = await self._upstream.new_jwt_svid(wanted.entry_id, wanted.audience)
        try:
            return self._checked(token, wanted)
        except VestibuleError as error:
            if error.code is not JWT_NOT_TRUSTED:
                raise _wrong(error) from error
        # The server may have begun to sign with a key that we have not been told of yet.
        await self._next_bundle()
        try:
            return self._checked(token, wanted)
        except VestibuleError as error:
            raise _wrong(error) from error

    async def _next_bundle(self) -> None:
        before = self._cache.now.bundle
        self._refresh_bundle()
        try:
            async with asyncio.timeout(BUNDLE_PATIENCE):
                while self._cache.now.bundle == before:
                    await self._cache.changed.after(self._cache.changed.version)
        except TimeoutError:
            return

    def _checked(self, token: str, wanted: _Wanted) -> JwtSvid:
        """The token, if it is what was asked for and valid under our bundle."""
        bundle, revocations = self._cache.bundle, self._cache.revocations
        now = self._clock.now()
        svid = verify_unrevoked_token(token, wanted.audience, lambda _: bundle, now, revocations)
        if svid.spiffe_id != wanted.spiffe_id or set(svid.audience) != set(wanted.audience):
            raise WRONG_SVID.error(
                f"the server returned a JWT-SVID of {svid.spiffe_id} for {wanted.spiffe_id}"
            )
        return svid


def _wrong(error: VestibuleError) -> VestibuleError:
    if error.code is WRONG_SVID:
        return error
    return WRONG_SVID.error(f"the server's answer is not a valid JWT-SVID: {error.message}")
