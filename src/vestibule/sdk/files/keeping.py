"""Keeping the files current: every source of what stands in them, one writer, one who tells the readers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from vestibule.calls.workload_api import WorkloadApi, X509Context
from vestibule.clock import Clock, SystemClock
from vestibule.errors import VestibuleError
from vestibule.net.codes import UNREACHABLE
from vestibule.pki.chains import verify_x509_svid
from vestibule.pki.revocation import revoked
from vestibule.sdk.codes import NO_SVID
from vestibule.sdk.endpoint import Endpoint
from vestibule.sdk.files.contents import File, JwtFile, Layout
from vestibule.sdk.files.directory import FileDirectory
from vestibule.sdk.files.reload import OnFailure, Reload
from vestibule.sdk.source import X509Source, first_svid
from vestibule.spiffe import JwtSvid, Revocations, TrustBundle, X509Svid

X509: Final = "x509"
JWT_BUNDLE: Final = "jwt-bundle"
RELOAD: Final = "reload"

_GRACE: Final = 5.0
"""Seconds that the first files wait for tokens and bundles, so that a restart takes none of them away for a moment."""

_LOOK: Final = 1.0
"""Seconds between looks at whether the identity still counts."""

_PAUSE_FIRST: Final = 1.0
_PAUSE_LONGEST: Final = 60.0
_SHORTEST: Final = timedelta(seconds=1)
_NOT_YET: Final = "not written yet"
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Standing:
    """How it stands, part by part: an empty text where all is well, else what is wrong."""

    parts: dict[str, str] = field(default_factory=dict)
    expires: datetime | None = None


class Keeper:
    """Writes what the Workload API gives into a directory that is entered."""

    def __init__(
        self,
        layout: Layout,
        directory: FileDirectory,
        endpoint: Endpoint,
        *,
        reload: Reload | None = None,
        keep_withdrawn: bool = False,
        clock: Clock | None = None,
        on_written: Callable[[Sequence[Path]], None] = lambda _paths: None,
    ) -> None:
        """With ``keep_withdrawn``, keys of an identity that was taken away stay until somebody removes them."""
        self._layout = layout
        self._directory = directory
        self._endpoint = endpoint
        self._reload = reload or Reload()
        self._keep_withdrawn = keep_withdrawn
        self._clock = clock or SystemClock()
        self._on_written = on_written
        self._files: dict[str, tuple[File, ...]] = {}
        self._changed = asyncio.Event()
        self._placed = asyncio.Event()
        self._untold = asyncio.Event()
        self._news = False
        self._shown: X509Context | None = None
        wanted = [X509] if layout.has_x509 else []
        wanted += [jwt.name for jwt in layout.jwts] + ([JWT_BUNDLE] if layout.jwt_bundle else [])
        self.standing = Standing(dict.fromkeys(wanted, _NOT_YET))

    # ------------------------------------------------------------------------------------------ once

    async def once(self, patience: float = 0.0) -> None:
        """Write everything once, and tell once.

        For ``patience`` seconds what is not there yet is asked for again: an agent that starts, an entry that comes.
        Raises: what the Workload API refuses with, VST2300, VST2450, VST2452, VST2454.
        """
        deadline = asyncio.get_running_loop().time() + patience
        pause = 0.1
        while True:
            try:
                await self._fetch_all()
                break
            except VestibuleError as error:
                if _is_hopeless(error) or asyncio.get_running_loop().time() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)
        await self._place()
        if self._reload.is_needed:
            await self._reload.tell()

    async def _fetch_all(self) -> None:
        channel = self._endpoint.channel()
        try:
            async with asyncio.timeout(30):
                api = WorkloadApi(channel)
                if self._layout.has_x509:
                    self._files[X509] = self._x509_files(await api.fetch(), Revocations())
                for jwt in self._layout.jwts:
                    self._files[jwt.name] = (self._layout.jwt_file(jwt, await _tokens(api, jwt)),)
                if self._layout.jwt_bundle:
                    self._files[JWT_BUNDLE] = (await self._bundle_file(await api.fetch_jwt_bundles(), api),)
        except TimeoutError as error:
            raise UNREACHABLE.error(f"{self._endpoint} did not answer within 30 s") from error
        finally:
            channel.close()

    # ---------------------------------------------------------------------------------------- following

    async def follow(self) -> None:
        """Keep everything current until cancelled.  Raises: VST2454, where that is to end it; what cannot be mended."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(), name="svid-files-write")
                tasks.create_task(self._tell(), name="svid-files-tell")
                if self._layout.has_x509:
                    tasks.create_task(self._follow_x509(), name="svid-files-x509")
                for jwt in self._layout.jwts:
                    tasks.create_task(self._follow_token(jwt), name="svid-files-jwt")
                if self._layout.jwt_bundle:
                    tasks.create_task(self._follow_jwt_bundles(), name="svid-files-jwt-bundles")
        except BaseExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            await self._reload.close()

    @property
    def placed(self) -> asyncio.Event:
        """Set once all files have been put in place."""
        return self._placed

    @property
    def is_ready(self) -> bool:
        """Whether all files are in place and current, and everybody was told."""
        pending = self._changed.is_set() or self._untold.is_set()
        return self._placed.is_set() and not pending and not any(self.standing.parts.values())

    def _put(self, part: str, files: tuple[File, ...]) -> None:
        self.standing.parts[part] = ""
        if files != self._files.get(part):
            self._files[part] = files
            self._news = self._news or part == X509
            self._changed.set()

    def _lose(self, part: str, error: VestibuleError, *, gone: bool) -> None:
        """Something cannot be had; where it was taken away (``gone``), what was secret of it goes."""
        self._note(part, error)
        kept = tuple(file for file in self._files.get(part, ()) if not file.secret)
        if gone and not self._keep_withdrawn and kept != self._files.get(part, ()):
            _log.warning("the identity was taken away: its private keys and tokens are removed")
            self._files[part] = kept
            self._changed.set()

    def _note(self, part: str, error: VestibuleError) -> None:
        before, self.standing.parts[part] = self.standing.parts.get(part, ""), str(error)
        level = logging.DEBUG if before.startswith(error.code.code) else logging.WARNING
        _log.log(level, "%s: %s (%s)", part, error, error.advice)

    # ------------------------------------------------------------------------------------- what is written

    async def _write(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                while set(self.standing.parts) - set(self._files) - {RELOAD}:
                    await self._next_change()
        if self._files:
            self._changed.set()
        while True:
            await self._next_change()
            await _until_done(self._place, self._note_place, self._changed)

    async def _next_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _note_place(self, error: VestibuleError) -> None:
        self._note("files", error)

    async def _place(self) -> None:
        news, self._news = self._news, False
        try:
            files = list(chain.from_iterable(self._files.values()))
            written = await asyncio.to_thread(self._directory.place, files)
        except BaseException:
            self._news = news or self._news
            raise
        self.standing.parts.pop("files", None)
        if not set(self.standing.parts) - set(self._files) - {RELOAD}:
            self._placed.set()
        self._on_written(written)
        if news and self._reload.is_needed:
            self._untold.set()

    async def _tell(self) -> None:
        while True:
            await self._untold.wait()
            self._untold.clear()
            if self._reload.on_failure is OnFailure.RETRY:
                await _until_done(self._tell_once, self._note_reload, self._untold)
                continue
            try:
                await self._tell_once()
            except VestibuleError as error:
                if self._reload.on_failure is OnFailure.EXIT:
                    raise
                self._note_reload(error)

    def _note_reload(self, error: VestibuleError) -> None:
        self._note(RELOAD, error)

    async def _tell_once(self) -> None:
        await self._reload.tell()
        self.standing.parts.pop(RELOAD, None)

    # ------------------------------------------------------------------------------------------- X.509

    async def _follow_x509(self) -> None:
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

    def _pick(self, svids: Sequence[X509Svid]) -> X509Svid:
        hinted = (svid for svid in svids if svid.hint == self._layout.hint)
        return next(hinted, first_svid(svids)) if self._layout.hint else first_svid(svids)

    def _judge(self, source: X509Source) -> None:
        """Whether what the source holds is what the files hold, and still counts."""
        try:
            context = source.context
        except VestibuleError as error:
            self._lose(X509, error, gone=True)
            self._shown = None
            return
        try:
            if context is self._shown:
                self._check(context, source.revocations)
                self.standing.parts[X509] = ""
                return
            self._put(X509, self._x509_files(context, source.revocations))
            self._shown = context
        except VestibuleError as error:
            self._lose(X509, error, gone=error.code is NO_SVID)
            self._shown = self._shown if error.code is not NO_SVID else None

    def _x509_files(self, context: X509Context, revocations: Revocations) -> tuple[File, ...]:
        self._check(context, revocations)
        return self._layout.x509_files(context, self._clock.now())

    def _check(self, context: X509Context, revocations: Revocations) -> None:
        """Raises: VST2402 (revoked), errors of ``pki.chains`` (it would not be believed by anybody)."""
        shown = self._layout.shown(context)
        self.standing.expires = min(svid.not_after for svid in shown)
        now = self._clock.now()
        for svid in shown:
            if (revocation := revoked(revocations, svid.chain, now)) is not None:
                raise NO_SVID.error(f"the SVID of {svid.spiffe_id} does not count any more: {revocation}")
            verify_x509_svid(svid.chain, context.bundle_of(svid), now)

    # --------------------------------------------------------------------------------------------- JWT

    async def _follow_token(self, jwt: JwtFile) -> None:
        async def renewed(api: WorkloadApi) -> AsyncGenerator[None, None]:
            while True:
                svids = await _tokens(api, jwt)
                self._put(jwt.name, (self._layout.jwt_file(jwt, svids),))
                yield
                now = self._clock.now()
                half = (min(svid.expires_at for svid in svids) - now) / 2
                await self._clock.sleep_until(now + max(half, _SHORTEST))

        await self._again_and_again(jwt.name, renewed)

    async def _follow_jwt_bundles(self) -> None:
        async def followed(api: WorkloadApi) -> AsyncGenerator[None, None]:
            async with aclosing(api.watch_jwt_bundles()) as answers:
                async for bundles in answers:
                    self._put(JWT_BUNDLE, (await self._bundle_file(bundles, api),))
                    yield
            raise UNREACHABLE.error("the Workload API ended the stream")

        await self._again_and_again(JWT_BUNDLE, followed)

    async def _bundle_file(self, bundles: Sequence[TrustBundle], api: WorkloadApi) -> File:
        own = None
        if len(bundles) > 1 and not self._layout.federated and not self._layout.jwt_bundle_of_helper:
            with suppress(
                VestibuleError
            ):  # a map of all of them is the answer where nobody says whose we are
                own = (await api.fetch()).svids[0].spiffe_id.trust_domain
        return self._layout.jwt_bundle_file(bundles, own)

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
                    self._lose(part, error, gone=_status(error) is Status.PERMISSION_DENIED)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _PAUSE_LONGEST)
        finally:
            channel.close()


async def _tokens(api: WorkloadApi, jwt: JwtFile) -> Sequence[JwtSvid]:
    return await api.fetch_jwt_svids(jwt.audience)


async def _set_at_changes(source: X509Source, changed: asyncio.Event) -> None:
    async for _ in source.changes():
        changed.set()


async def _until_done(
    step: Callable[[], Awaitable[None]], note: Callable[[VestibuleError], None], news: asyncio.Event
) -> None:
    """Again with growing pauses until it succeeds; at once where there is something newer to do it with."""
    pause = _PAUSE_FIRST
    while True:
        try:
            await step()
        except VestibuleError as error:
            note(error)
        else:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await news.wait()
                news.clear()
        pause = min(pause * 2, _PAUSE_LONGEST)


def _is_hopeless(error: VestibuleError) -> bool:
    return _status(error) in (Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED)


def _status(error: VestibuleError) -> Status | None:
    return error.__cause__.status if isinstance(error.__cause__, GRPCError) else None


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What was foreseen, if anything was; else all of it."""
    foreseen = group.subgroup(VestibuleError)
    if foreseen is None:
        return group
    found: BaseException = foreseen
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
