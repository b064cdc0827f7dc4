"""The files of X.509-SVIDs: what counts of what the Workload API says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

from vestibule.calls.workload_api import X509Context
from vestibule.clock import Clock
from vestibule.errors import VestibuleError
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.revocation import revoked
from vestibule.sdk.codes import NO_SVID
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.board import X509, Board
from vestibule.sdk.files.codes import HINT_UNKNOWN
from vestibule.sdk.files.contents import Layout
from vestibule.sdk.source import X509Source, first_svid
from vestibule.spiffe import Revocations, X509Svid

_LOOK: Final = 1.0
"""Seconds between looks at whether the identity still counts."""


class X509Follower:
    """Keeps one part of the board current."""

    def __init__(self, board: Board, layout: Layout, endpoint: Endpoint, clock: Clock) -> None:
        self._board = board
        self._layout = layout
        self._endpoint = endpoint
        self._clock = clock
        self._shown: X509Context | None = None
        self._lost = False

    async def run(self) -> None:
        """Follow.  Raises: what no waiting would mend."""
        source = X509Source(str(self._endpoint), patience=math.inf, pick=self._pick, clock=self._clock)
        async with source, asyncio.TaskGroup() as tasks:
            changed = asyncio.Event()
            tasks.create_task(_set_at_changes(source, changed), name="svid-files-changes")
            while True:
                self._judge(source)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await changed.wait()
                        changed.clear()

    def put(self, context: X509Context) -> None:
        """Put this on the board.  Raises: VST2452, errors of ``pki.chains``."""
        self._show(self._good(context, Revocations()))

    def _pick(self, svids: Sequence[X509Svid]) -> X509Svid:
        hinted = (svid for svid in svids if svid.hint == self._layout.hint)
        return next(hinted, first_svid(svids)) if self._layout.hint else first_svid(svids)

    def _judge(self, source: X509Source) -> None:
        """Whether what the source holds is what the files hold, and still counts."""
        try:
            good = self._good(source.context, source.revocations)
            if good == self._shown:
                self._board.fine(X509)
            else:
                self._show(good)
        except VestibuleError as error:
            # An identity that is not among those of the newest answer is withdrawn (SPIFFE_Workload_API.md, 4.4).
            if error.code in (NO_SVID, HINT_UNKNOWN):
                self._board.withdraw(X509, error)
                self._shown, self._lost = None, True
            else:
                self._board.note(X509, error)

    def _show(self, context: X509Context) -> None:
        self._board.put(X509, self._layout.x509_files(context, self._clock.now()))
        self._shown = context
        if self._lost:
            self._lost = False
            self._board.come_back()

    def _good(self, context: X509Context, revocations: Revocations) -> X509Context:
        """The context with the SVIDs that get files, and would be believed.

        Raises: VST2402 (all of them are revoked), VST2452, errors of ``pki.chains``.
        """
        now = self._clock.now()
        if self._layout.is_named:
            context = replace(context, svids=(self._layout.chosen(context),))
        good = _unrevoked(context.svids, revocations, now)
        for svid in good:
            verify_x509_svid(svid.chain, context.bundle_of(svid), now)
        self._board.expires = min(svid.not_after for svid in good)
        return replace(context, svids=good)


def _unrevoked(svids: Sequence[X509Svid], revocations: Revocations, now: datetime) -> tuple[X509Svid, ...]:
    reasons = {svid: revoked(revocations, svid.chain, now) for svid in svids}
    good = tuple(svid for svid, reason in reasons.items() if reason is None)
    if not good:
        svid, reason = next(iter(reasons.items()))
        raise NO_SVID.error(f"the SVID of {svid.spiffe_id} does not count any more: {reason}")
    return good


async def _set_at_changes(source: X509Source, changed: asyncio.Event) -> None:
    async for _ in source.changes():
        changed.set()
