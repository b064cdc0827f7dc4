"""The files of JWT-SVIDs, and of the keys that verify them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.calls.workload_api import WorkloadApi
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.board import JWT_BUNDLE, Board
from vestibule.sdk.files.codes import HINT_UNKNOWN
from vestibule.sdk.files.contents import JwtFile, Layout
from vestibule.spiffe import TrustBundle

_PAUSE_FIRST: Final = 1.0
_PAUSE_LONGEST: Final = 60.0
_SHORTEST: Final = timedelta(seconds=1)


class JwtFollower:
    """Keeps the parts of tokens current: each is renewed at half of its life."""

    def __init__(self, board: Board, layout: Layout, endpoint: Endpoint, clock: Clock) -> None:
        self._board = board
        self._layout = layout
        self._endpoint = endpoint
        self._clock = clock

    def jobs(self) -> Iterator[Coroutine[Any, Any, None]]:
        """One for each file, each until cancelled."""
        for jwt in self._layout.jwts:
            yield self._again_and_again(jwt.name, partial(self._tokens, jwt))
        if self._layout.jwt_bundle:
            yield self._again_and_again(JWT_BUNDLE, self._bundles)

    async def put(self, api: WorkloadApi) -> None:
        """Put everything on the board once.  Raises: what the Workload API refuses with, VST2452."""
        for jwt in self._layout.jwts:
            svids = await api.fetch_jwt_svids(jwt.audience)
            self._board.put(jwt.name, (self._layout.jwt_file(jwt, svids),))
        if self._layout.jwt_bundle:
            await self._put_bundles(await api.fetch_jwt_bundles(), api)

    async def _tokens(self, jwt: JwtFile, api: WorkloadApi) -> AsyncGenerator[None, None]:
        while True:
            svids = await api.fetch_jwt_svids(jwt.audience)
            self._board.put(jwt.name, (self._layout.jwt_file(jwt, svids),))
            yield
            now = self._clock.now()
            half = (min(svid.expires_at for svid in svids) - now) / 2
            await self._unless_regained(self._clock.sleep_until(now + max(half, _SHORTEST)))

    async def _bundles(self, api: WorkloadApi) -> AsyncGenerator[None, None]:
        async with aclosing(api.watch_jwt_bundles()) as answers:
            async for bundles in answers:
                await self._put_bundles(bundles, api)
                yield
        raise UNREACHABLE.error("the Workload API ended the stream")

    async def _put_bundles(self, bundles: Sequence[TrustBundle], api: WorkloadApi) -> None:
        own = None
        if len(bundles) > 1 and not self._layout.federated and not self._layout.jwt_bundle_of_helper:
            # Where nobody says which one is ours, the answer is a map of all of them.
            with suppress(VestibuleError):
                own = (await api.fetch()).svids[0].spiffe_id.trust_domain
        self._board.put(JWT_BUNDLE, (self._layout.jwt_bundle_file(bundles, own),))

    async def _again_and_again(
        self, part: str, following: Callable[[WorkloadApi], AsyncGenerator[None, None]]
    ) -> None:
        channel = self._endpoint.channel()
        pause = _PAUSE_FIRST
        try:
            while True:
                try:
                    async with aclosing(following(WorkloadApi(channel))) as steps:
                        async for _ in steps:
                            pause = _PAUSE_FIRST
                except VestibuleError as error:
                    taken = status_of(error) is Status.PERMISSION_DENIED or error.code is HINT_UNKNOWN
                    (self._board.withdraw if taken else self._board.note)(part, error)
                await self._unless_regained(asyncio.sleep(pause))
                pause = min(pause * 2, _PAUSE_LONGEST)
        finally:
            channel.close()

    async def _unless_regained(self, wait: Coroutine[Any, Any, None]) -> None:
        """Wait, or until an identity that was gone is back: its tokens are then to be had again."""
        tasks = {asyncio.create_task(each) for each in (wait, _until(self._board.regained))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def status_of(error: VestibuleError) -> Status | None:
    """How the Workload API refused; None where it did not get as far as that."""
    return error.__cause__.status if isinstance(error.__cause__, GRPCError) else None
